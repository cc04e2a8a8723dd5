"""revert(): torch's layers again, the same objects."""

import copy
import re

import pytest
import torch
from conversion_models import MODELS, pair, rows
from support import seeded
from torch import nn

import makemore_ext as mx


def kinds(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("fuse_activations", [False, True])
@pytest.mark.parametrize(("build", "draw", "_lr"), MODELS.values(), ids=MODELS)
def test_there_and_back(build, draw, _lr, fuse_activations):
    model = build()
    before, objects = copy.deepcopy(model), [*model.modules()]
    attributes = [vars(module).keys() for module in before.modules()]
    mx.convert(model, fuse_activations=fuse_activations)
    assert kinds(model) != kinds(before)
    assert mx.revert(model) is model
    assert kinds(model) == kinds(before)
    assert [*map(id, model.modules())] == [*map(id, objects)]
    assert [vars(module).keys() for module in model.modules()] == attributes
    input, _ = draw(seeded(2))
    assert torch.equal(model(input), before(input))


def test_a_fused_activation_is_the_one_it_was():
    activation = nn.ReLU(inplace=True)
    model = pair(activation)
    mx.revert(mx.convert(model, fuse_activations=True))
    assert model[2] is activation
    assert type(activation) is nn.ReLU
    assert activation.inplace


@pytest.mark.parametrize("layer", [mx.CrossEntropyLoss(), mx.BatchNorm1d(3)], ids=repr)
def test_a_layer_alone(layer):
    assert mx.revert(layer) is layer
    assert type(layer) in (nn.CrossEntropyLoss, nn.BatchNorm1d)


def with_forward(layer: nn.Module) -> nn.Module:
    forward = layer.forward
    layer.forward = lambda *inputs: forward(*inputs)
    return layer


REFUSED = {
    "correction": (
        lambda: mx.BatchNorm1d(4, correction=1),
        "BatchNorm1d 1 with correction=1, where torch.nn.BatchNorm1d knows correction=0 alone",
    ),
    "activation": (
        lambda: mx.BatchNorm2d(4, activation="relu"),
        "BatchNorm2d 1 with activation='relu', "
        "where torch.nn.BatchNorm2d knows activation=None alone",
    ),
    "inplace_backward": (
        lambda: mx.CrossEntropyLoss(inplace_backward=True),
        "CrossEntropyLoss 1 with inplace_backward=True, "
        "where torch.nn.CrossEntropyLoss knows inplace_backward=False alone",
    ),
    "return_lse": (
        lambda: mx.CrossEntropyLoss(return_lse=True),
        "CrossEntropyLoss 1 with return_lse=True, "
        "where torch.nn.CrossEntropyLoss knows return_lse=False alone",
    ),
    "lse_square_scale": (
        lambda: mx.CrossEntropyLoss(lse_square_scale=0.1),
        "CrossEntropyLoss 1 with lse_square_scale=0.1, "
        "where torch.nn.CrossEntropyLoss knows lse_square_scale=0.0 alone",
    ),
    "forward": (
        lambda: with_forward(mx.BatchNorm1d(4)),
        "BatchNorm1d 1 with a forward that was replaced, perhaps around this package's",
    ),
}


@pytest.mark.parametrize(("build", "why"), REFUSED.values(), ids=REFUSED)
def test_what_torch_cannot_express_is_refused_before_anything_is_changed(build, why):
    model = nn.Sequential(mx.BatchNorm1d(4), build())
    message = f"module must have no layer that cannot be torch's, got {why}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mx.revert(model)
    assert type(model[0]) is mx.BatchNorm1d
    assert hasattr(model[0], "correction")


def test_a_reverted_sequential_calls_its_layers_one_by_one():
    model = mx.revert(mx.convert(pair(), fuse_activations=True))
    assert model(rows()).grad_fn.name().startswith("Tanh")


def test_not_a_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got list"):
        mx.revert([nn.Tanh()])
