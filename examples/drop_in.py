"""A CNN and a GPT, trained with torch's layers and then with makemore_ext's.

    python examples/drop_in.py

Three lines change, and carry the mark <---. Both models take the same steps on the same data, in
turns, so that a machine that is slower for a while slows both.
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import makemore_ext as mx  # <---

STEPS = 15
IMAGES, CLASSES = 32, 10
SEQUENCES, CONTEXT, VOCABULARY, WIDTH, HEADS = 2, 64, 8192, 64, 4


def cnn() -> nn.Module:
    """Three convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        # The convolution needs no bias: batch norm would take it away again.
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class Block(nn.Module):
    """Causal attention, then two linear layers, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        wide = 4 * WIDTH
        self.mlp = nn.Sequential(nn.Linear(WIDTH, wide), nn.GELU(), nn.Linear(wide, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1))  # [B, T, 3, heads, features]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, T, features]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.joined(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second_norm(x))


class GPT(nn.Module):
    """A transformer of two blocks; gives logits [B, T, V]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(Block(), Block(), nn.LayerNorm(WIDTH))
        self.logits = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.blocks(self.tokens(x) + self.positions.weight))


def torch_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over all positions."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def fused_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The same. Where the loss is an nn.CrossEntropyLoss, `mx.convert(criterion)` does it."""
    return mx.cross_entropy(logits.flatten(0, -2), target.flatten())  # <---


def stepper(
    model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> Callable[[], float]:
    """A function that takes one training step and returns its loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def compare(name: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Trains two copies of the model; prints losses and times."""
    fused = copy.deepcopy(model)
    # The batch norms become makemore_ext's, each with the ReLU after it. Nothing else changes: the
    # objects, parameters and names in the state_dict are the same. `on_report=print` lists it all.
    fused = mx.convert(fused, fuse_activations=True)  # <---
    steps = {
        "torch": stepper(model, torch_loss, x, y),
        "makemore_ext": stepper(fused, fused_loss, x, y),
    }
    losses: dict[str, list[float]] = {contender: [] for contender in steps}
    seconds: dict[str, list[float]] = {contender: [] for contender in steps}
    for _ in range(STEPS):
        for contender, step in steps.items():
            start = time.perf_counter()
            losses[contender].append(step())
            seconds[contender].append(time.perf_counter() - start)
    for contender, values in losses.items():
        time_of_step = f"{statistics.median(seconds[contender]) * 1e3:.2f} ms a step"
        print(f"{name} {contender:12} {time_of_step}, loss {values[0]:.6f} to {values[-1]:.6f}")
    differences = [abs(a - b) for a, b in zip(*losses.values(), strict=True)]
    print(f"{name} largest difference of two losses {max(differences):.1e}")  # of rounding


torch.manual_seed(0)
compare("CNN", cnn(), torch.randn(IMAGES, 3, 32, 32), torch.randint(CLASSES, (IMAGES,)))
text = torch.randint(VOCABULARY, (SEQUENCES, CONTEXT + 1))
compare("GPT", GPT(), text[:, :-1], text[:, 1:])
