"""The launcher of csrc/cuda/embedding/embedding.cu called on tensors, see launched.py."""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS, Placed, call
from structures import TYPES
from torch import Tensor

Matrix = TYPES["Matrix"]


def matrix_view(placed: Placed, tensor: Tensor) -> Matrix:
    return Matrix(placed.address, *tensor.shape, *tensor.stride())


def embedding_backward(
    launchers: Launchers, device: Device, grad_output: Tensor, indices: Tensor, vocabulary: int,
    offset: int = 0,
) -> Tensor:  # fmt: skip
    """The gradient of a table [vocabulary, features]; sorts the indices as the operator does."""
    features = grad_output.shape[1]
    sorted_indices, order = indices.sort(stable=True)
    like = torch.empty(vocabulary, features, dtype=grad_output.dtype)
    upstream, result = Placed(device, grad_output, offset), Placed(device, like, empty=True)
    size = launchers.call(device, "workspace", len(indices), features)
    compute = np.float64 if grad_output.dtype == torch.float64 else np.float32
    call(
        launchers, device, "backward", NUMBERS[grad_output.dtype],
        ctypes.byref(matrix_view(upstream, grad_output)), Placed(device, sorted_indices).buffer,
        Placed(device, order).buffer, ctypes.byref(matrix_view(result, like)),
        device.empty(size, compute),
    )  # fmt: skip
    return result.tensor()
