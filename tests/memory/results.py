"""A large result."""

import torch
from support import seeded
from torch import Tensor

import makemore_ext as mx


def normalized(rows: int = 3000, dtype: torch.dtype = torch.float32) -> Tensor:
    """A result of rows * 200 elements: 2.3 MiB."""
    x = torch.randn(rows, 200, generator=seeded(), dtype=torch.float64).to(dtype)
    return mx.batch_norm(x, None, None, training=True)
