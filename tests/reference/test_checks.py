"""What the functions of the reference refuse, and that they change nothing they are given."""

from copy import deepcopy

import pytest
import torch
from reference_cases import network
from torch.testing import assert_close

from makemore_ext import reference

X = torch.zeros(4, 3, dtype=torch.int64)
Y = torch.zeros(4, dtype=torch.int64)
ONES = torch.ones(4, 8)
GAIN = torch.ones(8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X[:1], "y": Y[:1]}, ValueError, r"x must have at least 2 rows .*, got 1$"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, r"x must have at least 2 rows .*, got 0$"),
        ({"x": Y}, ValueError, r"x must be of shape \[n, context\], got \[4\]$"),
        ({"x": X.int()}, TypeError, r"x must be int64, got torch.int32$"),
        ({"x": X - 1}, IndexError, r"x must hold 0 to 26, got -1$"),
        ({"x": X + 27}, IndexError, r"x must hold 0 to 26, got 27$"),
        ({"y": Y[:1]}, ValueError, r"y must be of shape \[4\], got \[1\]$"),
        ({"y": Y.float()}, TypeError, r"y must be int64, got torch.float32$"),
        ({"y": Y - 1}, IndexError, r"y must hold 0 to 26, got -1$"),
        ({"C": ONES[0]}, ValueError, r"C must be of shape \[V, D\], got \[8\]$"),
        ({"W1": ONES}, ValueError, r"W1 must be of shape \[30, 8\], got \[4, 8\]$"),
        ({"bngain": GAIN[None]}, ValueError, r"bngain must be of shape \[8\], got \[1, 8\]$"),
    ],
)
def test_network_refuses(changes, error, message):
    parameters, _, _ = network(4, 8, torch.float32)
    x, y = changes.pop("x", X), changes.pop("y", Y)
    with pytest.raises(error, match=message):
        reference.forward(parameters._replace(**changes), x, y)


def test_backward_checks_as_forward_does():
    parameters, x, y = network(4, 8, torch.float32)
    steps = reference.forward(parameters, x, y)
    with pytest.raises(ValueError, match=r"^y must be of shape \[4\], got \[3\]$"):
        reference.backward(parameters, x, y[:3], steps)


@pytest.mark.parametrize(
    "backward",
    [reference.cross_entropy_backward, reference.cross_entropy_backward_one_hot],
)
@pytest.mark.parametrize(
    ("logits", "target", "error", "message"),
    [
        (GAIN, Y, ValueError, r"^logits must be of shape \[n, V\], got \[8\]$"),
        (ONES, Y[:1], ValueError, r"^target must be of shape \[4\], got \[1\]$"),
        (ONES, Y.int(), TypeError, r"^target must be int64, got torch.int32$"),
        (ONES, Y - 100, IndexError, r"^target must hold 0 to 7, got -100$"),
    ],
)
def test_cross_entropy_refuses(backward, logits, target, error, message):
    with pytest.raises(error, match=message):
        backward(logits, target)


@pytest.mark.parametrize(
    ("hprebn", "bngain", "bnbias", "message"),
    [
        (GAIN, GAIN, GAIN, r"^hprebn must be of shape \[n, H\], got \[8\]$"),
        (ONES[:1], GAIN, GAIN, r"^hprebn must have at least 2 rows .*, got 1$"),
        (ONES, ONES, GAIN, r"^bngain must be of shape \[8\], got \[4, 8\]$"),
        (ONES, GAIN, GAIN[:1], r"^bnbias must be of shape \[8\], got \[1\]$"),
    ],
)
def test_batch_norm_forward_refuses(hprebn, bngain, bnbias, message):
    with pytest.raises(ValueError, match=message):
        reference.batch_norm_forward(hprebn, bngain, bnbias)


@pytest.mark.parametrize(
    "backward",
    [reference.batch_norm_backward, reference.batch_norm_backward_broadcast],
)
@pytest.mark.parametrize(
    ("dhpreact", "hprebn", "bngain", "message"),
    [
        (ONES[:1], ONES[:1], GAIN, r"^hprebn must have at least 2 rows .*, got 1$"),
        (ONES[:1], ONES, GAIN, r"^dhpreact must be of shape \[4, 8\], got \[1, 8\]$"),
        (ONES, ONES, GAIN[:1], r"^bngain must be of shape \[8\], got \[1\]$"),
    ],
)
def test_batch_norm_backward_refuses(backward, dhpreact, hprebn, bngain, message):
    with pytest.raises(ValueError, match=message):
        backward(dhpreact, hprebn, bngain)


@pytest.mark.parametrize(
    "backward", [reference.embedding_backward_loop, reference.embedding_backward]
)
@pytest.mark.parametrize(
    ("demb", "x", "error", "message"),
    [
        (torch.ones(4, 2, 5), X, ValueError, r"^demb must be of x's shape \[4, 3\] and one"),
        (torch.ones(4, 3, 5), X - 1, IndexError, r"^x must hold 0 to 26, got -1$"),
        (torch.ones(4, 3, 5), X.bool(), TypeError, r"^x must be int64, got torch.bool$"),
    ],
)
def test_embedding_refuses(backward, demb, x, error, message):
    with pytest.raises(error, match=message):
        backward(demb, x, 27)


def test_embedding_loop_is_for_matrices():
    with pytest.raises(ValueError, match=r"^x must be of shape \[n, context\], got \[4\]$"):
        reference.embedding_backward_loop(torch.ones(4, 5), Y, 27)


def calls():
    parameters, x, y = network(4, 8, torch.float32)
    steps = reference.forward(parameters, x, y)
    logits, hprebn, demb = steps["logits"], steps["hprebn"], steps["emb"]
    bngain, bnbias = parameters.bngain, parameters.bnbias
    return [
        (reference.forward, (parameters, x, y)),
        (reference.backward, (parameters, x, y, steps)),
        (reference.cross_entropy_backward, (logits, y)),
        (reference.cross_entropy_backward_one_hot, (logits, y)),
        (reference.batch_norm_forward, (hprebn, bngain, bnbias)),
        (reference.batch_norm_backward, (ONES, hprebn, bngain)),
        (reference.batch_norm_backward_broadcast, (ONES, hprebn, bngain)),
        (reference.embedding_backward_loop, (demb, x, 27)),
        (reference.embedding_backward, (demb, x, 27)),
    ]


@pytest.mark.parametrize(("function", "arguments"), calls())
def test_nothing_given_is_changed(function, arguments):
    before = deepcopy(arguments)
    function(*arguments)
    assert_close(arguments, before, rtol=0, atol=0)
