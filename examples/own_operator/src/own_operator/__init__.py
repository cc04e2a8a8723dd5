"""Squared ReLU, max(x, 0)², as one kernel forward and one backward.

The kernels are in csrc/squared_relu.cpp. Here is what torch is to know of them: shapes, derivatives
and batching; and the function for users.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_library = find_spec("own_operator._C")
if _library is None or _library.origin is None:
    raise ImportError("own_operator._C is not built: run `pip install --no-build-isolation .`")
torch.ops.load_library(_library.origin)

_forward = torch.ops.own_operator.squared_relu.default
_backward = torch.ops.own_operator.squared_relu_backward.default

# ---- shapes, for torch.compile and torch.export: what a kernel returns, without its values ----


@torch.library.register_fake("own_operator::squared_relu")
def _(input: Tensor) -> Tensor:
    return torch.empty_like(input, memory_format=torch.contiguous_format)


@torch.library.register_fake("own_operator::squared_relu_backward")
def _(grad_output: Tensor, input: Tensor) -> Tensor:
    return torch.empty_like(input, memory_format=torch.contiguous_format)


# ---- derivatives: y = max(x, 0)² and dx = 2 max(x, 0) dy ----


class SquaredReLU(torch.autograd.Function):
    """apply(x) -> y."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
        return SquaredReLUBackward.apply(dy, *ctx.saved_tensors)


class SquaredReLUBackward(torch.autograd.Function):
    """apply(dy, x) -> dx, which is linear in dy."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dy: Tensor, x: Tensor) -> Tensor:
        return _backward(dy, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        dy, x = ctx.saved_tensors
        return SquaredReLUBackward.apply(ddx, x), torch.where(x > 0, 2 * dy * ddx, 0)


# ---- batching, for torch.func.vmap: one call for the whole batch ----


@torch.library.register_vmap("own_operator::squared_relu")
def _(info: Any, in_dims: tuple[int], input: Tensor) -> tuple[Tensor, int]:
    return _forward(input), in_dims[0]


@torch.library.register_vmap("own_operator::squared_relu_backward")
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
    batched = [
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(inputs, in_dims, strict=True)
    ]
    return _backward(*batched), 0


# ---- for users ----

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def squared_relu(input: Tensor) -> Tensor:
    """max(input, 0)², of each element.

    Args:
        input: of any shape and strides; float16, bfloat16, float32 or float64, on the CPU.

    Returns:
        A contiguous tensor of the shape and dtype of `input`.

    Raises:
        NotImplementedError: there is no kernel for the dtype or the device.
        TypeError: `input` is no Tensor.
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a Tensor, got {type(input).__name__}")
    if input.dtype not in _DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise NotImplementedError(f"input must be one of {names}, got {input.dtype}")
    if input.device.type not in ("cpu", "meta"):
        raise NotImplementedError(f"input must be on the CPU, got {input.device}")
    return SquaredReLU.apply(input)
