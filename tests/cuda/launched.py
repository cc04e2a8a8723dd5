"""The launchers of csrc/cuda called on tensors, with the bench in place of a device.

Tensors are copied to the bench's memory and back; what a kernel leaves unwritten, or reads before
it is written, is a fault.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda_bench.launchers import INCLUDE, Launchers
from torch import Tensor

from cuda_bench import Buffer, Device, toolkit

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = Path(__file__).parent / "launchers"
NUMBERS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
TYPES = dict(zip(NUMBERS, ("Half", "BFloat16", "float", "double"), strict=True))
MOST_ROW_DIMENSIONS = 8
STREAM = 0x5EA  # any handle: launches must be on it

needs_nvcc = pytest.mark.skipif(toolkit.missing() is not None, reason=str(toolkit.missing()))


class RowShape(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("classes", ctypes.c_int64),
        ("dimensions", ctypes.c_int),
        ("sizes", ctypes.c_int64 * MOST_ROW_DIMENSIONS),
    )


class RowView(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("class_stride", ctypes.c_int64),
        ("strides", ctypes.c_int64 * MOST_ROW_DIMENSIONS),
    )


class Arguments(ctypes.Structure):
    """CrossEntropyArguments of csrc/arguments.h, which has one layout for all dtypes."""

    _fields_ = (
        ("shape", RowShape),
        ("logits", RowView),
        ("wide", ctypes.c_void_p),
        ("narrow", ctypes.c_void_p),
        ("probabilities", RowView),
        ("has_probabilities", ctypes.c_bool),
        ("weight", ctypes.c_void_p),
        ("ignore_index", ctypes.c_int64),
        ("label_smoothing", ctypes.c_double),
        ("lse_square_scale", ctypes.c_double),
        ("reduction", ctypes.c_int64),
    )


def launchers(
    name: str,
    dtypes: Sequence[torch.dtype] = tuple(NUMBERS),
    csrc: Path = CSRC,
    device_csrc: Path | None = None,
    architecture: str = "8.0",
) -> Launchers:
    """tests/cuda/launchers/<name>.cu for some dtypes, perhaps with other sources below it.

    With `device_csrc` those are of the device code alone.
    """
    source = SOURCES / f"{name}.cu"
    defines = " ".join(f"define({TYPES[dtype]})" for dtype in dtypes)
    flags = [f"-DMAKEMORE_EXT_CUDA_DTYPES(define)={defines}"]
    kernels = device_csrc and toolkit.compile_ptx(
        source, flags=flags, include=[device_csrc, INCLUDE]
    )
    return Launchers(source, architecture, flags=flags, include=[csrc, INCLUDE], kernels=kernels)


class Unrun(Device):
    """Runs no kernel, and its arrays are zeros: what is launched is all there is to see."""

    def empty(self, shape: Any, dtype: Any, *, offset: int = 0) -> Buffer:
        return self.array(np.zeros(shape, dtype), offset=offset)

    def launch(self, *_: Any, **__: Any) -> None:
        pass


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _dtype(dtype: torch.dtype) -> Any:
    return (
        np.dtype(np.uint16)
        if dtype == torch.bfloat16
        else _numpy(torch.empty(0, dtype=dtype)).dtype
    )


class Placed:
    """A tensor in the bench's memory, with the gaps of its layout, `offset` elements unaligned."""

    def __init__(self, device: Device, tensor: Tensor, offset: int = 0, *, empty: bool = False):
        self._like = tensor
        extent = sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        self._count = 0 if tensor.numel() == 0 else extent + 1
        storage = torch.as_strided(tensor, (self._count,), (1,))
        if empty:
            self.buffer: Buffer = device.empty(self._count, _dtype(tensor.dtype), offset=offset)
        else:
            self.buffer = device.array(_numpy(storage), offset=offset)

    @property
    def address(self) -> int:
        return self.buffer.address

    def tensor(self) -> Tensor:
        """What is there now; reading what nothing wrote is a fault, in the gaps it is allowed."""
        dense = self._count == self._like.numel()
        values = torch.from_numpy(self.buffer.numpy(allow_unwritten=not dense).copy())
        if self._like.dtype == torch.bfloat16:
            values = values.view(torch.bfloat16)
        return torch.as_strided(values, self._like.shape, self._like.stride())


def class_dim(tensor: Tensor) -> int:
    return 0 if tensor.dim() == 1 else 1


def row_dims(tensor: Tensor) -> list[int]:
    return [dim for dim in range(tensor.dim()) if dim != class_dim(tensor)]


def row_shape(tensor: Tensor) -> RowShape:
    sizes = [tensor.shape[dim] for dim in row_dims(tensor)]
    rows = int(np.prod(sizes, dtype=np.int64))
    return RowShape(rows, tensor.shape[class_dim(tensor)], len(sizes), tuple(sizes))


def row_view(tensor: Tensor, address: int) -> RowView:
    strides = tuple(tensor.stride(dim) for dim in row_dims(tensor))
    return RowView(address, tensor.stride(class_dim(tensor)), strides)


def call(
    launchers: Launchers, device: Device, name: str, *arguments: Any, check: bool = True
) -> None:
    """Calls a launcher of tests/cuda/launchers on STREAM; RuntimeError with what it throws."""
    code = launchers.call(device, name, *arguments, ctypes.c_void_p(STREAM), check=check)
    assert {launch.stream for launch in launchers.launched} <= {STREAM}
    if code:
        text = ctypes.create_string_buffer(1000)
        launchers.call(device, "message", text, len(text))
        raise RuntimeError(text.value.decode())


