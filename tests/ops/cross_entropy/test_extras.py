"""What torch's cross entropy has not: the gradient in place, lse and z-loss; and the module."""

import copy
import pickle
from functools import partial

import pytest
import torch
from cross_entropy_cases import (
    DTYPES,
    OPTIONS,
    PROBABILITY_OPTIONS,
    indices,
    logits,
    loss_and_gradient,
    probabilities,
    with_weight,
)
from torch import Tensor, nn
from torch.nn import functional as F

import makemore_ext as mx


def through_a_product(function, values: Tensor, target: Tensor, **options):
    """Loss, gradient of a leaf whose product with 2 are the logits, and those logits afterwards."""
    leaf = (values / 2).requires_grad_()
    hidden = leaf * 2
    loss = function(hidden, target, **options)
    loss.sum().backward()
    return loss.detach(), leaf.grad, hidden.detach()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 5), (40, 33), (2, 21, 6, 17)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_in_place_gives_the_same(options, shape, dtype):
    # Not the same bits: with the loss or after it, the compiler fuses other multiplications and
    # additions into one.
    input, target = logits(shape, dtype), indices(shape)
    options = with_weight(options, shape, dtype)
    loss, grad, hidden = through_a_product(
        partial(mx.cross_entropy, inplace_backward=True), input, target, **options
    )
    fresh_loss, fresh_grad, _ = through_a_product(mx.cross_entropy, input, target, **options)
    assert torch.equal(loss, fresh_loss)
    rounding = torch.finfo(dtype).eps * fresh_grad.abs().max().item()
    torch.testing.assert_close(grad, fresh_grad, rtol=0, atol=rounding)
    assert torch.equal(hidden * 2, grad)  # the gradient lies where the logits were


@pytest.mark.parametrize("options", PROBABILITY_OPTIONS.values(), ids=PROBABILITY_OPTIONS)
def test_in_place_with_probabilities(options):
    shape = (40, 33)
    input, target = logits(shape, torch.float32), probabilities(shape, torch.float32)
    options = with_weight(options, shape, torch.float32)
    results = [
        through_a_product(partial(mx.cross_entropy, inplace_backward=way), input, target, **options)
        for way in (True, False)
    ]
    torch.testing.assert_close(results[0][:2], results[1][:2], rtol=0, atol=0)


def test_in_place_is_noticed_where_the_logits_are_needed_again():
    hidden = logits((6, 5), torch.float32).requires_grad_() * 2
    squares = hidden.square()
    loss = mx.cross_entropy(hidden, indices((6, 5)), inplace_backward=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.sum().backward()


def test_in_place_works_once():
    hidden = logits((6, 5), torch.float32).requires_grad_() * 2
    loss = mx.cross_entropy(hidden, indices((6, 5)), inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_in_place_refuses_to_be_differentiated():
    hidden = logits((6, 5), torch.float32).requires_grad_() * 2
    loss = mx.cross_entropy(hidden, indices((6, 5)), inplace_backward=True)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_in_place_without_a_gradient_changes_nothing():
    input = logits((6, 5), torch.float32)
    before = input.clone()
    mx.cross_entropy(input, indices((6, 5)), inplace_backward=True)
    with torch.no_grad():
        mx.cross_entropy(input.requires_grad_(), indices((6, 5)), inplace_backward=True)
    assert torch.equal(input, before)


def formula(input, target, reduction="mean", lse_square_scale=0.0, **options):
    """Loss with z-loss, and lse, in torch operations."""
    lse = input.logsumexp(0 if input.dim() == 1 else 1)
    losses = F.cross_entropy(input, target, reduction="none", **options)
    valid = torch.ones_like(lse, dtype=torch.bool)
    if not target.is_floating_point():
        valid = target != options.get("ignore_index", -100)
    losses = losses + torch.where(valid, lse_square_scale * lse.square(), 0)
    if reduction == "none":
        return losses, lse
    divisor = 1.0
    if reduction == "mean":
        divisor = valid.sum()
        if options.get("weight") is not None and not target.is_floating_point():
            divisor = options["weight"][target][valid].sum()
    return losses.sum() / divisor, lse


@pytest.mark.parametrize("scale", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(27,), (40, 33), (2, 21, 6, 17)])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("options", PROBABILITY_OPTIONS.values(), ids=PROBABILITY_OPTIONS)
def test_lse_and_its_square(options, kind, shape, scale):
    target = indices(shape) if kind == "indices" else probabilities(shape, torch.float64)
    options = with_weight(options, shape, torch.float64)
    options = {**options, "lse_square_scale": scale}
    results = []
    for function in (partial(mx.cross_entropy, return_lse=True), formula):
        input = logits(shape, torch.float64).requires_grad_()
        loss, lse = function(input, target, **options)
        upstream = torch.linspace(-1, 1, lse.numel(), dtype=torch.float64).view(lse.shape)
        both = loss.sum() + (upstream * lse.sin()).sum()
        results.append((loss, lse, *torch.autograd.grad(both, input)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_lse_square_skips_ignored_rows(reduction, dtype):
    input, target = logits((40, 33), dtype), indices((40, 33))
    options = {"ignore_index": int(target[0]), "reduction": reduction}
    ours = loss_and_gradient(
        partial(mx.cross_entropy, lse_square_scale=0.05), input, target, **options
    )
    theirs = loss_and_gradient(
        lambda *args, **kwargs: formula(*args, lse_square_scale=0.05, **kwargs)[0],
        input.double(),
        target,
        **options,
    )
    theirs = tuple(tensor.to(dtype) for tensor in theirs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_of_lse(dtype):
    loss, lse = mx.cross_entropy(logits((6, 5), dtype), indices((6, 5)), return_lse=True)
    assert loss.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


MODULES = {
    "plain": {},
    "weight": {"weight": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])},
    "options": {"ignore_index": 0, "reduction": "sum", "label_smoothing": 0.1},
}


def test_repr_shows_what_torch_lacks():
    module = mx.CrossEntropyLoss(return_lse=True, lse_square_scale=0.1)
    assert repr(module) == "CrossEntropyLoss(return_lse=True, lse_square_scale=0.1)"


@pytest.mark.parametrize("options", MODULES.values(), ids=MODULES)
def test_module_as_torch(options):
    ours, theirs = mx.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    input, target = logits((6, 5), torch.float32), indices((6, 5))
    torch.testing.assert_close(
        loss_and_gradient(ours, input, target), loss_and_gradient(theirs, input, target)
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_module_is_the_same(copied):
    module = mx.CrossEntropyLoss(
        torch.arange(1.0, 6.0), label_smoothing=0.1, return_lse=True, lse_square_scale=0.01
    )
    input, target = logits((6, 5), torch.float32), indices((6, 5))
    torch.testing.assert_close(copied(module)(input, target), module(input, target))


def test_module_in_place():
    values, target = logits((6, 5), torch.float32), indices((6, 5))
    _, grad, hidden = through_a_product(mx.CrossEntropyLoss(inplace_backward=True), values, target)
    assert torch.equal(hidden * 2, grad)
