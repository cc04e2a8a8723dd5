"""Checks that several modules share. Each raises before any kernel starts."""

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64)


def check_floating(name: str, tensor: Tensor) -> None:
    """Raises unless `tensor` is a dense CPU tensor of a dtype the kernels have.

    Raises:
        TypeError: `tensor` is not a tensor.
        NotImplementedError: its dtype, device or layout is not supported.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in WIDE:
        raise NotImplementedError(f"{name} must be float32 or float64, got {tensor.dtype}")
    check_device(name, tensor)
    if tensor.layout != torch.strided:
        raise NotImplementedError(f"{name} must be a dense tensor, got {tensor.layout}")


def check_device(name: str, tensor: Tensor) -> None:
    """Raises NotImplementedError unless the kernels were built for the device of `tensor`."""
    if tensor.device.type not in ("cpu", "meta"):
        raise NotImplementedError(f"{name} must be on the CPU, got {tensor.device}")


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


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises ValueError, with what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}: must be {allowed}, got {value!r}")


def is_integer(value: object, minimum: int) -> bool:
    """Whether `value` is an integer of at least `minimum`."""
    return isinstance(value, int) and value >= minimum
