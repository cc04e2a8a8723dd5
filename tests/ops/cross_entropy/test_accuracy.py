"""How far results are from the truth: what the algorithm rounds, and no further than torch's."""

from itertools import product

import numpy as np
import pytest
import torch
from cross_entropy_cases import (
    CASES,
    DTYPES,
    OPTIONS,
    SHAPES,
    TARGETS,
    doubled,
    indices,
    logits,
    loss_and_gradient,
    with_weight,
)
from support import assert_few_roundings, mean_error
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

# What roundings may cost, in half ulps of float32 relative to the terms of a result:
#
#   log_sum: an exponential 2.2, two sums of pairs 2
#   share v = w (q (1 - s) + s/C): the constants, the product with q and the sum 3, with w 1
#   loss = A log_sum - sum v (x - max), all of one sign: log_sum 4.2, v 4
#   gradient = u A p - u v: in p the exponential 2.2, the sum 4.2, the factor 1, the product 1, and
#     between the maxima of chunks 3; in u v the share 4, the factor 1, the product 1
#
# Sums over classes and rows are kept in double, as is the gradient at a target's index. x - max is
# exact where logits are multiples of 1/64.
LOSS_ROUNDINGS, GRADIENT_ROUNDINGS = 8.2, 17.4


def on_grid(logits):
    return (logits * 64).round() / 64


def shares(
    input, target, reduction="mean", weight=None, ignore_index=-100, label_smoothing=0.0
) -> Tensor:
    """What u v of the gradient may be, with the largest weight and what loss_and_gradient gives."""
    class_dim = min(1, input.dim() - 1)
    classes, is_index = input.shape[class_dim], not target.is_floating_point()
    if is_index and label_smoothing == 0:
        # p - 1 at the target errs with what the sum has of the others, as much as it is.
        return torch.zeros(())
    weight = torch.ones(classes) if weight is None else weight
    largest = weight.max() * (2 if reduction == "none" else 0.5)
    if reduction == "mean" and is_index:
        largest /= weight[target[target != ignore_index]].sum().clamp(min=1e-9)
    elif reduction == "mean":
        largest *= classes / target.numel()
    if is_index:
        target = torch.zeros_like(input).scatter(class_dim, target.unsqueeze(class_dim), 1.0)
    return largest * (target * (1 - label_smoothing) + label_smoothing / classes)


def check_roundings(input, target, **options):
    exact = {"input": input.double(), **doubled({"target": target, **options})}
    loss, gradient = loss_and_gradient(mx.cross_entropy, input, target, **options)
    true_loss, true_gradient = loss_and_gradient(F.cross_entropy, **exact)
    assert (loss.dtype, loss.shape) == (input.dtype, true_loss.shape)
    assert_few_roundings(loss, true_loss, true_loss.abs(), LOSS_ROUNDINGS)
    terms = true_gradient.abs() + shares(**exact)  # u A p is the gradient and u v
    assert_few_roundings(gradient, true_gradient, terms, GRADIENT_ROUNDINGS)


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize(("make_target", "options", "shape"), CASES)
def test_error_is_that_of_a_few_roundings(make_target, options, shape, dtype):
    input, target = on_grid(logits(shape, dtype)), make_target(shape, dtype)
    check_roundings(input, target, **with_weight(options, shape, dtype))


