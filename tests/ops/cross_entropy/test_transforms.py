"""Derivatives of every kind, against those of torch's own cross entropy."""

import compilers
import pytest
import torch
import transforms
from cross_entropy_cases import float64_target, logits
from support import seeded
from torch import Tensor
from torch.nn import functional as F
from transform_cases import Case, needs_native, torch_warns

import makemore_ext as mx

pytestmark = torch_warns


def composed(input, target, weight=None, *, lse_square_scale=0.0, return_lse=False, **options):
    """Cross entropy with z-loss and lse, in torch operations."""
    loss = F.cross_entropy(input, target, weight, **options)
    if not (lse_square_scale or return_lse):
        return loss
    lse = input.logsumexp(0 if input.dim() == 1 else 1)
    if lse_square_scale:
        valid = torch.ones_like(lse)
        if not target.is_floating_point():
            valid = (target != options.get("ignore_index", -100)).to(lse.dtype)
        squares = lse_square_scale * valid * lse.square()
        reduction = options.get("reduction", "mean")
        if reduction == "mean":
            by_index = weight is not None and not target.is_floating_point()
            squares = squares.sum() / (valid * weight[target] if by_index else valid).sum()
        loss = loss + (squares.sum() if reduction == "sum" else squares)
    return (loss, lse) if return_lse else loss


def smooth(function, **options):
    """A scalar that is linear in no part of what cross entropy gives."""

    def loss(input: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        result = function(input, target, weight, **options)
        if options.get("return_lse"):
            return result[0].sin().sum() + result[1].cos().sum()
        return result.sin().sum()

    return loss


def case(shape, kind="indices", weighted=False, leaves=("input",), **options) -> Case:
    def sample(seed: int) -> dict[str, Tensor]:
        tensors = {
            "input": logits(shape, torch.float64, seed) / 2,
            "target": float64_target(kind, shape, seed + 1),
        }
        if weighted:
            classes = shape[0] if len(shape) == 1 else shape[1]
            weight = torch.rand(classes, dtype=torch.float64, generator=seeded(seed + 2))
            tensors["weight"] = weight + 0.5
        return tensors

    return Case(
        smooth(mx.cross_entropy, **options),
        smooth(composed, **options),
        [sample(10 * seed) for seed in range(3)],
        leaves,
        ("input", "target"),
    )


ALL = ("input", "target", "weight")
CASES = {
    "mean": case((4, 3)),
    "sum of one row": case((3,), reduction="sum"),
    "none, of pixels": case((2, 3, 2), reduction="none"),
    "smoothing, ignore": case((4, 3), label_smoothing=0.3, ignore_index=1),
    "weight": case((4, 3), weighted=True),
    "weight, ignore, pixels": case((2, 3, 2), weighted=True, ignore_index=1),
    "weight, smoothing, none": case((4, 3), weighted=True, reduction="none", label_smoothing=0.3),
    "probabilities": case((4, 3), "probabilities", label_smoothing=0.2),
    "probabilities, all": case((3, 3), "probabilities", True, ALL),
    "probabilities of a row, all": case((3,), "probabilities", True, ALL, reduction="none"),
    "lse": case((4, 3), return_lse=True),
    "lse, z-loss, pixels": case(
        (2, 3, 2), return_lse=True, lse_square_scale=0.2, ignore_index=1, reduction="none"
    ),
    "weight, z-loss": case((4, 3), weighted=True, lse_square_scale=0.2, ignore_index=1),
    "weight, smoothing, z-loss, lse": case(
        (4, 3), weighted=True, label_smoothing=0.3, lse_square_scale=0.2, return_lse=True
    ),
    "z-loss": case((4, 3), lse_square_scale=0.2, ignore_index=1),
}


@transforms.table(CASES)
def test_transform(case, name):
    transforms.check(name, case)


@pytest.mark.parametrize("name", compilers.COMPILED)
@pytest.mark.parametrize("of", ["smoothing, ignore", "weight, ignore, pixels"])
def test_compiled_transform(of, name):
    compilers.check_compiled(name, CASES[of])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", compilers.COMPILERS)
@pytest.mark.parametrize("of", ["smoothing, ignore", "probabilities, all", "lse, z-loss, pixels"])
def test_compiler(of, name):
    compilers.check_compiler(name, CASES[of])


@needs_native
@pytest.mark.parametrize("of", ["mean", "none, of pixels", "lse, z-loss, pixels"])
def test_the_compiled_graphs_hold_our_operators(of):
    case = CASES[of]
    forward, backward = compilers.graphs(case.of_leaves(case.ours), *case.differentiable())
    assert compilers.kinds_in(forward, "cross_entropy") == (1, 0)
    assert compilers.kinds_in(backward, "cross_entropy") == (0, 1)
    assert "softmax" not in forward + backward


@needs_native
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nothing_stays_behind_hooks(reduction):
    input = torch.randn(500, 400).requires_grad_()
    target = torch.zeros(500, dtype=torch.int64)
    kept = transforms.bytes_kept(lambda: mx.cross_entropy(input, target, reduction=reduction))
    with transforms.packed_away():
        rest = transforms.bytes_kept(lambda: mx.cross_entropy(input, target, reduction=reduction))
    assert kept >= 500 * 8  # what backward needs
    assert rest <= 64


@needs_native
def test_a_converted_model_is_traced_symbolically():
    model = mx.convert(torch.nn.CrossEntropyLoss(label_smoothing=0.1))
    input, target = logits((6, 5), torch.float64), float64_target("indices", (6, 5))
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(input, target), model(input, target))
