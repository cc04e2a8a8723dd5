"""convert(): the same model, the same objects, on other kernels."""

import copy

import pytest
import torch
from conversion_models import MODELS, pair, rows
from support import seeded
from torch import nn

import makemore_ext as mx


@pytest.mark.parametrize("fuse_activations", [False, True])
@pytest.mark.parametrize(("build", "draw", "lr"), MODELS.values(), ids=MODELS)
def test_trains_to_the_same_losses(build, draw, lr, fuse_activations):
    def train(model: nn.Module, criterion: nn.Module) -> tuple[list[float], dict]:
        generator = seeded(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        losses = []
        for _ in range(100):
            input, target = draw(generator)
            loss = criterion(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, model.state_dict()

    model = build()
    converted = mx.convert(copy.deepcopy(model), fuse_activations=fuse_activations)
    losses, state = train(model, nn.CrossEntropyLoss())
    new_losses, new_state = train(converted, mx.convert(nn.CrossEntropyLoss()))
    # Rounding differences grow from step to step.
    torch.testing.assert_close(new_losses, losses, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(new_losses[:10], losses[:10], rtol=1e-5, atol=1e-5)
    assert list(new_state) == list(state)


def test_everything_a_layer_has_is_kept():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-3, momentum=None), nn.Tanh())
    norm = model[1].eval()
    norm.running_mean.fill_(0.5)
    norm.weight.requires_grad_(False)
    norm.label = "mine"
    seen = []
    handle = norm.register_forward_hook(lambda *_: seen.append("hook"))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    converted = mx.convert(model)
    assert converted is model
    new = model[1]
    assert type(new) is mx.BatchNorm1d
    now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(now[name] is tensor for name, tensor in tensors.items())
    assert now.keys() == tensors.keys()
    assert (new.training, model.training, new.eps, new.momentum) == (False, True, 1e-3, None)
    assert new.label == "mine"
    model(torch.randn(5, 3)).sum().backward()
    assert seen == ["hook"]
    handle.remove()
    model(torch.randn(5, 3))
    assert seen == ["hook"]
    before = new.bias.clone()
    optimizer.step()
    assert not torch.equal(new.bias, before)


LAYERS = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), mx.BatchNorm1d),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), mx.BatchNorm2d),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3, dtype=torch.float64), mx.BatchNorm3d),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, mx.CrossEntropyLoss),
}


@pytest.mark.parametrize(("build", "ours"), LAYERS.values(), ids=LAYERS)
def test_a_layer_alone_stays_the_same_object(build, ours):
    layer = build()
    parameters = list(layer.parameters())
    assert mx.convert(layer) is layer
    assert type(layer) is ours
    assert [*map(id, layer.parameters())] == [*map(id, parameters)]
    assert repr(layer) == repr(build())


def test_what_holds_a_layer_elsewhere_holds_the_converted_one():
    model = pair()
    listed, model.norm = [*model], model[1]
    seen = []
    model[1].register_forward_hook(lambda layer, *_: seen.append(layer))
    mx.convert(model)
    assert listed[1] is model[1]
    assert model.norm is model[1]
    model(rows())
    assert seen[0] is listed[1]
    model.eval()
    assert not listed[1].training


def test_a_loss_keeps_its_options():
    options = {"label_smoothing": 0.1, "reduction": "sum", "ignore_index": 2}
    loss = mx.convert(nn.CrossEntropyLoss(torch.ones(3), **options))
    input, target = rows(3), torch.tensor([0, 1, 2, 0, 1, 1])
    expected = nn.CrossEntropyLoss(torch.ones(3), **options)
    torch.testing.assert_close(loss(input, target), expected(input, target))


def test_shared_modules_stay_shared():
    norm = nn.BatchNorm1d(4)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm), "none": None})
    mx.convert(model)
    assert type(norm) is mx.BatchNorm1d
    assert model["a"] is model["b"][0] is norm


class Own(nn.BatchNorm1d):
    pass


def replaced() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    norm.forward = lambda input: input
    return norm


def with_an_attribute() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    norm.activation = nn.Tanh()
    return norm


LEFT = {
    "subclass": (lambda: Own(3), "Own is a class of its own"),
    "lazy": (nn.LazyBatchNorm1d, "LazyBatchNorm1d has no parameters before its first forward"),
    "replaced": (replaced, "BatchNorm1d whose forward was replaced"),
    "attribute": (
        with_an_attribute,
        "BatchNorm1d with an attribute activation that is not torch's",
    ),
    "ours": (lambda: mx.BatchNorm1d(3), "BatchNorm1d is makemore_ext's already"),
}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(("build", "why"), LEFT.values(), ids=LEFT)
def test_what_is_left(build, why):
    layer = build()
    kind, reports = type(layer), []
    mx.convert(nn.Sequential(nn.Linear(3, 3), layer), on_report=reports.append)
    assert type(layer) is kind
    assert reports[0].skipped == {"1": why}


def test_not_a_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got function"):
        mx.convert(lambda x: x)


def test_a_report_to_nobody_is_refused_before_anything_is_changed():
    norm = nn.BatchNorm1d(3)
    with pytest.raises(TypeError, match="on_report must be None or callable, got str"):
        mx.convert(norm, on_report="print")
    assert type(norm) is nn.BatchNorm1d


def test_gradients_stay():
    model = pair()
    model(rows()).sum().backward()
    gradient = model[1].weight.grad
    mx.convert(model)
    assert model[1].weight.grad is gradient


@pytest.mark.filterwarnings("ignore:.* should not be instantiated", "ignore:`torch.jit")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("compiled", ["model", "layer"])
def test_what_is_compiled_before_is_compiled_again(compiled):
    model, expected = pair(), pair()
    (model if compiled == "model" else model[1]).compile(backend="aot_eager")
    for change in (lambda _: None, mx.convert, mx.revert):
        change(model)
        torch.testing.assert_close(model(rows()), expected(rows()))
        torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()))
