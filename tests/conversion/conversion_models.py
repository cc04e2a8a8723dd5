"""Models that the tests of conversion share."""

import torch
from support import seeded
from torch import Tensor, nn
from torch.nn import functional as F


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


# What builds a model, what draws a batch for it, a learning rate.
MODELS = {"ResNet": (small_resnet, images, 0.02), "names": (names_network, windows, 0.1)}


class LanguageModel(nn.Module):
    """Its loss is a call of a function, as in many models of language."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, index: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.table(index).flatten(0, 1), target.flatten())


def pair(activation: nn.Module | None = None, channels: int = 4) -> nn.Sequential:
    """A linear layer, a batch norm and the activation that follows it."""
    torch.manual_seed(seeded().initial_seed())
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.BatchNorm1d(channels),
        nn.Tanh() if activation is None else activation,
    )


def rows(channels: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(6, channels, generator=seeded(seed))


def is_fused(model: nn.Module, input: Tensor) -> bool:
    """Whether the last two layers ran as one: the node of the result is no activation's."""
    node = model(input).grad_fn
    assert node is not None
    return "BatchNorm" in node.name()


def runs_ours(function, *arguments, **options) -> bool:
    """Whether an operator of this package computes it, by the last node of its derivative."""
    return not function(*arguments, **options).grad_fn.name().endswith("0")  # as torch's nodes do
