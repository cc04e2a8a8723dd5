"""What the tests that need a CUDA device share: when they can run, and tensors on it."""

import pytest
import torch
from torch import Tensor

import makemore_ext as mx


def missing() -> str | None:
    """Why the kernels cannot run here, None if they can."""
    if mx.build_info()["cuda_architectures"] is None:
        return "this build has no CUDA kernels"
    return None if torch.cuda.is_available() else "no CUDA device"


needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def on_device(tensor: Tensor) -> Tensor:
    """A copy on the device with the same strides, gaps and overlaps included."""
    extent = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    storage = torch.as_strided(tensor, (extent if tensor.numel() else 0,), (1,))
    return torch.as_strided(storage.cuda(), tensor.shape, tensor.stride(), 0)
