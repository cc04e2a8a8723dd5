"""The steps of a CUDA device. Uncaptured they run on the CPU as well, where the native steps tell
what is right; the rest needs a device."""

import pytest
import torch
from networks import FLOAT32, FLOAT64, clone, make, windows
from support import seeded
from torch import Tensor

import makemore_ext as mx
from makemore_ext.fused_mlp.steps import GraphSteps
from makemore_ext.reference import Parameters

SIZES = (27, 3, 10, 64)
DTYPES = (FLOAT32, FLOAT64)
OPTIONS = {
    "plain": (0.0, 0.0),
    "momentum": (0.9, 0.0),
    "weight decay": (0.0, 0.01),
    "both": (0.9, 0.01),
}
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def graph_steps(parameters: Parameters, momentum: float) -> GraphSteps:
    buffers = Parameters(*(torch.zeros_like(p) for p in parameters)) if momentum else None
    return GraphSteps(parameters, buffers)


def minibatches(steps: int, batch_size: int, windows: int) -> Tensor:
    generator = seeded()
    return torch.randint(windows, (steps, batch_size), generator=generator)


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradients_are_the_native_ones(dtype):
    network, (x, y) = make(SIZES, dtype), windows(SIZES, 40)
    actual = graph_steps(network.parameters(), 0.0).loss_and_gradients(x, y)
    expected = network.loss_and_gradients(x, y)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descent", OPTIONS.values(), ids=OPTIONS)
def test_trains_as_the_native_steps(descent, dtype):
    x, y = windows(SIZES, 200)
    start = make(SIZES, dtype).parameters()
    momentum, weight_decay = descent
    native = mx.FusedMLP.from_parameters(
        clone(start, dtype), momentum=momentum, weight_decay=weight_decay
    )
    rows, rates = minibatches(20, 32, 200), torch.linspace(0.1, 0.01, 20, dtype=torch.float64)
    expected = torch.empty(20, dtype=dtype)
    native._train(x, y, rows, rates, expected)
    parameters, actual = clone(start, dtype), torch.empty(20, dtype=dtype)
    graph_steps(parameters, momentum).train(x, y, rows, rates, actual, descent)
    tolerance = 1e-10 if dtype is FLOAT64 else 1e-4
    torch.testing.assert_close(
        (actual, *parameters), (expected, *native.parameters()), atol=tolerance, rtol=tolerance
    )


@gpu
@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descent", OPTIONS.values(), ids=OPTIONS)
def test_trains_on_a_device_as_on_the_cpu(descent, dtype):
    momentum, weight_decay = descent
    results = []
    for device in ("cpu", "cuda"):
        network = mx.FusedMLP(
            *SIZES, dtype=dtype, device=device, momentum=momentum, weight_decay=weight_decay
        )
        x, y = (tensor.to(device) for tensor in windows(SIZES, 200))
        generator = seeded()
        losses = network.train(x, y, steps=50, batch_size=32, lr=0.1, generator=generator)
        results.append((losses, *(p.detach().cpu() for p in network.parameters())))
    tolerance = 1e-9 if dtype is FLOAT64 else 1e-3
    torch.testing.assert_close(*results, atol=tolerance, rtol=tolerance)


@gpu
@needs_gpu
def test_a_graph_is_captured_anew_where_memory_has_moved():
    network = mx.FusedMLP(*SIZES, device="cuda")
    x, y = (tensor.cuda() for tensor in windows(SIZES, 32))
    first = network.step(x, y, 0.0)
    network.parameters().C.data = network.parameters().C.data.clone()
    assert network.step(x, y, 0.0) == first
    assert network.step(x.clone(), y.clone(), 0.0) == first
