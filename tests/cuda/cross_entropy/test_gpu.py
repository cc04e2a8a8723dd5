"""Cross entropy on a CUDA device: the table that the bench runs, and what a device alone shows."""

import pytest
import torch
from cross_entropy_check import alike, close
from cross_entropy_table import CASES, MEAN, NONE, operators
from support_gpu import needs_gpu, on_device
from torch.nn import functional as F

import makemore_ext as mx

pytestmark = needs_gpu


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_the_cpu(case):
    logits, target, weight = case.tensors()
    options = case.operator_options()
    grad_output, grad_lse = case.upstream()
    results = []
    for move in (lambda tensor: tensor, on_device):
        tensors = [None if t is None else move(t) for t in (logits, target, weight)]
        loss, statistics, total, _ = operators.cross_entropy_forward(*tensors, *options)
        gradient = operators.cross_entropy_backward(
            move(grad_output), move(grad_lse), *tensors, statistics, total, *options
        )
        results.append([t.cpu() for t in (loss, statistics, total, gradient)])
    dtypes = (case.compute, case.compute, torch.float64, case.dtype)
    for actual, expected, dtype in zip(*reversed(results), dtypes, strict=True):
        alike(actual, expected, dtype)


def make(shape=(300, 1000), dtype=torch.float32, requires_grad=True):
    generator = torch.Generator("cuda").manual_seed(0)
    logits = torch.randn(shape, device="cuda", generator=generator).to(dtype)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device="cuda", generator=generator)
    return logits.requires_grad_(requires_grad), target


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 1000), (64, 50257), (9000, 27), (4, 21, 33, 35)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("inplace_backward", [False, True])
def test_no_further_from_the_truth_than_torch(shape, dtype, reduction, inplace_backward):
    logits, target = make(shape, dtype)

    def run(function, input, **options):
        loss = function(input * 1, target, reduction=reduction, **options)
        return loss, torch.autograd.grad(loss.sum(), input)[0]

    truth = run(F.cross_entropy, logits.detach().double().requires_grad_())
    theirs = run(F.cross_entropy, logits)
    ours = run(mx.cross_entropy, logits, inplace_backward=inplace_backward)
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == other.dtype
        rounding = torch.finfo(mine.dtype).eps * true.abs().max()
        allowed = torch.maximum((other - true).abs().max(), rounding)
        assert (mine - true).abs().max() <= allowed


def test_same_bits_on_every_run():
    logits, target = make((4096, 1000), torch.bfloat16)

    def run():
        loss = mx.cross_entropy(logits, target, label_smoothing=0.1)
        return loss, torch.autograd.grad(loss, logits)[0]

    first = run()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


@pytest.mark.parametrize("target", [-1, 1000, 2**40])
def test_a_target_out_of_range_makes_its_row_nan(target):
    logits, index = make()
    index[7] = target
    loss = mx.cross_entropy(logits, index, reduction="none")
    loss.sum().backward()
    rows = torch.arange(300, device="cuda") == 7
    assert torch.equal(loss.isnan(), rows)
    assert torch.equal(logits.grad.isnan().any(1), rows)


def test_an_index_error_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("MAKEMORE_EXT_CHECK", "1")
    logits, index = make()
    mx.cross_entropy(logits, index)
    index[7] = 1000
    with pytest.raises(IndexError, match=r"target must hold indices .*, got 1000 in row 7"):
        mx.cross_entropy(logits, index)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_in_a_cuda_graph(dtype, reduction):
    logits, target = make(dtype=dtype)

    def step():
        loss = mx.cross_entropy(logits, target, reduction=reduction)
        return loss, torch.autograd.grad(loss.sum(), logits)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        logits.copy_(torch.randn_like(logits))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_on_the_current_stream():
    logits, target = make((4096, 1000), requires_grad=False)
    expected = mx.cross_entropy(logits, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(logits)
        torch.cuda._sleep(50_000_000)
        late.copy_(logits)  # a kernel on another stream would read the zeros
        actual = mx.cross_entropy(late, target)
    stream.synchronize()
    assert torch.equal(actual, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_on_another_device_than_the_current():
    logits, target = (tensor.detach().to("cuda:1") for tensor in make())
    with torch.cuda.device(0):
        loss = mx.cross_entropy(logits.requires_grad_(), target)
        loss.backward()
        assert torch.cuda.current_device() == 0
    assert loss.device == logits.grad.device == torch.device("cuda:1")


def test_memory():
    logits, target = make((4096, 4000))
    size = logits.numel() * logits.element_size()
    for options, gradients in (({}, 1), ({"inplace_backward": True}, 0)):
        input = logits * 1
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(mx.cross_entropy(input, target, **options), input)
        peak = torch.cuda.max_memory_allocated() - before
        assert peak <= gradients * size + 100 * len(target) + 2**16


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 4)])
def test_derivatives(shape, check):
    logits, target = make(shape, torch.float64)
    # A graph is made of the loss that is given: a gradient formed along with it serves once.
    assert check(lambda x: mx.cross_entropy(x, target, label_smoothing=0.1), logits)


def test_compiles_to_one_graph():
    logits, target = make()
    compiled = torch.compile(mx.cross_entropy, fullgraph=True)
    close(compiled(logits, target), mx.cross_entropy(logits, target), torch.float32)


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_upstream_gradient(factor):
    logits, target = make(dtype=torch.bfloat16)
    (mx.cross_entropy(logits, target) * factor).backward()
    alone = operators.cross_entropy_forward_with_gradient(
        logits, target, None, MEAN, -100, 0.0, 0.0
    )[1]
    close(logits.grad, alone * factor, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**16 + 3, 2**15 + 1), (2, 2**15 + 1, 2**15 + 3)])
def test_more_elements_than_32_bits_count(shape):
    logits = torch.zeros(shape, dtype=torch.float16, device="cuda")
    target = torch.full((shape[0], *shape[2:]), shape[1] - 1, device="cuda")
    logits[..., -1] = 1
    options = (NONE, -100, 0.0, 0.0)
    loss, statistics, total, _ = operators.cross_entropy_forward(logits, target, None, *options)
    gradient = operators.cross_entropy_backward(
        torch.ones_like(loss), None, logits, target, None, statistics, total, *options
    )
    rows = (slice(-2, None), *[slice(None)] * (len(shape) - 1))
    part = logits[rows].float().requires_grad_()
    expected = F.cross_entropy(part, target[rows[:1]], reduction="none")
    close(loss[rows[:1]], expected, torch.float32)
    close(gradient[rows], torch.autograd.grad(expected.sum(), part)[0], torch.float16)
