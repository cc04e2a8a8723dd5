"""convert(): the same model on other kernels."""

import copy

import pytest
import torch
from support import seeded
from torch import Tensor, nn

import makemore_ext as mx
from makemore_ext.conversion import ConversionReport


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.short(x))


def small_resnet() -> nn.Module:
    torch.manual_seed(seeded().initial_seed())
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(Block(8, 8, 1), Block(8, 16, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )


def names_network() -> nn.Module:
    torch.manual_seed(seeded().initial_seed())
    return nn.Sequential(
        *(nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 64, bias=False)),
        *(nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 27)),
    )


def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    input = torch.randn(4, 3, 6, 6, generator=generator)
    return input, torch.randint(0, 5, (4,), generator=generator)


def windows(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    input = torch.randint(0, 27, (32, 3), generator=generator)
    return input, input.sum(1) % 27


MODELS = {"ResNet": (small_resnet, images, 0.02), "names": (names_network, windows, 0.1)}


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


def test_the_module_itself():
    norm = nn.BatchNorm3d(4, dtype=torch.float64)
    new = mx.convert(norm)
    assert type(new) is mx.BatchNorm3d
    assert new.weight is norm.weight
    assert new.running_var.dtype == torch.float64
    loss = mx.convert(nn.CrossEntropyLoss(torch.ones(3), label_smoothing=0.1, reduction="sum"))
    assert type(loss) is mx.CrossEntropyLoss
    assert (loss.label_smoothing, loss.reduction, loss.weight.tolist()) == (0.1, "sum", [1.0] * 3)
    input, target = torch.randn(4, 3, generator=seeded()), torch.tensor([0, 1, 2, 0])
    expected = nn.CrossEntropyLoss(torch.ones(3), label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(loss(input, target), expected(input, target))


def test_shared_modules_stay_shared():
    norm = nn.BatchNorm1d(4)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm), "none": None})
    mx.convert(model)
    assert type(model["a"]) is mx.BatchNorm1d
    assert model["a"] is model["b"][0]


class Own(nn.BatchNorm1d):
    pass


def test_only_exact_classes():
    reports = []
    model = nn.Sequential(
        *(nn.SyncBatchNorm(3), Own(3), nn.LazyBatchNorm1d(), nn.InstanceNorm1d(3)),
        *(mx.BatchNorm1d(3), nn.BatchNorm1d(3)),
    )
    kinds = [type(layer) for layer in model]
    mx.convert(model, on_report=reports.append)
    assert [type(layer) for layer in model] == [*kinds[:-1], mx.BatchNorm1d]
    (report,) = reports
    assert list(report.swapped) == ["5"]
    assert list(report.skipped) == ["0", "1", "2"]
    assert "skipped 1: Own is a class of its own" in str(report)
    assert str(ConversionReport()) == "nothing to convert"


def test_a_layer_with_a_forward_of_its_own_is_skipped():
    norm = nn.BatchNorm1d(3)
    norm.forward = lambda input: input
    assert mx.convert(norm) is norm


FUSED = {
    "tanh": (lambda: [nn.BatchNorm1d(4), nn.Tanh()], True),
    "relu": (lambda: [nn.BatchNorm1d(4), nn.ReLU(inplace=True)], True),
    "gelu": (lambda: [nn.BatchNorm1d(4), nn.GELU()], False),
    "apart": (lambda: [nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Tanh()], False),
}


@pytest.mark.parametrize(("layers", "fused"), FUSED.values(), ids=FUSED)
def test_fusing(layers, fused):
    torch.manual_seed(seeded().initial_seed())
    model = nn.Sequential(nn.Linear(4, 4), *layers())
    keys = list(model.state_dict())
    input = torch.randn(6, 4)
    expected = copy.deepcopy(model)(input)
    reports = []
    mx.convert(model, fuse_activations=True, on_report=reports.append)
    assert (type(model[2]) is nn.Identity) is fused
    assert (model[1].activation is not None) is fused
    assert list(reports[0].fused) == (["1"] if fused else [])
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(input), expected)


def test_pairs_that_cannot_be_fused():
    hooked = nn.BatchNorm1d(4)
    hooked.register_forward_hook(lambda *_: None)
    shared = nn.BatchNorm1d(4)
    model = nn.Sequential(hooked, nn.Tanh(), nn.Sequential(shared, nn.ReLU()), shared)
    reports = []
    mx.convert(model, fuse_activations=True, on_report=reports.append)
    assert not reports[0].fused
    assert reports[0].skipped == {
        "0": "not fused: there are hooks",
        "2.0": "not fused: the batch norm is used elsewhere too",
    }


def test_not_a_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got function"):
        mx.convert(lambda x: x)
