"""Copies and checkpoints of converted models, and checkpoints between them and torch's."""

import copy
import io

import pytest
import torch
from conversion_models import MODELS, is_fused, pair, rows
from support import seeded
from torch import nn

import makemore_ext as mx


def pickled(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


HOW = {"deepcopy": copy.deepcopy, "pickle": pickled}


@pytest.mark.parametrize("copied", HOW.values(), ids=HOW)
def test_a_copy_is_another_model_of_the_same_kinds(copied):
    model = mx.convert(pair(nn.ReLU(inplace=True)), fuse_activations=True)
    other = copied(model)
    assert [type(layer) for layer in other.modules()] == [type(layer) for layer in model.modules()]
    assert is_fused(other, rows())
    torch.testing.assert_close(other(rows()), model(rows()))
    assert other[1].weight is not model[1].weight
    mx.revert(other)
    assert type(other) is nn.Sequential
    assert type(model[1]) is mx.BatchNorm1d


@pytest.mark.parametrize("copied", HOW.values(), ids=HOW)
def test_a_reverted_model_needs_nothing_of_this_package(copied):
    model = mx.revert(mx.convert(pair(), fuse_activations=True))
    file = io.BytesIO()
    torch.save(model, file)
    assert b"makemore_ext" not in file.getvalue()
    assert repr(copied(model)) == repr(pair())


@pytest.mark.parametrize("to_ours", [True, False])
@pytest.mark.parametrize(("build", "draw", "_lr"), MODELS.values(), ids=MODELS)
def test_checkpoints_go_both_ways(build, draw, _lr, to_ours):
    torchs, ours = build(), mx.convert(build(), fuse_activations=True)
    source, target = (torchs, ours) if to_ours else (ours, torchs)
    generator = seeded(3)
    for _ in range(3):
        source(draw(generator)[0])
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    assert target.load_state_dict(torch.load(file, weights_only=True)).missing_keys == []
    input, _ = draw(generator)
    torch.testing.assert_close(target.eval()(input), source.eval()(input))
