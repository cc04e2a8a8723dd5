"""Batch norm on a CUDA device: against torch there, against the CPU and against float64."""

import copy

import pytest
import torch
from batch_norm_cases import ACTIVATIONS, SHAPES, Case, step_by_step
from support import error, spacing
from support_gpu import needs_gpu
from torch.nn import functional as F

import makemore_ext as mx

pytestmark = needs_gpu

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
training_or_not = pytest.mark.parametrize("training", [True, False])


def on_cuda(case, memory_format=torch.preserve_format):
    moved = copy.copy(case)
    for name, tensor in vars(case).items():
        setattr(moved, name, tensor.cuda())
    for name in ("input", "grad_output"):
        setattr(moved, name, getattr(moved, name).contiguous(memory_format=memory_format))
    return moved


def formats(shape):
    if len(shape) == 4:
        return (torch.contiguous_format, torch.channels_last)
    return (torch.contiguous_format,)


@shapes
@training_or_not
@pytest.mark.parametrize("parameter_dtype", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_at_least_as_close_to_the_truth_as_torch(shape, training, dtype, parameter_dtype):
    case = Case(shape, dtype, parameter_dtype=parameter_dtype)
    truth = case.double().run(F.batch_norm, training)
    for memory_format in formats(shape):
        moved = on_cuda(case, memory_format)
        ours = moved.run(mx.batch_norm, training)
        theirs = moved.run(F.batch_norm, training)
        assert ours[0].stride() == theirs[0].stride()
        for mine, other, true in zip(ours, theirs, truth, strict=True):
            assert mine.dtype == other.dtype
            bound = max(error(other.cpu(), true), 3 * spacing(true, mine.dtype))
            assert error(mine.cpu(), true) <= bound


@shapes
@training_or_not
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.float64, 1e-9)])
def test_agrees_with_the_cpu(shape, activation, training, offset, dtype, bound):
    case = Case(shape, dtype, offset=offset)
    options = {"activation": activation, "correction": 1}
    ours = on_cuda(case).run(mx.batch_norm, training, **options)
    theirs = case.run(mx.batch_norm, training, **options)
    for mine, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(mine.cpu() / scale, other / scale, rtol=bound, atol=bound)


@pytest.mark.parametrize("shape", [(1500, 24), (3, 6, 14, 14)])
def test_same_bits_on_every_run(shape):
    case = on_cuda(Case(shape, torch.float32))
    first = case.run(mx.batch_norm, True, activation="tanh")
    for _ in range(3):
        again = case.run(mx.batch_norm, True, activation="tanh")
        assert all(one.equal(other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("shape", [(33, 20), (4, 6, 5, 7)])
def test_other_strides(shape):
    case = on_cuda(Case(shape, torch.float32))
    expected = case.run(mx.batch_norm, True, correction=1)
    truth = case.double().run(step_by_step, True, correction=1)
    for name in ("input", "grad_output"):
        tensor = getattr(case, name)
        setattr(case, name, tensor.transpose(0, -1).contiguous().transpose(0, -1))
    for mine, other, true in zip(
        case.run(mx.batch_norm, True, correction=1), expected, truth, strict=True
    ):
        torch.testing.assert_close(mine, other)
        torch.testing.assert_close(mine.double(), true, rtol=1e-4, atol=1e-4)


def test_the_current_stream_is_used():
    case = on_cuda(Case((256, 200), torch.float32))
    flipped = case.input.flip(0)
    expected = F.batch_norm(flipped, None, None, case.weight, case.bias, True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # what another stream runs comes before the copy
        case.input.copy_(flipped)
        output = mx.batch_norm(case.input, None, None, case.weight, case.bias, True)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(output, expected)


def test_a_cuda_graph_holds_it():
    case = on_cuda(Case((256, 200), torch.float32))
    expected = mx.batch_norm(case.input, None, None, case.weight, case.bias, True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = mx.batch_norm(case.input, None, None, case.weight, case.bias, True)
    graph.replay()
    assert output.equal(expected)
