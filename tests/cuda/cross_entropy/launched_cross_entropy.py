"""The launchers of csrc/cuda/cross_entropy/cross_entropy.cu called on tensors, see launched.py."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS, Placed, call
from structures import TYPES
from torch import Tensor

RowShape, RowView, Indices = TYPES["RowShape"], TYPES["RowView"], TYPES["Indices"]
Arguments = TYPES["CrossEntropyArguments"]


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


def indices_at(address: int, dtype: torch.dtype) -> Indices:
    return Indices(
        wide=address if dtype == torch.int64 else None,
        narrow=address if dtype == torch.uint8 else None,
    )


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
            target=indices_at(address, target.dtype),
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
