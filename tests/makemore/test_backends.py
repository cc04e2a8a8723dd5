import pytest
import torch
from support import seeded

from makemore_ext import reference
from makemore_ext.makemore import BACKENDS, MLP
from makemore_ext.reference import Parameters

FLOAT32, FLOAT64 = torch.float32, torch.float64


def minibatch(dtype, n=32):
    """A network away from its start, and a minibatch with characters that repeat."""
    generator = seeded(3)
    model = MLP.init(hidden=24, dtype=dtype, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    x = torch.randint(27, (n, 3), generator=generator)
    y = torch.randint(27, (n,), generator=generator)
    return model.parameters(), x, y


@pytest.mark.parametrize("n", [2, 3, 32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_and_gradients_are_those_of_the_atomic_steps(backend, n):
    parameters, x, y = minibatch(FLOAT64, n)
    loss, gradients = BACKENDS[backend](parameters, x, y)
    steps = reference.forward(parameters, x, y)
    expected = reference.backward(parameters, x, y, steps)
    torch.testing.assert_close(loss, steps["loss"].detach(), rtol=1e-12, atol=1e-12)
    for name, gradient in zip(Parameters._fields, gradients, strict=True):
        torch.testing.assert_close(gradient, expected[name].detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_detached_and_of_the_parameters_shapes_and_dtype(backend, dtype):
    parameters, x, y = minibatch(dtype)
    loss, gradients = BACKENDS[backend](parameters, x, y)
    assert (loss.shape, loss.dtype, loss.requires_grad) == ((), dtype, False)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert (gradient.shape, gradient.dtype) == (parameter.shape, dtype)
        assert not gradient.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_arguments_are_left_as_they_were(backend):
    parameters, x, y = minibatch(FLOAT32)
    before = [tensor.detach().clone() for tensor in (*parameters, x, y)]
    BACKENDS[backend](parameters, x, y)
    assert all(map(torch.equal, (*parameters, x, y), before))
    assert all(parameter.grad is None for parameter in parameters)


@pytest.fixture(scope="module")
def losses_of_autograd():
    return {}


@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT32, 1e-5), (FLOAT64, 1e-12)])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "autograd"])
def test_losses_agree_with_autograd_for_1000_steps(
    backend, dtype, tolerance, make_trainer, losses_of_autograd
):
    if dtype not in losses_of_autograd:
        trainer = make_trainer("autograd", hidden=200, dtype=dtype)
        trainer.train(1000)
        losses_of_autograd[dtype] = torch.tensor(trainer.losses, dtype=FLOAT64)
    trainer = make_trainer(backend, hidden=200, dtype=dtype)
    trainer.train(1000)
    losses = torch.tensor(trainer.losses, dtype=FLOAT64)
    assert (losses - losses_of_autograd[dtype]).abs().max() <= tolerance
