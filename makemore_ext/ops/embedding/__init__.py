"""Embedding look-up with its gradient as one scatter-add.

How the gradient is summed stands in embedding.cpp and embedding.cuh, below csrc/cpu and csrc/cuda;
its derivatives in csrc/autograd/embedding.cpp.
"""

from makemore_ext.ops.embedding import registrations  # noqa: F401
from makemore_ext.ops.embedding.function import EmbeddingFunction
from makemore_ext.ops.embedding.functional import embedding

__all__ = ["EmbeddingFunction", "embedding"]
