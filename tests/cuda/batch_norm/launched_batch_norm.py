"""The launchers of csrc/cuda/batch_norm/batch_norm.cu called on tensors, see launched.py."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS, Placed, call
from structures import TYPES
from torch import Tensor

ChannelShape, ChannelView = TYPES["ChannelShape"], TYPES["ChannelView"]
Arguments, Gradients = TYPES["BatchNormArguments"], TYPES["BatchNormGradients"]
FloatingVector, RunningStatistics = TYPES["FloatingVector"], TYPES["RunningStatistics"]


@dataclass(frozen=True)
class Options:
    training: bool = True
    correction: float = 0.0
    eps: float = 1e-5
    activation: int = 0  # 1: tanh, 2: relu
    momentum: float = 0.1


def channel_view(tensor: Tensor, address: int | None) -> ChannelView:
    """Of a tensor [outer, channels, inner]."""
    return ChannelView(address, *tensor.stride())


class BatchNorm:
    """One call's tensors and options, on a device; the methods are the launchers.

    Tensors are [outer, channels, inner], with inner 1 where channels lie side by side. `offset`
    moves all of them off their alignment, `result_offset` the results.
    """

    def __init__(
        self,
        device: Device,
        launchers: Launchers,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        options: Options,
        *,
        offset: int = 0,
        result_offset: int | None = None,
    ) -> None:
        self.device = device
        self._launchers = launchers
        self.dtype = input.dtype
        self._like = input
        self._offset = offset
        self._result_offset = offset if result_offset is None else result_offset
        self._options = options
        self._held = [self._placed(tensor) for tensor in (input, weight, bias)]
        x, w, b = (None if placed is None else placed.address for placed in self._held)
        self.arguments = Arguments(
            shape=ChannelShape(*input.shape),
            input=channel_view(input, x),
            weight=w,
            bias=b,
            training=options.training,
            correction=options.correction,
            eps=options.eps,
            activation=options.activation,
        )

    def _placed(self, tensor: Tensor | None) -> Placed | None:
        if tensor is None:
            return None
        offset = self._offset if tensor.dim() == 3 else 0
        return Placed(self.device, tensor, offset)

    def _result(self) -> Placed:
        # Dense, in the order of the input's dimensions.
        return Placed(self.device, torch.empty_like(self._like), self._result_offset, empty=True)

    def _vector(self) -> Placed:
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return Placed(self.device, torch.empty(self._like.shape[1], dtype=dtype), empty=True)

    def launch(self, name: str, *arguments: Any) -> None:
        size = self._launchers.call(
            self.device, "workspace", NUMBERS[self.dtype], ctypes.byref(self.arguments.shape)
        )
        workspace = self.device.empty(size, np.float64)
        number = NUMBERS[self.dtype]
        call(self._launchers, self.device, name, number, *arguments, workspace)

    def _doubles(self, rows: int) -> Placed:
        """[rows, channels]."""
        like = torch.empty((rows, self._like.shape[1]), dtype=torch.float64)
        return Placed(self.device, like, empty=True)

    def _result_view(self, result: Placed | None) -> ChannelView:
        if result is None:
            return ChannelView()
        return channel_view(torch.empty_like(self._like), result.address)

    def forward(
        self,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        *,
        needs_output: bool = True,
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """output, statistics, and the running statistics afterwards."""
        output = self._result() if needs_output else None
        view = self._result_view(output)
        statistics = self._doubles(3)
        placed = [self._placed(tensor) for tensor in (running_mean, running_var)]
        vectors = [
            FloatingVector()
            if vector is None or tensor is None
            else FloatingVector(vector.address, tensor.stride(0), NUMBERS[tensor.dtype])
            for vector, tensor in zip(placed, (running_mean, running_var), strict=True)
        ]
        running = RunningStatistics(*vectors, self._options.momentum)
        self.launch(
            "forward", ctypes.byref(self.arguments), ctypes.byref(running), statistics.buffer,
            ctypes.byref(view),
        )  # fmt: skip
        after = [None if vector is None else vector.tensor() for vector in placed]
        written = None if output is None else output.tensor()
        return written, statistics.tensor(), after[0], after[1]

    def backward(
        self,
        grad_output: Tensor,
        output: Tensor | None,
        statistics: Tensor,
        *,
        needs_input: bool = True,
        needs_parameters: bool = True,
        needs_sums: bool = False,
        shares: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The gradients of input, weight and bias, and the sums."""
        upstream, activated = self._placed(grad_output), self._placed(output)
        assert upstream is not None
        known = Placed(self.device, statistics)
        of_all = None if shares is None else Placed(self.device, shares)
        sums = self._doubles(2) if needs_sums else None
        grad_input = self._result() if needs_input else None
        weight, bias = (self._vector() if needs_parameters else None for _ in range(2))
        gradients = Gradients(
            channel_view(grad_output, upstream.address),
            ChannelView() if output is None else channel_view(output, activated.address),
            None if of_all is None else of_all.address,
            self._result_view(grad_input),
            *(None if p is None else p.address for p in (weight, bias, sums)),
        )
        self.launch("backward", ctypes.byref(self.arguments), known.buffer, ctypes.byref(gradients))
        return tuple(None if p is None else p.tensor() for p in (grad_input, weight, bias, sums))
