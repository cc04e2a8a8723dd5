"""Rows and classes that lie further apart in memory than 32 bits count."""

import ctypes
import functools
from itertools import pairwise

import numpy as np
import pytest
import torch
from batch_norm_table import TANH
from cuda_bench import Device
from launched import NUMBERS, Placed, call, launchers, needs_nvcc
from launched_batch_norm import BatchNorm, ChannelView, Gradients, Options, RunningStatistics
from launched_cross_entropy import CrossEntropy, RowView
from launched_embedding import Matrix, embedding_backward, matrix_view

pytestmark = [needs_nvcc, pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])]

compiled = functools.cache(launchers)
GAP = 1 << 36  # bytes


def random(*shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def apart(device, rows, *, empty=False):
    """Each row as an array of its own; how many elements lie between their beginnings."""
    placed = [Placed(device, row.clone(), empty=empty) for row in rows]
    [distance] = {(b.address - a.address) // rows.element_size() for a, b in pairwise(placed)}
    assert distance > 2**32
    return placed, distance


@pytest.mark.parametrize("shape", [(3, 45), (3, 1100)])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_cross_entropy(layout, shape, dtype):
    logits, target = random(*shape, dtype=dtype), torch.tensor([5, 0, 44])
    device = Device(gap=GAP)
    made = CrossEntropy(device, logits, target)
    expected = made.forward(compiled("cross_entropy"))
    gradient = made.backward(
        compiled("cross_entropy"), *expected[1:3], torch.ones_like(expected[0])
    )

    placed, distance = apart(device, logits if layout == "rows" else logits.T)
    strides = (1, (distance,)) if layout == "rows" else (distance, (1,))
    view = made.arguments.logits = RowView(placed[0].address, *strides)
    loss, statistics, total, _ = made.forward(compiled("cross_entropy"))
    torch.testing.assert_close((loss, total), (expected[0], expected[2]))
    tensors = (torch.ones_like(loss), statistics, total)
    upstream, known, mean = (Placed(device, tensor) for tensor in tensors)
    call(
        compiled("cross_entropy"), device, "backward", NUMBERS[dtype], ctypes.byref(made.arguments),
        upstream.buffer, 0, None, known.buffer, mean.buffer, ctypes.byref(view),
    )  # fmt: skip
    result = torch.stack([row.tensor() for row in placed])
    torch.testing.assert_close(result if layout == "rows" else result.T, gradient)


# Rows of columns and of planes, or channels.
@pytest.mark.parametrize("layout", ["columns", "planes", "channels"])
def test_batch_norm(layout, dtype):
    shape = (3, 24, 1) if layout == "columns" else (3, 5, 80)
    input, grad_output = (random(*shape, dtype=dtype) for _ in range(2))
    device = Device(gap=GAP)
    options = Options(activation=TANH)
    norm = BatchNorm(device, compiled("batch_norm"), input, None, None, options)
    output, statistics, *_ = norm.forward()
    grad_input, *_ = norm.backward(grad_output, output, statistics)

    def view(tensor, *, empty=False):
        rows = tensor.transpose(0, 1).contiguous() if layout == "channels" else tensor
        placed, distance = apart(device, rows, empty=empty)
        strides = (rows.stride(1), distance) if layout == "channels" else (distance, rows.stride(1))
        return placed, ChannelView(placed[0].address, *strides, 1)

    def values(placed):
        rows = torch.stack([row.tensor() for row in placed])
        return rows.transpose(0, 1) if layout == "channels" else rows

    _, norm.arguments.input = view(input)
    placed_output, output_view = view(output, empty=True)
    known = Placed(device, statistics, empty=True)
    running = RunningStatistics()
    norm.launch(
        "forward", ctypes.byref(norm.arguments), ctypes.byref(running), known.buffer,
        ctypes.byref(output_view),
    )  # fmt: skip
    torch.testing.assert_close(values(placed_output), output)
    placed_gradient, gradient_view = view(input, empty=True)
    gradients = Gradients(
        *(view(grad_output)[1], output_view, None, gradient_view, None, None, None)
    )
    norm.launch("backward", ctypes.byref(norm.arguments), known.buffer, ctypes.byref(gradients))
    torch.testing.assert_close(values(placed_gradient), grad_input)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_embedding(layout, dtype):
    grad_output, indices = random(3, 24, dtype=dtype), torch.tensor([1, 0, 1])
    device = Device(gap=GAP)
    expected = embedding_backward(compiled("embedding"), device, grad_output, indices, 2)
    placed, distance = apart(device, grad_output if layout == "rows" else grad_output.T)
    strides = (distance, 1) if layout == "rows" else (1, distance)
    sorted_indices, order = (Placed(device, tensor) for tensor in indices.sort(stable=True))
    result = Placed(device, expected, empty=True)
    call(
        compiled("embedding"), device, "backward", NUMBERS[dtype],
        ctypes.byref(Matrix(placed[0].address, 3, 24, *strides)), sorted_indices.buffer,
        order.buffer, ctypes.byref(matrix_view(result, expected)), device.empty(48, np.float64),
    )  # fmt: skip
    torch.testing.assert_close(result.tensor(), expected)
