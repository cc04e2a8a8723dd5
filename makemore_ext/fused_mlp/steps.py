"""The two ways in which FusedMLP takes its steps: native code on the CPU, a CUDA graph on a GPU.

Both find the loss and its gradients and descend along them; what they are given has been checked.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from makemore_ext._native import fused_mlp_steps, operators
from makemore_ext._parameters import Sizes
from makemore_ext.ops.batch_norm.options import ACTIVATIONS
from makemore_ext.ops.cross_entropy.options import REDUCTIONS
from makemore_ext.reference import EPS, Parameters

Descent = tuple[float, float]  # momentum and weight decay


class NativeSteps:
    """One native call for all steps, over raw memory; see csrc/cpu/fused_mlp/fused_mlp.cpp."""

    def __init__(self, sizes: Sizes, parameters: Parameters, buffers: Parameters | None) -> None:
        self._parameters, self._buffers = parameters, buffers
        self._native = fused_mlp_steps[parameters.C.dtype](*sizes)
        self._workspace = torch.empty(0, dtype=torch.uint8, device="cpu")
        self._workspace_batch_size = 0

    def loss_and_gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Parameters]:
        gradients = _empty_gradients(self._parameters)
        minibatch = torch.arange(len(y), device="cpu")
        loss = self._native.loss_and_gradients(
            _addresses(self._parameters),
            x.data_ptr(),
            y.data_ptr(),
            minibatch.data_ptr(),
            len(y),
            self._workspace_for(len(y)),
            _addresses(gradients),
        )
        return torch.tensor(loss, dtype=self._parameters.C.dtype, device="cpu"), gradients

    def train(
        self,
        x: Tensor,
        y: Tensor,
        minibatches: Tensor,
        rates: Tensor,
        losses: Tensor,
        descent: Descent,
    ) -> None:
        steps, batch_size = minibatches.shape
        self._native.train(
            _addresses(self._parameters),
            x.data_ptr(),
            y.data_ptr(),
            minibatches.data_ptr(),
            batch_size,
            self._workspace_for(batch_size),
            steps,
            rates.data_ptr(),
            *descent,
            _addresses(self._buffers) if self._buffers else [0] * len(self._parameters),
            losses.data_ptr(),
        )

    def _workspace_for(self, batch_size: int) -> int:
        if batch_size != self._workspace_batch_size:
            size = self._native.workspace_bytes(batch_size)
            self._workspace = torch.zeros(size, dtype=torch.uint8, device="cpu")
            self._workspace_batch_size = batch_size
        return self._workspace.data_ptr()


class GraphSteps:
    """This package's kernels and torch's matrix products, captured once in a CUDA graph.

    Where there is nothing to capture with, or the capture fails, they run one by one.
    """

    def __init__(self, parameters: Parameters, buffers: Parameters | None) -> None:
        self._parameters, self._buffers = parameters, buffers
        self._captured_for: Any = None

    @torch.no_grad()
    def loss_and_gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Parameters]:
        V, D = self._parameters.C.shape
        C, W1, b1, W2, b2, bngain, bnbias = self._parameters
        activation = ACTIVATIONS["tanh"]
        embcat = C[x].view(len(x), -1)
        hprebn = torch.addmm(b1, embcat, W1)
        h, statistics = operators.batch_norm_forward.default(
            hprebn, bngain, bnbias, None, None, True, 1.0, EPS, activation
        )
        logits = torch.addmm(b2, h, W2)
        loss, dlogits = operators.cross_entropy_forward_with_gradient.default(
            logits, y, None, REDUCTIONS["mean"], -100, 0.0, 0.0
        )
        dhprebn, dbngain, dbnbias = operators.batch_norm_backward.default(
            dlogits @ W2.t(), hprebn, bngain, h, statistics, True, 1.0, activation, True, True
        )
        demb = (dhprebn @ W1.t()).view(-1, D)
        gradients = Parameters(
            C=operators.embedding_backward.default(demb, x.reshape(-1), V),
            W1=embcat.t() @ dhprebn,
            b1=torch.zeros_like(b1),  # batch norm subtracts what b1 adds
            W2=h.t() @ dlogits,
            b2=dlogits.sum(0),
            bngain=dbngain,
            bnbias=dbnbias,
        )
        return loss, gradients

    @torch.no_grad()
    def train(
        self,
        x: Tensor,
        y: Tensor,
        minibatches: Tensor,
        rates: Tensor,
        losses: Tensor,
        descent: Descent,
    ) -> None:
        steps, batch_size = minibatches.shape
        device_minibatches = minibatches.to(x.device)
        device_rates = rates.to(x.device, self._parameters.C.dtype)
        step = self._step_for(x, y, batch_size, descent)
        device_losses = torch.empty_like(losses, device=x.device)
        for index in range(steps):
            device_losses[index] = step(device_minibatches[index], device_rates[index])
        losses.copy_(device_losses)

    def _step_for(
        self, x: Tensor, y: Tensor, batch_size: int, descent: Descent
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """One step on the windows with these numbers at this rate; it returns their loss."""

        def step(minibatch: Tensor, rate: Tensor) -> Tensor:
            loss, gradients = self.loss_and_gradients(x[minibatch], y[minibatch])
            self._descend(gradients, rate, *descent)
            return loss

        if x.device.type != "cuda":
            return step
        memory = _addresses((*self._parameters, *(self._buffers or ()), x, y))
        key = (memory, batch_size, descent)
        if self._captured_for != key:
            self._captured = _capture(step, self, x, y, batch_size)
            self._captured_for, self._kept = key, (x, y)  # the graph reads their memory
        return self._captured

    def _descend(
        self, gradients: Parameters, rate: Tensor, momentum: float, weight_decay: float
    ) -> None:
        for index, (parameter, gradient) in enumerate(
            zip(self._parameters, gradients, strict=True)
        ):
            direction = gradient.add(parameter, alpha=weight_decay) if weight_decay else gradient
            if self._buffers is not None:
                direction = self._buffers[index].mul_(momentum).add_(direction)
            parameter.sub_(rate * direction)


def _capture(
    step: Callable[[Tensor, Tensor], Tensor],
    steps: GraphSteps,
    x: Tensor,
    y: Tensor,
    batch_size: int,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The step as one launch of a CUDA graph, or as it is if it cannot be captured."""
    minibatch = torch.zeros(batch_size, dtype=torch.int64, device=x.device)
    rate = torch.zeros((), dtype=steps._parameters.C.dtype, device=x.device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # once outside a graph: libraries allocate at their first call
        steps.loss_and_gradients(x[minibatch], y[minibatch])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            loss = step(minibatch, rate)
    except RuntimeError:
        return step

    def replay(new_minibatch: Tensor, new_rate: Tensor) -> Tensor:
        minibatch.copy_(new_minibatch)
        rate.copy_(new_rate)
        graph.replay()
        return loss

    return replay


def _empty_gradients(parameters: Parameters) -> Parameters:
    return Parameters(*(torch.empty_like(p, requires_grad=False) for p in parameters))


def _addresses(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
