"""Batch norms that become SyncBatchNorm, and what they were again."""

import copy

import pytest
import torch
from conversion_models import MODELS, pair
from support import seeded
from torch import nn

import makemore_ext as mx

GROUP = "a group"  # nothing is sent here


def kinds(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


WAYS = {
    "convert": lambda model: mx.convert(model, process_group=GROUP),
    "convert, fused": lambda model: mx.convert(model, process_group=GROUP, fuse_activations=True),
    "twice": lambda model: mx.convert(mx.convert(model), process_group=GROUP),
    "as torch": lambda model: mx.SyncBatchNorm.convert_sync_batchnorm(model, GROUP),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("build", "draw", "_lr"), MODELS.values(), ids=MODELS)
def test_there_and_back(build, draw, _lr, way):
    model = build()
    before, objects = copy.deepcopy(model), [*model.modules()]
    attributes = [vars(module).keys() for module in before.modules()]
    assert way(model) is model
    assert [*map(id, model.modules())] == [*map(id, objects)]
    assert norms(model)
    assert all(type(layer) is mx.SyncBatchNorm for layer in norms(model))
    assert all(layer.process_group == GROUP for layer in norms(model))
    input, _ = draw(seeded(2))
    torch.testing.assert_close(model(input), before(input))
    torch.testing.assert_close(model.state_dict(), before.state_dict())
    mx.revert(model)
    assert kinds(model) == kinds(before)
    assert [vars(module).keys() for module in model.modules()] == attributes


def test_none_is_all_ranks_and_not_given_is_none_of_them():
    alone, together = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert type(mx.convert(alone)) is mx.BatchNorm1d
    assert type(mx.convert(together, process_group=None)) is mx.SyncBatchNorm


def test_settings_stay():
    layer = mx.BatchNorm2d(3, momentum=None, correction=1, activation="tanh")
    mx.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert type(layer) is mx.SyncBatchNorm
    assert (layer.process_group, layer.momentum) == (None, None)
    assert (layer.correction, layer.activation) == (1, "tanh")
    assert repr(layer).endswith("correction=1, activation='tanh')")
    with pytest.raises(ValueError, match=r"SyncBatchNorm \(the module itself\) with correction=1"):
        mx.revert(layer)


@pytest.mark.parametrize(
    ("options", "group"),
    [({}, "another"), ({"process_group": GROUP}, GROUP), ({"process_group": None}, None)],
)
def test_torchs_own(options, group):
    layer = nn.SyncBatchNorm(3, process_group="another")
    mx.convert(layer, **options)
    assert type(layer) is mx.SyncBatchNorm
    assert layer.process_group == group
    mx.revert(layer)
    assert type(layer) is nn.SyncBatchNorm


@pytest.mark.parametrize("layer", [mx.SyncBatchNorm(3), nn.SyncBatchNorm(3)], ids=repr)
def test_one_from_the_start_is_torchs_own_afterwards(layer):
    assert type(mx.revert(mx.convert(layer))) is nn.SyncBatchNorm


def test_a_copy_and_a_pickle_know_what_they_were(tmp_path):
    model = mx.convert(pair(nn.ReLU()), process_group=GROUP)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (copy.deepcopy(model), loaded):
        assert type(norms(other)[0]) is mx.SyncBatchNorm
        assert type(norms(mx.revert(other))[0]) is nn.BatchNorm1d


class Own(nn.BatchNorm1d):
    pass


def with_forward(layer: nn.Module) -> nn.Module:
    layer.forward = layer.forward
    return layer


REFUSED = {
    "a subclass": (lambda: Own(4), "1: Own is a class of its own"),
    "a subclass of ours": (
        lambda: type("Mine", (mx.BatchNorm1d,), {})(4),
        "1: Mine is a class of its own",
    ),
    "lazy": (nn.LazyBatchNorm1d, "1: LazyBatchNorm1d has no parameters before its first forward"),
    "a forward": (lambda: with_forward(nn.BatchNorm1d(4)), "1: BatchNorm1d whose forward was"),
    "a forward of ours": (lambda: with_forward(mx.BatchNorm1d(4)), "1: BatchNorm1d is makemore"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_synchronised_is_refused(build, message):
    model = nn.Sequential(nn.BatchNorm1d(4), build())
    with pytest.raises(ValueError, match=f"cannot be synchronised, got {message}"):
        mx.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm1d
    reports = []
    mx.convert(model, process_group=GROUP, on_report=reports.append)
    assert type(model[0]) is mx.SyncBatchNorm
    assert reports[0].swapped == {"0": "BatchNorm1d by makemore_ext.SyncBatchNorm"}
    assert list(reports[0].skipped) == ["1"]


def test_no_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got list"):
        mx.SyncBatchNorm.convert_sync_batchnorm([])