CONFIDENT = {
    # the logit of the target and those of all others, where softmax - onehot cancels
    "float32": (12.0, 0.0, torch.float32),
    "bfloat16": (12.0, 0.0, torch.bfloat16),
    "float16": (10.0, 0.0, torch.float16),
    "very": (20.0, 0.0, torch.float32),
    "large offset": (1e4 + 12, 1e4, torch.float32),
}


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("classes", [3, 4, 17, 1000])
@pytest.mark.parametrize(("logit", "others", "dtype"), CONFIDENT.values(), ids=CONFIDENT)
def test_confident_rows_keep_their_digits(logit, others, dtype, classes, layout):
    shape = (3, classes) if layout == "rows" else (3, classes, 70)
    input = torch.full(shape, others, dtype=dtype)
    input[:, classes // 2] = logit
    target = torch.full((shape[0], *shape[2:]), classes // 2)
    check_roundings(input, target)


LONG = {
    "classes": (2, 1_000_000),
    "rows": (200_000, 3),
    "pixels": (2, 3, 100_000),
    "classes of pixels": (1, 100_000, 32),
}


@pytest.mark.parametrize("options", ["sum", "weight ignore smoothing"])
@pytest.mark.parametrize("shape", LONG.values(), ids=LONG)
def test_long_sums_round_no_more_than_short_ones(shape, options):
    # Of many that are alike: in float32 their roundings would all go the same way.
    input = torch.full(shape, -23 / 64)
    input[:, 0] = 0
    target = torch.ones(shape[0], *shape[2:], dtype=torch.int64)
    check_roundings(input, target, **with_weight(OPTIONS[options], shape, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize(
    ("make_target", "options"),
    [
        pytest.param(make_target, options, id=f"{kind}-{name}")
        for kind, (make_target, table) in TARGETS.items()
        for name, options in table.items()
    ],
)
def test_no_further_from_the_truth_than_torch(make_target, options, dtype):
    """On average over draws of every shape.

    In float32 torch errs half as much again or more. In a narrow type both round the exact result
    nearly always, and the margin is for the ties that they round differently.
    """
    ours, theirs = torch.zeros(2), torch.zeros(2)
    for shape, seed in product(SHAPES, range(20)):
        input, target = logits(shape, dtype, 2 * seed), make_target(shape, dtype, 2 * seed + 1)
        chosen = with_weight(options, shape, dtype)
        exact = doubled({"target": target, **chosen})
        truths = loss_and_gradient(F.cross_entropy, input.double(), **exact)
        for total, function in ((ours, mx.cross_entropy), (theirs, F.cross_entropy)):
            results = loss_and_gradient(function, input, target, **chosen)
            total += torch.tensor(list(map(mean_error, results, truths)))
    assert (ours <= 1.05 * theirs).all()


SHAPE_64 = (64, 130)


def errors_in_float64(function, seed):
    """Loss and gradient, less what numpy makes of them in a wider type, in half ulps."""
    input = on_grid(logits(SHAPE_64, torch.float64, 2 * seed))
    target = indices(SHAPE_64, seed=2 * seed + 1)
    rows, wide = np.arange(SHAPE_64[0]), input.numpy().astype(np.longdouble)
    exponential = np.exp(wide - wide.max(1, keepdims=True))
    softmax = exponential / exponential.sum(1, keepdims=True)
    one_hot = np.eye(SHAPE_64[1])[target]
    loss, gradient = -np.log(softmax[rows, target]).mean(), (softmax - one_hot) / len(rows)
    results = loss_and_gradient(function, input, target)
    for result, truth in zip(results, (loss, 0.5 * gradient), strict=True):  # of an upstream 0.5
        yield abs(result.numpy() - truth) / (abs(truth).max() * 2.0**-53)


@pytest.mark.parametrize("seed", range(5))
def test_error_in_float64(seed):
    # Sums are no wider than their terms: their roundings, a random walk, are at most about as many
    # as the root of the number of those.
    loss, gradient = errors_in_float64(mx.cross_entropy, seed)
    rows, classes = SHAPE_64
    assert loss <= LOSS_ROUNDINGS + 1 + classes**0.5 + rows**0.5
    assert gradient.max() <= GRADIENT_ROUNDINGS + 1 + classes**0.5


def test_gradient_no_further_from_the_truth_than_torch_in_float64():
    """On average; torch errs a fifth more. (The loss has no such margin, either way.)"""
    ours, theirs = (
        sum(list(errors_in_float64(function, seed))[1].mean() for seed in range(20))
        for function in (mx.cross_entropy, F.cross_entropy)
    )
    assert ours <= theirs
