"""What FusedMLP refuses: native code is given addresses, and trusts what they lead to."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from makemore_ext._arguments import as_number
from makemore_ext._parameters import Sizes
from makemore_ext.reference import Parameters

Schedule = Callable[[int], float]


def check_tensors(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Raises ValueError if something unfit was done to the parameters or their momentum."""
    for name, tensor in tensors.items():
        shape = shapes[name]
        if (
            tensor.shape != shape
            or tensor.dtype != dtype
            or tensor.device != device
            or not tensor.is_contiguous()
            or not has_memory(tensor)
        ):
            raise ValueError(
                f"{name} must be a contiguous {dtype} tensor of shape {[*shape]} on "
                f"{device}, got {tensor.dtype} {[*tensor.shape]} of strides "
                f"{[*tensor.stride()]} on {tensor.device}, with "
                f"{tensor.untyped_storage().nbytes()} bytes of storage"
            )


def has_memory(tensor: Tensor) -> bool:
    """Whether the storage, which may have been resized, reaches to the last of the elements."""
    extent = tensor.numel()
    if not tensor.is_contiguous():
        strides = zip(tensor.shape, tensor.stride(), strict=True)
        extent = 1 + sum((size - 1) * stride for size, stride in strides)
    end = (tensor.storage_offset() + extent) * tensor.itemsize
    return end <= tensor.untyped_storage().nbytes()


def check_separate(parameters: Parameters) -> None:
    """Raises ValueError if two parameters share memory: a step would change both for each."""
    ends = sorted(
        (parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes, name)
        for name, parameter in parameters._asdict().items()
    )
    for (_, end, name), (start, _, other) in pairwise(ends):
        if start < end:
            raise ValueError(f"{name} and {other} must not share memory")


def checked_windows(
    x: Tensor,
    y: Tensor,
    sizes: Sizes,
    device: torch.device,
    least: int,
    every_index: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gives x and y, contiguous, if they are windows of these sizes and at least so many.

    Native code looks at the indices of each minibatch; on a device only this does.
    """
    for name, tensor in (("x", x), ("y", y)):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be an int64 Tensor, got {kind}")
        if tensor.device != device or tensor.layout != torch.strided:
            raise ValueError(
                f"{name} must be dense and on {device}, got {tensor.layout} on {tensor.device}"
            )
    V, K, _, _ = sizes
    if y.dim() != 1 or len(y) < least or x.shape != (len(y), K):
        raise ValueError(
            f"x and y must be of shapes [n, {K}] and [n] with n at least {least}, "
            f"got {[*x.shape]} and {[*y.shape]}"
        )
    for name, tensor in (("x", x), ("y", y)):
        if not has_memory(tensor):
            raise ValueError(
                f"{name} must have memory for its elements, got {[*tensor.shape]} in "
                f"{tensor.untyped_storage().nbytes()} bytes of storage"
            )
        if every_index or not tensor.is_cpu:
            _check_indices(name, tensor, V)
    return x.contiguous(), y.contiguous()


def _check_indices(name: str, indices: Tensor, V: int) -> None:
    low, high = (int(bound) for bound in indices.aminmax())
    if low < 0 or high >= V:
        advice = "" if low < 0 else f": a network for them has a vocabulary of {high + 1}"
        raise IndexError(f"{name} must hold indices in [0, {V}), got {low} to {high}{advice}")


def checked_rates(lr: float | Schedule, steps: int) -> Tensor:
    """The learning rate of every step, float64 [steps].

    Raises:
        TypeError: one is no number.
        ValueError: one is not finite, or negative.
    """
    if callable(lr):
        values = [_checked_rate(lr(step), f" at step {step}") for step in range(steps)]
        rates = torch.tensor(values, dtype=torch.float64, device="cpu")
    else:
        rates = torch.full((steps,), _checked_rate(lr), dtype=torch.float64, device="cpu")
    wrong = ~((rates >= 0) & rates.isfinite())
    if wrong.any():
        step = int(wrong.nonzero()[0])
        got = f"{rates[step]:g} at step {step}" if callable(lr) else lr
        raise ValueError(f"lr must be finite and at least 0, got {got}")
    return rates


def _checked_rate(lr: Any, where: str = "") -> float:
    rate = as_number(lr)
    if not isinstance(rate, (int, float)):
        raise TypeError(f"lr must be a number, or a function that gives one, got {lr!r}{where}")
    return rate


def check_like(name: str, tensor: Tensor, own: Tensor) -> None:
    """Raises ValueError unless `tensor` can be copied into the network's own."""
    if not isinstance(tensor, Tensor) or tensor.shape != own.shape or tensor.dtype != own.dtype:
        got = type(tensor).__name__
        if isinstance(tensor, Tensor):
            got = f"{tensor.dtype} {[*tensor.shape]}"
        raise ValueError(f"{name} must be a {own.dtype} Tensor of shape {[*own.shape]}, got {got}")
