"""tests/native/library.cpp, compiled as the kernels in use are, and called with tensors.

The functions of vectors give a tensor for a tensor. The plain forms of the operations, whose
formulas stand in csrc/cpu/*/plain.h, take and give float64.
"""

import ctypes
import functools
import runpy
import subprocess
import tempfile
from pathlib import Path

import setuptools
import torch
from torch import Tensor

import makemore_ext

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests/native/library.cpp"


@functools.cache
def library() -> ctypes.CDLL:
    capability = makemore_ext.build_info()["cpu_capability"].replace("default", "baseline")
    setup, setuptools.setup = setuptools.setup, lambda **_: None
    try:
        build = runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = setup
    flags = [*build["FLAGS"], *build["KERNEL_BUILDS"][capability]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.so"
        flags += ["-shared", f"-DMAKEMORE_EXT_CAPABILITY={capability}", "-o", str(path)]
        subprocess.run([*build["COMPILER"], *flags, str(SOURCE)], check=True)
        return ctypes.CDLL(path)


def _call(name: str, *arguments: Tensor | float | bool | None) -> None:
    def native(argument: Tensor | float | bool | None) -> object:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            return ctypes.c_void_p(argument.data_ptr())
        if isinstance(argument, float):
            return ctypes.c_double(argument)
        if isinstance(argument, bool):
            return ctypes.c_bool(argument)
        return ctypes.c_int64(argument) if argument is not None else ctypes.c_void_p()

    getattr(library(), name)(*map(native, arguments))


def _map(name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x, dtype=dtype)
    _call(name, x, y, x.numel())
    return y


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def exp(x: Tensor) -> Tensor:
    return _map(f"exp_{_name(x.dtype)}", x, x.dtype)


def exp_nonpositive(x: Tensor) -> Tensor:
    return _map(f"exp_nonpositive_{_name(x.dtype)}", x, x.dtype)


def log(x: Tensor) -> Tensor:
    return _map(f"log_{_name(x.dtype)}", x, x.dtype)


def tanh(x: Tensor) -> Tensor:
    return _map(f"tanh_{_name(x.dtype)}", x, x.dtype)


def widen(x: Tensor) -> Tensor:
    return _map(f"widen_{_name(x.dtype)}", x, torch.float32)


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    return _map(f"narrow_{_name(dtype)}", x, dtype)


def plain_batch_norm(
    x: Tensor,
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor | None = None,
    *,
    correction: int,
    eps: float,
    activation: int,
) -> dict[str, Tensor]:
    """Of [N, C, ...]. `statistics` [3, C] are those of evaluation."""
    y, dx = torch.empty_like(x), torch.empty_like(x)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    training = statistics is None
    known = torch.empty(3, x.shape[1], dtype=x.dtype) if training else statistics.clone()
    _call(
        "plain_batch_norm",
        *(x, grad_output, weight, bias),
        *(x.shape[0], x.shape[1], x[0, 0].numel()),
        *(training, float(correction), eps, activation),
        *(known, y, dx, dweight, dbias),
    )
    return {"statistics": known, "y": y, "dx": dx, "dweight": dweight, "dbias": dbias}


def plain_cross_entropy(
    x: Tensor,
    q: Tensor,
    weight: Tensor | None,
    grad_loss: Tensor,
    grad_lse: Tensor,
    *,
    label_smoothing: float,
    lse_square_scale: float,
) -> dict[str, Tensor]:
    """Of [N, C], `q` the probabilities of the target; what comes back is not reduced."""
    loss, lse, dx = torch.empty_like(grad_loss), torch.empty_like(grad_loss), torch.empty_like(x)
    _call(
        "plain_cross_entropy",
        *(x, q, weight, *x.shape, label_smoothing, lse_square_scale),
        *(grad_loss, grad_lse, loss, lse, dx),
    )
    return {"loss": loss, "lse": lse, "dx": dx}


def plain_embedding(grad_output: Tensor, indices: Tensor, vocabulary: int) -> Tensor:
    """The gradient of the table, from that of its rows [tokens, features]."""
    grad_weight = grad_output.new_empty(vocabulary, grad_output.shape[1])
    _call(
        "plain_embedding",
        grad_output,
        indices,
        len(indices),
        vocabulary,
        *grad_weight.shape[1:],
        grad_weight,
    )
    return grad_weight
