"""What `makemore-ext bench --all` asks: every operation, small to large, and the training step."""

from collections.abc import Callable
from functools import partial

import torch

from makemore_ext._parameters import SEED
from makemore_ext.bench.operations import contenders
from makemore_ext.bench.timing import interleaved_rounds
from makemore_ext.makemore.comparison import compare_backends
from makemore_ext.makemore.data import Dataset
from makemore_ext.makemore.model import MLP

Rounds = dict[str, list[float]]
"""Seconds by contender, a value a round; "torch" and "makemore_ext" are always among them."""

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "cross_entropy": ((32, 27), (1024, 27), (4096, 1000), (256, 32000), (2, 21, 128, 128)),
    "cross_entropy channels last": ((2, 2, 256, 256), (2, 21, 128, 128)),
    "cross_entropy double backward": ((32, 27), (512, 4000)),
    "loss alone": ((32, 27), (256, 32000)),
    "batch_norm": ((32, 64), (32, 200), (4096, 200), (32, 64, 28, 28)),
    "batch_norm tanh": ((32, 200), (4096, 200), (32, 64, 28, 28)),
    "embedding": ((27, 10), (2000, 64), (50257, 64)),
}
_HIDDEN = (64, 200, 1024)
_STEPS = 20  # of the training step, in a round


def _operation(operation: str, shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> Rounds:
    return interleaved_rounds(contenders(operation, shape, dtype), rounds)


def _training_step(hidden: int, rounds: int) -> Rounds:
    dataset = Dataset.load()
    generator = torch.Generator().manual_seed(SEED)
    model = MLP.init(len(dataset.vocabulary), hidden=hidden, generator=generator)
    runs = compare_backends(
        model,
        dataset.train,
        backends=("autograd", "fused", "fused_mlp"),
        steps=_STEPS * rounds,
        rounds=rounds,
    )
    names = {"autograd": "torch", "fused": "fused", "fused_mlp": "makemore_ext"}
    return {names[run.backend]: run.round_seconds for run in runs}


def _questions() -> dict[str, Callable[[int], Rounds]]:
    found: dict[str, Callable[[int], Rounds]] = {}
    for operation, shapes in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            for shape in shapes:
                sizes = "x".join(map(str, shape))
                name = f"{operation}, {sizes}, {str(dtype).removeprefix('torch.')}"
                found[name] = partial(_operation, operation, shape, dtype)
    for hidden in _HIDDEN:
        found[f"training step, batch 32, {hidden} hidden units"] = partial(_training_step, hidden)
    return found


QUESTIONS = _questions()
"""By their names, what answers them in so many rounds: forward and backward, or a training step."""