def workspaces_lack(
    launchers: Launchers, dtype: torch.dtype, shapes: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """The bytes by which the workspace of each shape, a row, is too small: at most 0 if it is not.

    The launchers are called in C++, with nothing behind their pointers, and no kernel runs.
    """
    bytes = np.full(len(shapes), 2**62)
    arguments = (NUMBERS[dtype], shapes.ctypes.data, len(shapes), bytes.ctypes.data)
    assert launchers.call(Device(), "workspaces_lack", *arguments) == 0
    return bytes


class CrossEntropy:
    """One call's tensors and options, on a device; the methods are the launchers."""

    def __init__(
        self,
        device: Device,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        reduction: int = 1,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        lse_square_scale: float = 0.0,
        offset: int = 0,
        gradient_offset: int = 0,
        gradient: Tensor | None = None,
    ) -> None:
        self.device = device
        self.dtype = logits.dtype
        self.compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self.logits = Placed(device, logits, offset)
        self._target = Placed(device, target)
        self._weight = None if weight is None else Placed(device, weight)
        self._like = logits
        self._gradient_like = torch.empty_like(logits) if gradient is None else gradient
        self._gradient_offset = gradient_offset
        self.shape = row_shape(logits)
        self.reduction = reduction
        is_probabilities = target.is_floating_point()
        address = self._target.address
        self.arguments = Arguments(
            shape=self.shape,
            logits=row_view(logits, self.logits.address),
            wide=address if target.dtype == torch.int64 else None,
            narrow=address if target.dtype == torch.uint8 else None,
            probabilities=row_view(target, address) if is_probabilities else RowView(),
            has_probabilities=is_probabilities,
            weight=None if self._weight is None else self._weight.address,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            lse_square_scale=lse_square_scale,
            reduction=reduction,
        )

    def _call(self, launchers: Launchers, name: str, *arguments: Any) -> None:
        call(launchers, self.device, name, NUMBERS[self.dtype], *arguments)

    def _rows(self) -> tuple[int, ...]:
        return tuple(self._like.shape[dim] for dim in row_dims(self._like))

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Placed:
        return Placed(self.device, torch.empty(shape, dtype=dtype), empty=True)

    def _fresh_gradient(self) -> Placed:
        return Placed(self.device, self._gradient_like, self._gradient_offset, empty=True)

    def forward(
        self, launchers: Launchers, *, with_gradient: bool = False, keep_statistics: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """loss, statistics, total_weight and gradient; empty where not asked for."""
        loss = self._empty(() if self.reduction else self._rows(), self.compute)
        statistics = self._empty((3, *self._rows()), torch.float64)
        total = self._empty((), torch.float64)
        gradient = self._fresh_gradient() if with_gradient else None
        view = RowView() if gradient is None else row_view(self._gradient_like, gradient.address)
        size = launchers.call(self.device, "workspace", ctypes.byref(self.shape))
        workspace = self.device.empty(size, np.float64)
        self._call(
            launchers, "forward", ctypes.byref(self.arguments), loss.buffer,
            statistics.buffer if keep_statistics else None, total.buffer, ctypes.byref(view),
            workspace,
        )  # fmt: skip
        none = torch.empty(0)
        return (
            loss.tensor(),
            statistics.tensor() if keep_statistics else none,
            total.tensor(),
            none if gradient is None else gradient.tensor(),
        )

    def backward(
        self,
        launchers: Launchers,
        statistics: Tensor,
        total: Tensor,
        grad_output: Tensor,
        grad_lse: Tensor | None = None,
        *,
        in_place: bool = False,
    ) -> Tensor:
        """The gradient, of this upstream gradient."""
        gradient = self.logits if in_place else self._fresh_gradient()
        view = row_view(self._like if in_place else self._gradient_like, gradient.address)
        upstream = Placed(self.device, grad_output)
        lse_upstream = None if grad_lse is None else Placed(self.device, grad_lse).buffer
        self._call(
            launchers, "backward", ctypes.byref(self.arguments), upstream.buffer,
            1 if self.reduction == 0 else 0, lse_upstream, Placed(self.device, statistics).buffer,
            Placed(self.device, total).buffer, ctypes.byref(view),
        )  # fmt: skip
        return gradient.tensor()


class Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("column_stride", ctypes.c_int64),
    )

    @classmethod
    def of(cls, placed: Placed, tensor: Tensor) -> Matrix:
        return cls(placed.address, *tensor.shape, *tensor.stride())


def embedding_backward(
    launchers: Launchers, device: Device, grad_output: Tensor, indices: Tensor, vocabulary: int,
    offset: int = 0,
) -> Tensor:  # fmt: skip
    """The gradient of a table [vocabulary, features]; sorts the indices as the operator does."""
    features = grad_output.shape[1]
    sorted_indices, order = indices.sort(stable=True)
    like = torch.empty(vocabulary, features, dtype=grad_output.dtype)
    upstream, result = Placed(device, grad_output, offset), Placed(device, like, empty=True)
    size = launchers.call(device, "workspace", len(indices), features)
    compute = np.float64 if grad_output.dtype == torch.float64 else np.float32
    call(
        launchers, device, "backward", NUMBERS[grad_output.dtype],
        ctypes.byref(Matrix.of(upstream, grad_output)), Placed(device, sorted_indices).buffer,
        Placed(device, order).buffer, ctypes.byref(Matrix.of(result, like)),
        device.empty(size, compute),
    )  # fmt: skip
    return result.tensor()
