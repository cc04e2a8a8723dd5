"""The training backends side by side: the same losses, at different speeds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from makemore_ext._arguments import require
from makemore_ext.makemore.backends import BACKENDS
from makemore_ext.makemore.data import Windows
from makemore_ext.makemore.model import MLP
from makemore_ext.makemore.peers import PEERS, PeerTrainer
from makemore_ext.makemore.training import Trainer

YARDSTICK = "autograd"
JUDGED_STEPS = 1000
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class BackendRun:
    """One backend's training run.

    Attributes:
        backend: a key of `BACKENDS` or `PEERS`.
        losses: the minibatch loss of every step.
        round_seconds: the seconds a step took, one value a round.
        maxdiff: the largest absolute difference of a loss to autograd's at the same step, over the
            first `JUDGED_STEPS` steps; nan if any loss there is not a number.
        agrees: `maxdiff` is within the tolerance.
    """

    backend: str
    losses: list[float]
    round_seconds: list[float]
    maxdiff: float
    agrees: bool

    @property
    def step_seconds(self) -> float:
        """The median of `round_seconds`."""
        return median(self.round_seconds)


def compare_backends(
    model: MLP,
    windows: Windows,
    *,
    backends: Sequence[str] = tuple(BACKENDS),
    steps: int = 1000,
    rounds: int = 10,
    batch_size: int = 32,
    lr: float = 0.1,
    seed: int = 2147483647,
) -> list[BackendRun]:
    """Train a copy of the model with every backend, on the same minibatches.

    The steps are cut into rounds, in each of which every backend trains for as many steps. What
    slows the machine for a while thus slows all of them, and the order changes from round to round
    so that none always runs after the same other.

    Rounding makes two correct trajectories drift apart slowly, which is why only the first
    `JUDGED_STEPS` losses are held to the tolerance.

    Args:
        model: where every copy begins; left as it is.
        windows: x, int64 [N, K], and y, int64 [N], to draw the minibatches from.
        backends: keys of `BACKENDS` or `PEERS`; autograd runs in any case.
        steps: for each backend, at least `rounds`.
        rounds: at least 1.
        batch_size: see `Trainer`.
        lr: see `Trainer`.
        seed: of the minibatches.

    Raises:
        ValueError: a backend is unknown, or a number is out of its range.
    """
    require(1 <= rounds <= steps, "rounds", rounds, f"from 1 to steps, {steps}")
    names = list(dict.fromkeys([*backends, YARDSTICK]))
    trainers = {
        name: make_trainer(name, model, windows, batch_size=batch_size, lr=lr, seed=seed)
        for name in names
    }
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        length = steps * (index + 1) // rounds - steps * index // rounds
        first = index % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            trainers[name].train(length)
            seconds[name].append((time.perf_counter() - start) / length)

    expected = trainers[YARDSTICK].losses
    tolerance = TOLERANCE[model.C.dtype]
    runs = []
    for name in names:
        losses = trainers[name].losses
        maxdiff = _maxdiff(losses[:JUDGED_STEPS], expected[:JUDGED_STEPS])
        runs.append(BackendRun(name, losses, seconds[name], maxdiff, maxdiff <= tolerance))
    return runs


def make_trainer(
    name: str, model: MLP, windows: Windows, *, batch_size: int, lr: float, seed: int
) -> Trainer | PeerTrainer:
    """What trains a copy of the model with a backend or a peer; see `compare_backends`."""
    generator = torch.Generator().manual_seed(seed)
    if name in PEERS:
        return PeerTrainer(PEERS[name](model, windows), windows, generator, batch_size, lr)
    return Trainer(
        MLP.from_state_dict(model.state_dict()),
        windows,
        generator,
        backend=name,
        batch_size=batch_size,
        lr=lr,
    )


def _maxdiff(losses: Sequence[float], expected: Sequence[float]) -> float:
    pair = torch.tensor([losses, expected], dtype=torch.float64, device="cpu")
    return (pair[0] - pair[1]).abs().max().item()
