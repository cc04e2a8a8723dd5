"""What the operations share of tensors: dtypes, and checks that raise before any kernel starts."""

import os
import sys
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from makemore_ext._native import cuda_architectures

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What elements of this dtype are computed in: float32, or float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def check_floating(name: str, tensor: Tensor) -> None:
    """Raises unless `tensor` is dense, on a device and of a dtype that there are kernels for.

    Raises:
        TypeError: `tensor` is not a tensor.
        NotImplementedError: its dtype, device or layout is not supported.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
    check_device(name, tensor.device)
    if tensor.dtype not in FLOATING:
        allowed = "float16, bfloat16, float32 or float64"
        raise NotImplementedError(f"{name} must be {allowed}, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise NotImplementedError(f"{name} must be a dense tensor, got {tensor.layout}")


def check_device(name: str, device: torch.device) -> None:
    """Raises NotImplementedError unless the kernels were built for this device."""
    if device.type in ("cpu", "meta"):
        return
    if device.type != "cuda":
        raise NotImplementedError(f"{name} must be on the CPU or a CUDA device, got {device}")
    if cuda_architectures is None:
        raise NotImplementedError(
            f"{name} must be on the CPU, as this build of makemore_ext has no CUDA kernels, got "
            f"{device}: build it where there is an nvcc"
        )


def is_dtensor(value: object) -> "TypeGuard[DTensor]":
    """Whether `value` is a DTensor, of which there is none where its module was not imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[size, ...] of what torch.func.vmap maps over `dim`, or has once for all."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def checks_cuda_indices() -> bool:
    """Whether MAKEMORE_EXT_CHECK=1 asks to look at indices on a CUDA device, and to wait for it."""
    return os.environ.get("MAKEMORE_EXT_CHECK") == "1"


def check_indices(name: str, indices: Tensor, size: int, ignore_index: int | None = None) -> None:
    """Raises IndexError, naming the first index outside [0, size) that is not `ignore_index`.

    Copies the answer to the host, which waits for the device.
    """
    indices = indices.long()  # in which no number wraps around
    outside = (indices < 0) | (indices >= size)
    if ignore_index is not None:
        outside &= indices != ignore_index
    if outside.any():
        place = outside.nonzero()[0].tolist()
        value = indices[tuple(place)].item()
        row = place[0] if len(place) == 1 else place
        raise IndexError(f"{name} must hold indices in [0, {size}), got {value} in row {row}")


def describe(tensor: object) -> str:
    """What an error says of an argument that may be a tensor."""
    if not isinstance(tensor, Tensor):
        return repr(tensor)
    return f"{tensor.dtype} {list(tensor.shape)} ({tensor.layout}, {tensor.device})"


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether some elements may share memory, as those of an expanded tensor do."""
    dims = sorted(
        (abs(stride), size)
        for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
        if size > 1
    )
    extent = 1
    for stride, size in dims:
        if stride < extent:
            return tensor.numel() > 0
        extent += (size - 1) * stride
    return False
