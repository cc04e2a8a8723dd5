"""Cross entropy of a DTensor is that of the whole tensor."""

import pytest
import torch
from cross_entropy_cases import DTYPES, OPTIONS, indices, logits, with_weight
from dtensor_calls import loss_and_gradient, refused
from loss_calls import truth
from ranks import ranks_fixture
from torch.distributed.tensor import Partial, Replicate, Shard

CASES = {
    "classes": ((4,), [Shard(1)]),
    "rows": ((4,), [Shard(0)]),
    "pixels": ((4,), [Shard(2)]),
    "rows and classes": ((2, 2), [Shard(0), Shard(1)]),
    "classes and pixels": ((2, 2), [Shard(1), Shard(2)]),
    "whole": ((2, 2), [Replicate(), Replicate()]),
    "classes, whole": ((2, 2), [Shard(1), Replicate()]),
}
SHAPE = (9, 11, 6)
MORE = {
    **OPTIONS,
    "lse and z-loss": {"return_lse": True, "lse_square_scale": 0.01, "ignore_index": 2},
    "in place": {"inplace_backward": True, "weight": True, "reduction": "sum"},
}


ranks = ranks_fixture({"four": [1] * 4})


def check(ranks, case, dtype, options, target=None, are_dtensors=False):
    input = logits(SHAPE, dtype)
    target = indices(SHAPE) if target is None else target
    options = with_weight(options, SHAPE, dtype)
    expected = truth(input, target, options)
    answers = ranks.results(loss_and_gradient, *case, input, target, options, are_dtensors)
    eps = torch.finfo(dtype).eps
    bounds = {"rtol": 2 * eps, "atol": 1e-7 if dtype != torch.float64 else 1e-13}
    for answer in answers:
        for ours, theirs in zip(answer, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, **bounds, equal_nan=True)


@pytest.mark.parametrize("options", MORE.values(), ids=MORE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_of_the_whole_tensor(ranks, case, options):
    check(ranks, case, torch.float32, options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_dtypes(ranks, case, dtype):
    check(ranks, case, dtype, {"weight": True, "label_smoothing": 0.1}, are_dtensors=True)


@pytest.mark.parametrize("case", [CASES["rows"], CASES["rows and classes"]], ids=str)
@pytest.mark.parametrize("ignored", [slice(0, 3), slice(0, 9)], ids=["of one rank", "all"])
def test_rows_that_are_ignored(ranks, case, ignored):
    target = indices(SHAPE)
    target[ignored] = -100
    check(ranks, case, torch.float32, {}, target)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ["rows", "pixels", "whole"])
def test_probabilities_where_the_classes_are_whole(ranks, name, reduction):
    target = logits(SHAPE, torch.float32, seed=1).softmax(1)
    check(ranks, CASES[name], torch.float32, {"reduction": reduction}, target)


REFUSED = {
    "classes twice": ((2, 2), [Shard(1), Shard(1)], NotImplementedError, "at most one dimension"),
    "partial": ((4,), [Partial()], NotImplementedError, "must be replicated or sharded"),
    "a rank without classes": ((4,), [Shard(1)], ValueError, "at least 1 class on every rank"),
}


@pytest.mark.parametrize(("mesh", "placements", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(ranks, mesh, placements, error, message):
    for answer in ranks.run(refused, mesh, placements, torch.zeros(4, 0)):
        with pytest.raises(error, match=message):
            raise answer
