"""The embedding on a CUDA device: the table that the bench runs, and what a device alone shows."""

import pytest
import torch
from embedding_table import BOUNDS, CASES
from support_gpu import needs_gpu, on_device

import makemore_ext as mx

pytestmark = needs_gpu
operator = torch.ops.makemore_ext.embedding_backward


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_sums_in_float64(case):
    grad_output, indices = case.tensors()
    actual = operator(on_device(grad_output), indices.cuda(), case.vocabulary)
    inside = indices < case.vocabulary
    truth = torch.zeros(case.vocabulary, case.features, dtype=torch.float64)
    magnitude = truth.index_add(0, indices[inside], grad_output[inside].double().abs())
    truth = truth.index_add(0, indices[inside], grad_output[inside].double())
    assert ((actual.cpu().double() - truth).abs() <= BOUNDS[case.dtype] * magnitude + 1e-14).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_function(dtype):
    input = torch.randint(27, (4096, 3), device="cuda")
    weight = torch.randn(27, 10, device="cuda", dtype=dtype, requires_grad=True)
    grad_output = torch.randn(4096, 3, 10, device="cuda", dtype=dtype)
    output = mx.embedding(input, weight)
    assert torch.equal(output, weight[input])
    (gradient,) = torch.autograd.grad(output, weight, grad_output)
    truth = torch.zeros(27, 10, device="cuda", dtype=torch.float64)
    truth.index_add_(0, input.flatten(), grad_output.flatten(0, 1).double())
    torch.testing.assert_close(gradient.double(), truth, rtol=2 * BOUNDS[dtype], atol=1e-4)


def test_same_bits_on_every_run():
    grad_output = torch.randn(50_000, 64, device="cuda")
    indices = torch.randint(3, (50_000,), device="cuda")
    first = operator(grad_output, indices, 5)
    assert all(torch.equal(operator(grad_output, indices, 5), first) for _ in range(20))


def test_in_a_cuda_graph():
    grad_output, indices = torch.randn(500, 16, device="cuda"), torch.arange(500, device="cuda") % 7
    operator(grad_output, indices, 7)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = operator(grad_output, indices, 7)
    grad_output.normal_()
    graph.replay()
    assert torch.equal(captured, operator(grad_output, indices, 7))


def test_an_index_error_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("MAKEMORE_EXT_CHECK", "1")
    with pytest.raises(IndexError, match=r"input must hold indices in \[0, 5\), got 5 in row 1"):
        mx.embedding(torch.tensor([0, 5], device="cuda"), torch.zeros(5, 2, device="cuda"))
