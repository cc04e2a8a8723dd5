import pytest
import torch
from reference_cases import DTYPES, examples, network, normal, shapes, sizes
from torch.testing import assert_close

from makemore_ext import reference

forms = pytest.mark.parametrize(
    "backward",
    [reference.batch_norm_backward, reference.batch_norm_backward_broadcast],
)


@sizes
def test_forward_equals_the_steps(n, hidden):
    parameters, x, y = network(n, hidden, torch.float64)
    steps = reference.forward(parameters, x, y)
    found = reference.batch_norm_forward(steps["hprebn"], parameters.bngain, parameters.bnbias)
    assert_close(found, steps["hpreact"], rtol=1e-12, atol=1e-12)


def tolerance(dhpreact, hprebn, bngain):
    """Eight half ulps of the largest term that there may be, and of x - mean those of x."""
    deviation = (hprebn.var(0) + reference.EPS).sqrt()
    magnified = (hprebn.abs() / deviation).max().clamp(min=1)
    terms = (bngain / deviation).abs().max() * dhpreact.abs().max()
    return (4 * torch.finfo(hprebn.dtype).eps * magnified * terms).item()


@forms
@sizes
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_autograd(backward, n, hidden, dtype):
    hprebn, dhpreact = normal(n, hidden, dtype=dtype), normal(n, hidden, seed=1, dtype=dtype)
    bngain, bnbias = normal(hidden, seed=2, dtype=dtype), normal(hidden, seed=3, dtype=dtype)
    hprebn.requires_grad_()
    hpreact = reference.batch_norm_forward(hprebn, bngain, bnbias)
    (expected,) = torch.autograd.grad(hpreact, hprebn, dhpreact)
    given = dhpreact, hprebn.detach(), bngain
    assert_close(backward(*given), expected, rtol=0, atol=tolerance(*given))


@forms
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_gradcheck(backward, eps):
    bngain, bnbias = normal(3, seed=1), normal(3, seed=2)

    class BatchNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, hprebn):
            ctx.save_for_backward(hprebn)
            return reference.batch_norm_forward(hprebn, bngain, bnbias, eps)

        @staticmethod
        def backward(ctx, dhpreact):
            return backward(dhpreact, *ctx.saved_tensors, bngain, eps)

    assert torch.autograd.gradcheck(BatchNorm.apply, normal(6, 3).requires_grad_())


@examples
@shapes
def test_forms_agree(n, width, seed):
    given = normal(n, width, seed=seed), normal(n, width, seed=seed + 1), normal(width)
    closed = reference.batch_norm_backward(*given)
    broadcast = reference.batch_norm_backward_broadcast(*given)
    assert_close(broadcast, closed, rtol=0, atol=tolerance(*given))
