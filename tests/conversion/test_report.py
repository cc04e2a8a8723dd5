"""What convert says it found, did and left."""

import pytest
import torch
from conversion_models import LanguageModel, pair, small_resnet
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import batch_norm

import makemore_ext as mx


def report_of(model: nn.Module, **options: bool) -> mx.ConversionReport:
    reports: list[mx.ConversionReport] = []
    mx.convert(model, on_report=reports.append, **options)
    (report,) = reports
    return report


def test_of_a_resnet():
    report = report_of(small_resnet(), fuse_activations=True)
    assert str(report) == "\n".join(
        [
            "7 of 7 layers swapped, 3 of 7 batch norms fused with an activation",
            *(
                f"swapped {name}: BatchNorm2d by makemore_ext.BatchNorm2d"
                for name in ("1", "3.main.1", "3.main.4", "3.short.1")
            ),
            *(
                f"swapped {name}: BatchNorm2d by makemore_ext.BatchNorm2d"
                for name in ("4.main.1", "4.main.4", "4.short.1")
            ),
            *("fused 1: ReLU 2", "fused 3.main.1: ReLU 2", "fused 4.main.1: ReLU 2"),
            *(
                f"unfused {name}: it is the last layer of its nn.Sequential"
                for name in ("3.main.4", "3.short.1", "4.main.4", "4.short.1")
            ),
        ]
    )


CONSTANT = torch.ones(3)  # which compares with nothing but tensors


class Functional(nn.Module):
    """Calls of torch's functions in several ways, and of others that only look like them."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(3)

    def forward(self, input):
        return torch.relu(self.batch_norm(input)) * CONSTANT

    @torch.no_grad()
    def wrapped(self, input, target):
        return torch.nn.functional.cross_entropy(input, target)

    @staticmethod
    def imported(input):
        return batch_norm(input, None, None, training=True)

    def ours(self, input, target):
        return F.gelu(mx.cross_entropy(input, target))


def test_calls_of_functions():
    assert report_of(nn.Sequential(Functional(), Functional())).calls == {
        "Functional.wrapped": "cross_entropy of torch.nn.functional, which patch() replaces",
        "Functional.imported": (
            "batch_norm, imported from torch.nn.functional: import makemore_ext's instead"
        ),
    }


def test_of_a_model_whose_loss_is_a_function():
    assert str(report_of(LanguageModel())) == "\n".join(
        [
            "nothing to convert: no BatchNorm1d, 2d, 3d or CrossEntropyLoss among 2 modules",
            "calls LanguageModel.forward: "
            "cross_entropy of torch.nn.functional, which patch() replaces",
        ]
    )


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.activation = nn.BatchNorm1d(4), nn.ReLU()

    def forward(self, input):
        return self.activation(self.norm(input))


class OwnSequential(nn.Sequential):
    pass


def hooked(position: int) -> nn.Module:
    model = pair()
    model[position].register_forward_hook(lambda *_: None)
    return model


def replaced(position: int) -> nn.Module:
    model = pair()
    model[position].forward = lambda input: input
    return model


def compiled() -> nn.Module:
    model = pair()
    model[2].compile()
    return model


def replaced_sequential() -> nn.Module:
    model = pair()
    model.forward = lambda input: input
    return model


UNFUSED = {
    "another activation": (lambda: pair(nn.GELU()), "GELU follows it, neither Tanh nor ReLU"),
    "last": (lambda: pair()[:2], "it is the last layer of its nn.Sequential"),
    "in a module": (Apart, "it is in Apart, no nn.Sequential"),
    "in a subclass": (
        lambda: OwnSequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()),
        "it is in OwnSequential, no nn.Sequential",
    ),
    "alone": (lambda: nn.BatchNorm1d(4), "it is in no nn.Sequential"),
    "hook on it": (lambda: hooked(1), "there are hooks on it or on the Tanh that follows"),
    "hook after it": (lambda: hooked(2), "there are hooks on it or on the Tanh that follows"),
    "activation's forward": (
        lambda: replaced(2),
        "its forward, or that of the Tanh that follows, was replaced",
    ),
    "compiled activation": (compiled, "it, or the Tanh that follows, was compiled by itself"),
    "Sequential's forward": (
        replaced_sequential,
        "the forward of its nn.Sequential was replaced",
    ),
    "its own activation": (
        lambda: nn.Sequential(mx.BatchNorm1d(4, activation="relu"), nn.Tanh()),
        "it applies relu already",
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(("build", "why"), UNFUSED.values(), ids=UNFUSED)
def test_why_a_batch_norm_is_not_fused(build, why):
    report = report_of(build(), fuse_activations=True)
    assert list(report.unfused.values()) == [why]
    assert report.fused == {}


def test_a_second_time():
    model = pair()
    report_of(model, fuse_activations=True)
    report = report_of(model, fuse_activations=True)
    assert str(report) == (
        "0 of 1 layers swapped, 1 of 1 batch norms fused with an activation\n"
        "skipped 1: BatchNorm1d is makemore_ext's already\n"
        "fused 1: Tanh 2"
    )


def test_of_a_layer_alone():
    assert str(report_of(nn.CrossEntropyLoss())) == (
        "1 of 1 layers swapped\n"
        "swapped (the module itself): CrossEntropyLoss by makemore_ext.CrossEntropyLoss"
    )
