"""Cross entropy of logits, with what torch's lacks: in-place backward, lse, z-loss."""

from makemore_ext.ops.cross_entropy import registrations  # noqa: F401  shapes and batching, for torch
from makemore_ext.ops.cross_entropy.function import CrossEntropyFunction
from makemore_ext.ops.cross_entropy.functional import cross_entropy
from makemore_ext.ops.cross_entropy.modules import CrossEntropyLoss
from makemore_ext.ops.cross_entropy.parallel import parallel_cross_entropy

__all__ = ["CrossEntropyFunction", "CrossEntropyLoss", "cross_entropy", "parallel_cross_entropy"]
