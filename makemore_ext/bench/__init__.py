"""What kernels and training steps cost beside torch's, and what changed between two runs."""

from makemore_ext.bench.changes import Change, changes, ratios
from makemore_ext.bench.operations import OPERATIONS, bench
from makemore_ext.bench.questions import QUESTIONS, SHAPES
from makemore_ext.bench.timing import Contenders, interleaved, interleaved_rounds

__all__ = [
    "OPERATIONS",
    "QUESTIONS",
    "SHAPES",
    "Change",
    "Contenders",
    "bench",
    "changes",
    "interleaved",
    "interleaved_rounds",
    "ratios",
]
