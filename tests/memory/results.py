"""A large result, and programs of their own."""

import os
import subprocess
import sys

import torch
from support import seeded
from torch import Tensor

import makemore_ext as mx


def normalized(rows: int = 3000, dtype: torch.dtype = torch.float32) -> Tensor:
    """A result of rows * 200 elements: 2.3 MiB."""
    x = torch.randn(rows, 200, generator=seeded(), dtype=torch.float64).to(dtype)
    return mx.batch_norm(x, None, None, training=True)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
