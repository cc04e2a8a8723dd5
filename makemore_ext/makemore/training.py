"""The training loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from makemore_ext._arguments import as_number, checked_integer, require
from makemore_ext._interrupt import deferred_interrupt
from makemore_ext.fused_mlp import FusedMLP
from makemore_ext.makemore.backends import BACKENDS, Backend
from makemore_ext.makemore.data import Windows
from makemore_ext.makemore.data_parallel import LOSSES, DataParallel
from makemore_ext.makemore.model import MLP
from makemore_ext.ops.ranks import Ranks

Callback = Callable[[int, float], None]


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
        ranks: processes that share every minibatch, see `data_parallel.py`, each with a trainer of
            the same arguments; None for this one alone.

    Raises:
        ValueError: an argument is out of its range, or the windows do not fit the model.
    """

    model: MLP
    windows: Windows
    generator: torch.Generator
    backend: str = "fused_mlp"
    batch_size: int = 32
    lr: float = 0.1
    decay_step: int = 100_000
    decay: float = 0.1
    losses: list[float] = field(default_factory=list)
    ranks: Ranks | None = None

    def __post_init__(self) -> None:
        backends = list(BACKENDS if self.ranks is None else LOSSES)
        of_several = "" if self.ranks is None else " for several processes"
        allowed = f"one of {', '.join(backends)}{of_several}"
        require(self.backend in backends, "backend", self.backend, allowed)
        self.batch_size = checked_integer("batch_size", self.batch_size, minimum=2)
        self.lr, self.decay = as_number(self.lr), as_number(self.decay)
        require(0 <= self.lr < math.inf, "lr", self.lr, "finite and at least 0")
        self.decay_step = checked_integer("decay_step", self.decay_step, minimum=0)
        require(0 <= self.decay < math.inf, "decay", self.decay, "finite and at least 0")
        _check_windows(*self.windows, self.model)

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def train(self, steps: int, callback: Callback | None = None) -> None:
        """Take `steps` more steps; calibrated statistics, if any, are dropped as out of date.

        An interrupt (Ctrl-C) takes effect between two steps, so that what remains is as after a
        shorter run.

        Args:
            steps: at least 0.
            callback: called for every step with the number of steps done and the step's loss; the
                backend "fused_mlp" takes some 20 ms of steps before it is called for each of them.

        Raises:
            ValueError: `steps` is negative.
            KeyboardInterrupt: an interrupt came; the steps begun were finished first.
        """
        steps = checked_integer("steps", steps, minimum=0)
        if steps:
            self.model.bnmean = self.model.bnvar = None
        if self.ranks is not None:
            self._train_together(steps, callback, self.ranks)
        elif self.backend == "fused_mlp":
            self._train_natively(steps, callback)
        else:
            with deferred_interrupt() as interrupt:
                for _ in range(steps):
                    self._take_step(BACKENDS[self.backend], callback)
                    interrupt.raise_if_pending()

    def _rate(self, step: int) -> float:
        return learning_rate(step, lr=self.lr, decay_step=self.decay_step, decay=self.decay)

    def _train_natively(self, steps: int, callback: Callback | None) -> None:
        first = self.step

        def record(_: int, losses: Tensor) -> None:
            done = self.step
            self.losses += losses.tolist()
            if callback is not None:
                for step in range(done, self.step):
                    callback(step + 1, self.losses[step])

        FusedMLP.from_parameters(self.model.parameters()).train(
            *self.windows,
            steps=steps,
            batch_size=self.batch_size,
            lr=lambda step: self._rate(first + step),
            generator=self.generator,
            callback=record,
        )

    def _train_together(self, steps: int, callback: Callback | None, ranks: Ranks) -> None:
        """An interrupt of one rank ends the training of all of them after the same step."""
        backend = DataParallel(self.backend, ranks)
        with deferred_interrupt() as interrupt:
            for _ in range(steps):
                backend.is_interrupted = interrupt.is_pending
                self._take_step(backend, callback)
                if backend.is_interrupted:
                    raise KeyboardInterrupt

    def _take_step(self, backend: Backend, callback: Callback | None) -> None:
        parameters = self.model.parameters()
        x, y = self.windows
        batch = torch.randint(len(y), (self.batch_size,), generator=self.generator, device="cpu")
        loss, gradients = backend(parameters, x[batch], y[batch])
        rate = self._rate(self.step)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-rate)
        self.losses.append(loss.item())
        if callback is not None:
            callback(self.step, self.losses[-1])


def _check_windows(x: Tensor, y: Tensor, model: MLP) -> None:
    shapes = f"x {x.dtype} {[*x.shape]}, y {y.dtype} {[*y.shape]}"
    require(
        x.dtype == y.dtype == torch.int64 and x.shape == (len(y), model.context) and len(y) > 0,
        "windows",
        shapes,
        f"int64 [N, {model.context}] and [N] with N at least 1",
    )
    low, high = min(int(x.min()), int(y.min())), max(int(x.max()), int(y.max()))
    require(
        low >= 0 and high < model.vocabulary_size,
        "windows",
        f"{low} to {high}",
        f"indices in [0, {model.vocabulary_size})",
    )
