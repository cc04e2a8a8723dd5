"""The training loop."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import Tensor

from .backends import BACKENDS
from .data import Windows
from .model import MLP


def learning_rate(
    step: int, *, lr: float = 0.1, decay_step: int = 100_000, decay: float = 0.1
) -> float:
    """The notebook's schedule: `lr` for the first `decay_step` steps, then `lr * decay`."""
    return lr if step < decay_step else lr * decay


@dataclass(eq=False)
class Trainer:
    """Trains a network by gradient descent on random minibatches.

    Attributes:
        model: changed in place by `train`; nothing else is.
        windows: x, int64 [N, K], and y, int64 [N], of the training names.
        generator: draws the minibatches. Give the one that drew the network, as the notebook does.
        backend: a key of `BACKENDS`.
        batch_size: n, at least 2 since batch norm needs a variance.
        lr: the first learning rate.
        decay_step: the step from which it is multiplied by `decay`.
        decay: see `decay_step`.
        losses: the minibatch loss (in nats) of every step so far, before the step's update.

    Raises:
        ValueError: an argument is out of its range, or the windows do not fit the model.
    """

    model: MLP
    windows: Windows
    generator: torch.Generator
    backend: str = "fused"
    batch_size: int = 32
    lr: float = 0.1
    decay_step: int = 100_000
    decay: float = 0.1
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        _require(self.backend in BACKENDS, "backend", self.backend, f"one of {', '.join(BACKENDS)}")
        _require(_is_integer(self.batch_size, 2), "batch_size", self.batch_size, "an integer >= 2")
        _require(0 <= self.lr < math.inf, "lr", self.lr, "finite and >= 0")
        _require(_is_integer(self.decay_step, 0), "decay_step", self.decay_step, "an integer >= 0")
        _require(0 <= self.decay < math.inf, "decay", self.decay, "finite and >= 0")
        _check_windows(*self.windows, self.model)

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def train(self, steps: int, callback: Callable[[int, float], None] | None = None) -> None:
        """Take `steps` more steps; calibrated statistics, if any, are dropped as out of date.

        An interrupt (Ctrl-C) takes effect between two steps, so that what remains is as after a
        shorter run.

        Args:
            steps: at least 0.
            callback: called after every step with the number of steps done and the step's loss.

        Raises:
            ValueError: `steps` is negative.
            KeyboardInterrupt: an interrupt came; the current step was finished first.
        """
        _require(_is_integer(steps, 0), "steps", steps, "an integer >= 0")
        backend = BACKENDS[self.backend]
        parameters = self.model.parameters()
        x, y = self.windows
        if steps:
            self.model.bnmean = self.model.bnvar = None

        with _deferred_interrupt() as raise_if_interrupted:
            for _ in range(steps):
                batch = torch.randint(len(y), (self.batch_size,), generator=self.generator)
                loss, gradients = backend(parameters, x[batch], y[batch])
                rate = learning_rate(
                    self.step, lr=self.lr, decay_step=self.decay_step, decay=self.decay
                )
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter.add_(gradient, alpha=-rate)
                self.losses.append(loss.item())
                if callback is not None:
                    callback(self.step, self.losses[-1])
                raise_if_interrupted()


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Hold back SIGINT inside the block until the function it yields is called, or its end.

    The handler in place before then runs, as if the signal had come at that moment. In a thread
    other than the main one, which never sees a signal, and where SIGINT is ignored or has its
    default action, nothing changes.
    """
    pending: list[tuple[int, FrameType | None]] = []
    handler = signal.getsignal(signal.SIGINT)

    def raise_if_interrupted() -> None:
        if pending and callable(handler):
            handler(*pending.pop())

    deferred = callable(handler)
    if deferred:
        try:
            signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
        except ValueError:  # not the main thread
            deferred = False
    try:
        yield raise_if_interrupted
    finally:
        if deferred:
            signal.signal(signal.SIGINT, handler)
    raise_if_interrupted()


def _is_integer(value: object, minimum: int) -> bool:
    return isinstance(value, int) and value >= minimum


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}: must be {allowed}, got {value!r}")


def _check_windows(x: Tensor, y: Tensor, model: MLP) -> None:
    shapes = f"x {x.dtype} {[*x.shape]}, y {y.dtype} {[*y.shape]}"
    _require(
        x.dtype == y.dtype == torch.int64 and x.shape == (len(y), model.context) and len(y) > 0,
        "windows",
        shapes,
        f"int64 [N, {model.context}] and [N] with N >= 1",
    )
    low, high = min(int(x.min()), int(y.min())), max(int(x.max()), int(y.max()))
    _require(
        low >= 0 and high < model.vocabulary_size,
        "windows",
        f"{low} to {high}",
        f"indices in [0, {model.vocabulary_size})",
    )
