"""Gradients against autograd: your own, those derived by hand, and the fused ones.

- `gradients` compares what you derived for the notebook's network, any of its 26 gradients;
- `exercise_1`, `exercise_2`, `exercise_3` compare the formulas of `makemore_ext.reference`, `fused`
  this package's functions, `run` all of them on a network and a minibatch that it draws;
- each row is a `Comparison`, made by `compare`.
"""

from makemore_ext.check.comparison import Comparison, compare
from makemore_ext.check.exercises import (
    MIN_BATCH_SIZE,
    differentiate,
    example,
    exercise_1,
    exercise_2,
    exercise_3,
    fused,
    magnitudes,
    run,
)
from makemore_ext.check.gradients import gradients

__all__ = [
    "MIN_BATCH_SIZE",
    "Comparison",
    "compare",
    "differentiate",
    "example",
    "exercise_1",
    "exercise_2",
    "exercise_3",
    "fused",
    "gradients",
    "magnitudes",
    "run",
]
