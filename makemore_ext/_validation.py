"""Checks that the operations share. Each raises before any kernel starts."""

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64)


def check_floating(name: str, tensor: Tensor) -> None:
    """Raises unless `tensor` is a dense CPU tensor of a dtype the kernels have.

    Raises:
        TypeError: `tensor` is not a tensor.
        NotImplementedError: its dtype, device or layout is not supported.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING:
        raise NotImplementedError(f"{name} must be float32 or float64, got {tensor.dtype}")
    if tensor.device.type not in ("cpu", "meta"):
        raise NotImplementedError(f"{name} must be on the CPU, got {tensor.device}")
    if tensor.layout != torch.strided:
        raise NotImplementedError(f"{name} must be a dense tensor, got {tensor.layout}")


def check_vector(name: str, tensor: Tensor | None, size: int, like: Tensor) -> None:
    """Raises unless `tensor` is None or [size] with the dtype and device of `like`.

    Raises:
        TypeError: `tensor` is neither a tensor nor None.
        ValueError: its shape, dtype or device differs.
    """
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a Tensor or None, got {type(tensor).__name__}")
    if tensor.shape != (size,):
        raise ValueError(f"{name} must have shape [{size}], got {list(tensor.shape)}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device} as input is, "
            f"got {tensor.dtype} on {tensor.device}"
        )
