"""The network, its parameters and its training, over either kind of steps."""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from makemore_ext._arguments import checked_integer, checked_number, require
from makemore_ext._interrupt import deferred_interrupt
from makemore_ext._parameters import initialize, shapes, sizes_of
from makemore_ext.fused_mlp.checks import (
    Schedule,
    check_like,
    check_separate,
    check_tensors,
    checked_rates,
    checked_windows,
)
from makemore_ext.fused_mlp.steps import GraphSteps, NativeSteps
from makemore_ext.ops.tensors import check_device
from makemore_ext.reference import Parameters

# The arithmetic of one native call of `train`, between two of which it can be interrupted: some
# 20 ms of it.
BLOCK_OPERATIONS = 1e9

MOMENTUM = "momentum."  # before a parameter's name: its momentum buffer

Callback = Callable[[int, Tensor], None]


class FusedMLP:
    """Embedding, linear, batch norm, tanh, linear and cross entropy, trained by native code.

    A step finds the loss and its gradients and descends along them, in memory that is allocated
    once for a minibatch size; on a CUDA device it is captured once in a graph. The parameters are
    ordinary tensors, changed in place. With V characters, K of them in a context, D embedding
    dimensions and H hidden units they are C [V, D], W1 [K·D, H], b1 [H], W2 [H, V], b2 [V],
    bngain [H] and bnbias [H]; a minibatch is x, int64 [n, K], and y, int64 [n], with n at least 2.
    Batch norm divides the variance by n − 1. On the CPU results are the same bits on every run and
    for every number of threads.

    Args:
        vocabulary: V, at least 1.
        context: K, at least 1.
        embedding: D, at least 1.
        hidden: H, at least 1.
        dtype: float32 or float64.
        generator: on the CPU, draws the parameters as `makemore.MLP.init` does; None makes a seeded
            one.
        device: where the parameters are, the CPU or a CUDA device.
        momentum: as in torch.optim.SGD, in [0, 1).
        weight_decay: as in torch.optim.SGD, at least 0.

    Attributes:
        momentum: may be set between steps. Its buffers, one for each parameter, are there while it
            is not 0, and begin with 0.
        weight_decay: may be set likewise.

    Raises:
        ValueError: an argument is out of its range.
    """

    _momentum: float

    def __init__(
        self,
        vocabulary: int,
        context: int,
        embedding: int,
        hidden: int,
        *,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        sizes = {
            "vocabulary": vocabulary,
            "context": context,
            "embedding": embedding,
            "hidden": hidden,
        }
        self._adopt(initialize(sizes, dtype, generator, device), momentum, weight_decay)

    @classmethod
    def from_parameters(
        cls, parameters: Parameters, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> "FusedMLP":
        """A network of existing tensors, which its steps will change.

        Args:
            parameters: `makemore.MLP.parameters()`, say; contiguous, on one device, of one dtype,
                float32 or float64, and none in the memory of another.
            momentum: see the class.
            weight_decay: see the class.

        Raises:
            TypeError: `parameters` are not `reference.Parameters`, or one is not a tensor.
            ValueError: a parameter is unfit, or an argument is out of its range.
        """
        names = Parameters._fields
        tensors = tuple(parameters) if isinstance(parameters, Iterable) else ()
        if len(tensors) != len(names):
            raise TypeError(
                f"parameters must be the {len(names)} tensors of reference.Parameters "
                f"({', '.join(names)}), got {type(parameters).__name__}"
            )
        network = cls.__new__(cls)
        network._adopt(Parameters(*tensors), momentum, weight_decay)
        return network

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self._sizes._asdict().items())
        return f"FusedMLP({sizes}, dtype={self._dtype}, device={str(self._device)!r})"

    def _adopt(self, parameters: Parameters, momentum: float, weight_decay: float) -> None:
        for name, parameter in parameters._asdict().items():
            if not isinstance(parameter, Tensor):
                raise TypeError(f"{name} must be a Tensor, got {type(parameter).__name__}")
        momentum, weight_decay = _checked_momentum(momentum), _checked_weight_decay(weight_decay)
        self._sizes = sizes_of(parameters)
        self._dtype, self._device = parameters.C.dtype, parameters.C.device
        require(self._device.type != "meta", "device", "meta", "the CPU or a CUDA device")
        check_device("parameters", self._device)
        self._parameters = parameters
        check_tensors(parameters._asdict(), shapes(self._sizes), self._dtype, self._device)
        check_separate(parameters)
        # The workspace serves one call at a time.
        self._lock = threading.Lock()
        self._weight_decay = weight_decay
        self._set_momentum(momentum)

    @property
    def momentum(self) -> float:
        return self._momentum

    @momentum.setter
    def momentum(self, momentum: float) -> None:
        momentum = _checked_momentum(momentum)
        with self._lock:
            if bool(momentum) == bool(self._momentum):
                self._momentum = momentum
            else:
                self._set_momentum(momentum)

    @property
    def weight_decay(self) -> float:
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, weight_decay: float) -> None:
        self._weight_decay = _checked_weight_decay(weight_decay)

    def _set_momentum(self, momentum: float) -> None:
        """Its buffers come and go with it, and the steps know their addresses."""
        parameters, buffers = self._parameters, None
        self._tensors = parameters._asdict()
        if momentum:
            buffers = Parameters(*(torch.zeros_like(p, requires_grad=False) for p in parameters))
            named = buffers._asdict().items()
            self._tensors |= {f"{MOMENTUM}{name}": buffer for name, buffer in named}
        of_parameters = shapes(self._sizes)
        self._shapes = {name: of_parameters[name.removeprefix(MOMENTUM)] for name in self._tensors}
        self._momentum = momentum
        self._momentum_buffers = buffers
        self._steps: NativeSteps | GraphSteps = (
            NativeSteps(self._sizes, parameters, buffers)
            if self._device.type == "cpu"
            else GraphSteps(parameters, buffers)
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("_parameters", "momentum", "weight_decay", "_momentum_buffers")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._adopt(state["_parameters"], state["momentum"], state["weight_decay"])
        for own, saved in zip(
            self._momentum_buffers or (), state["_momentum_buffers"] or (), strict=True
        ):
            own.copy_(saved)

    def parameters(self) -> Parameters:
        """The network's own tensors."""
        return self._parameters

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters by name, and "momentum.<name>" if there is momentum: detached, not copied.

        What a step changes changes in them too.
        """
        return {name: tensor.detach() for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy what `state_dict` gave into the network's own tensors.

        Raises:
            ValueError: a tensor is missing, unknown or unfit; nothing is changed.
        """
        self._check_tensors()
        own = self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(f"state must hold {sorted(own)}, got {sorted(state)}")
        for name, tensor in own.items():
            check_like(name, state[name], tensor)
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def loss_and_gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Parameters]:
        """The mean loss of a minibatch, in nats, [], and the gradient of every parameter.

        Nothing is changed; what comes back is detached. The gradient of b1 is exactly 0.

        Raises:
            IndexError: an index is outside [0, V).
            TypeError: x or y is not an int64 tensor.
            ValueError: a shape does not fit, or a parameter was replaced by an unfit one.
        """
        x, y = self._checked_windows(x, y, least=2)
        self._check_tensors()
        with self._lock:
            return self._steps.loss_and_gradients(x, y)

    def step(self, x: Tensor, y: Tensor, lr: float) -> float:
        """Descend once along the gradients of a minibatch.

        Args:
            x: the contexts, int64 [n, K], of any strides, on the network's device.
            y: the characters that follow, int64 [n].
            lr: the learning rate, finite and at least 0.

        Returns:
            The mean loss before the update, in nats.

        Raises:
            IndexError: an index is outside [0, V).
            TypeError: x or y is not an int64 tensor, or `lr` no number.
            ValueError: a shape does not fit, `lr` is out of its range, or a parameter was replaced
                by an unfit one. Nothing is changed then.
        """
        x, y = self._checked_windows(x, y, least=2)
        losses = torch.empty(1, dtype=self._dtype, device="cpu")
        minibatch = torch.arange(len(y), device="cpu").unsqueeze(0)
        self._train(x, y, minibatch, checked_rates(lr, 1), losses)
        return losses.item()

    def train(
        self,
        x: Tensor,
        y: Tensor,
        *,
        steps: int,
        batch_size: int,
        lr: float | Schedule,
        generator: torch.Generator | None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Take `steps` steps on minibatches drawn at random.

        The minibatches are those that `torch.randint(len(y), (batch_size,), generator=generator)`
        gives when called before every step. An interrupt (Ctrl-C) takes effect between two native
        calls, some 20 ms apart: network and generator are then as after a shorter run.

        Args:
            x: the contexts to draw from, int64 [N, K].
            y: the characters that follow, int64 [N], N at least 1.
            steps: at least 0.
            batch_size: n, at least 2.
            lr: the learning rate, or a function that gives it for step 0, 1, …, steps − 1.
            generator: on the CPU; None stands for torch's default generator.
            callback: called after every native call with the number of steps done and a copy of
                the losses of those that are new.

        Returns:
            The mean loss of every minibatch before its update, in nats, [steps].

        Raises:
            IndexError: an index is outside [0, V).
            KeyboardInterrupt: an interrupt came.
            TypeError: x or y is not an int64 tensor, or a learning rate no number.
            ValueError: a shape does not fit, an argument is out of its range, or a parameter was
                replaced by an unfit one. Nothing is changed then. What `callback` makes unfit is
                found before the next native call changes anything.
        """
        steps = checked_integer("steps", steps, minimum=0)
        batch_size = checked_integer("batch_size", batch_size, minimum=2)
        x, y = self._checked_windows(x, y, least=1, every_index=True)
        rates = checked_rates(lr, steps)
        self._check_tensors()

        V, K, D, H = self._sizes
        operations = 6 * batch_size * H * (K * D + V)
        block = max(1, int(BLOCK_OPERATIONS / operations))
        losses = torch.empty(steps, dtype=self._dtype, device="cpu")
        with deferred_interrupt() as interrupt:
            for first in range(0, steps, block):
                end = min(first + block, steps)
                x, y = self._checked_windows(x, y, least=1)  # a callback may have changed them
                shape = (end - first, batch_size)
                minibatches = torch.randint(len(y), shape, generator=generator, device="cpu")
                self._train(x, y, minibatches, rates[first:end], losses[first:end])
                if callback is not None:
                    callback(end, losses[first:end].clone())
                interrupt.raise_if_pending()
        return losses

    def _train(
        self, x: Tensor, y: Tensor, minibatches: Tensor, rates: Tensor, losses: Tensor
    ) -> None:
        """Take a step on each of the minibatches, rows of x and y, int64 [steps, n]."""
        self._check_tensors()
        with self._lock:
            descent = (self._momentum, self._weight_decay)
            self._steps.train(x, y, minibatches, rates, losses, descent)
        increment_version(self._parameters)

    def _check_tensors(self) -> None:
        check_tensors(self._tensors, self._shapes, self._dtype, self._device)

    def _checked_windows(
        self, x: Tensor, y: Tensor, least: int, every_index: bool = False
    ) -> tuple[Tensor, Tensor]:
        return checked_windows(x, y, self._sizes, self._device, least, every_index)


def _checked_momentum(momentum: Any) -> float:
    return checked_number("momentum", momentum, below=1, allowed="in [0, 1)")


def _checked_weight_decay(weight_decay: Any) -> float:
    allowed = "finite and at least 0"
    return checked_number("weight_decay", weight_decay, below=math.inf, allowed=allowed)
