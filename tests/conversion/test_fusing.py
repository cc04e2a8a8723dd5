"""convert(fuse_activations=True): batch norm and activation as one call, where they may be."""

import copy

import pytest
import torch
from conversion_models import is_fused, pair, rows
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import makemore_ext as mx

ACTIVATIONS = {
    "tanh": (nn.Tanh, True),
    "relu": (lambda: nn.ReLU(inplace=True), True),
    "gelu": (nn.GELU, False),
    "no activation": (lambda: nn.Linear(4, 4), False),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("build", "fused"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_fusing(build, fused, training):
    model = pair(build()).train(training)
    keys, expected = list(model.state_dict()), copy.deepcopy(model)(rows())
    layers = [*model]
    mx.convert(model, fuse_activations=True)
    torch.testing.assert_close(model(rows()), expected)
    assert is_fused(model, rows()) is fused
    assert list(model.state_dict()) == keys
    assert [*map(id, model)] == [*map(id, layers)]


@pytest.mark.parametrize("kind", [nn.Tanh, nn.ReLU])
def test_layers_that_others_call_work_alone(kind):
    """A list with the same layers, a slice, the batch norm or the activation by itself."""
    model = pair(kind())
    expected = copy.deepcopy(model)
    listed = [*model]
    mx.convert(model, fuse_activations=True)
    input = rows()
    result = input
    for layer in listed:
        result = layer(result)
    torch.testing.assert_close(result, expected(input))
    torch.testing.assert_close(model[:2](input), expected[:2](input))
    torch.testing.assert_close(model[1:](input), expected[1:](input))
    torch.testing.assert_close(model[1](input), expected[1](input))
    assert torch.equal(model[2](input), expected[2](input))


class Doubled(nn.ReLU):
    def forward(self, input):
        return 2 * super().forward(input)


class Shifted(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input) - 1


class Reversed(nn.Sequential):
    def forward(self, input):
        for layer in reversed(self):
            input = layer(input)
        return input


def with_forward(position: int) -> nn.Module:
    model = pair()
    model[position].forward = lambda input: input + 1
    return model


def sequential_with_forward() -> nn.Module:
    model = pair()
    model.forward = lambda input: model[2](model[0](input))
    return model


NOT_FUSED = {
    "norm's forward replaced": lambda: with_forward(1),
    "activation's forward replaced": lambda: with_forward(2),
    "Sequential's forward replaced": sequential_with_forward,
    "subclass of the activation": lambda: pair(Doubled()),
    "subclass of the norm": lambda: nn.Sequential(nn.Linear(4, 4), Shifted(4), nn.ReLU()),
    "subclass of Sequential": lambda: Reversed(nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 4)),
    "norm with an activation": lambda: nn.Sequential(
        nn.Linear(4, 4), mx.BatchNorm1d(4, activation="tanh"), nn.ReLU()
    ),
}


@pytest.mark.parametrize("build", NOT_FUSED.values(), ids=NOT_FUSED)
def test_what_computes_something_else_is_kept(build):
    model = build()
    expected = model(rows())
    reports = []
    mx.convert(model, fuse_activations=True, on_report=reports.append)
    torch.testing.assert_close(model(rows()), expected)
    assert reports[0].fused == {}


HOOKS = {
    "forward": lambda layer, seen: layer.register_forward_hook(lambda *a: seen.append(a[1:])),
    "forward pre": lambda layer, seen: layer.register_forward_pre_hook(
        lambda *a: seen.append(a[1:])
    ),
    "full backward": lambda layer, seen: layer.register_full_backward_hook(
        lambda *a: seen.append(a[1:])
    ),
    "full backward pre": lambda layer, seen: layer.register_full_backward_pre_hook(
        lambda *a: seen.append(a[1:])
    ),
    "of every module": lambda layer, seen: register_module_forward_hook(
        lambda module, *a: seen.append(a) if module is layer else None
    ),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
def test_hooks_see_what_they_saw(register, position, when):
    seen = []
    for converts in (False, True):
        model, calls = pair(), []
        if converts and when == "after":
            mx.convert(model, fuse_activations=True)
        handle = register(model[position], calls)
        if converts and when == "before":
            mx.convert(model, fuse_activations=True)
        try:
            model(rows().requires_grad_()).square().sum().backward()
        finally:
            handle.remove()
        seen.append(calls)
    assert len(seen[0]) == 1
    torch.testing.assert_close(*seen)


def test_a_pair_is_fused_again_when_its_hooks_are_gone():
    model = pair()
    mx.convert(model, fuse_activations=True)
    handle = model[2].register_forward_hook(lambda *_: None)
    assert not is_fused(model, rows())
    handle.remove()
    assert is_fused(model, rows())


def test_shared_layers():
    norm, activation = nn.BatchNorm1d(4), nn.Tanh()
    first, second = nn.Sequential(norm, activation), nn.Sequential(activation, norm)
    model = nn.Sequential(first, second)
    expected = copy.deepcopy(model)(rows())
    mx.convert(model, fuse_activations=True)
    assert is_fused(first, rows())
    torch.testing.assert_close(model(rows()), expected)


@pytest.mark.filterwarnings("ignore:.* should not be instantiated")
def test_compile():
    results = []
    for converts in (False, True):
        model = pair()
        if converts:
            mx.convert(model, fuse_activations=True)
            model = torch.compile(model, fullgraph=True, backend="aot_eager")
        input = rows().requires_grad_()
        output = model(input)
        output.square().sum().backward()
        results.append([output, input.grad])
    torch.testing.assert_close(*results)
