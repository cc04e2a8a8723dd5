"""Whole models before and after `mx.convert(model, fuse_activations=True)`, eager and compiled.

    python benchmarks/models.py [--quick]

A step is forward, loss, backward, and an update by SGD with momentum, after which the gradients are
dropped. Where it is compiled, torch.compile has the model with its loss, forward and backward; the
update stays eager. Everything is float32, on the CPU, and the minibatch the same on every step.

Two models, each with its loss as a layer: ResNet-20, the residual network for CIFAR's images, and
a GPT with GPT-2's vocabulary. `convert` changes what it finds of batch norm and cross entropy; the
convolutions, products, attention and layer norms are torch's own, before and after.

Each contender trains a copy of its own of the same model. The losses of the first steps must agree
before anything is measured.
"""

import argparse
import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import measure
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext.bench import interleaved
from makemore_ext.conversion import ConversionReport

ROUNDS, THREADS = 11, (1, 2)
RATE, MOMENTUM = 0.01, 0.9
COMPARED_STEPS = 3
TOLERANCE = 1e-4  # of the loss: these are the same sums in another order
IMAGES, IMAGE_SIZE, CLASSES = 32, 32, 10
WIDTHS, BLOCKS = (16, 32, 64), 3  # of ResNet-20: channels of each stage, blocks in it
SEQUENCES, CONTEXT, VOCABULARY = 2, 256, 50257
WIDTH, LAYERS, HEADS = 256, 4, 4
EAGER, COMPILED = "eager", "compile"
SIDES = BEFORE, AFTER = "", " converted"

Batch = tuple[Tensor, Tensor]


class WithLoss(nn.Module):
    """A network and its loss, which is a layer too: what is converted, and what is compiled."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = nn.CrossEntropyLoss()

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.network(input).flatten(0, -2), target.flatten())


class Residual(nn.Module):
    """Two convolutions, each with its batch norm, beside a shortcut; ReLU of the sum."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        stride = 1 if channels == width else 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = (
            nn.Identity()
            if channels == width
            else nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(self.body(input) + self.shortcut(input))


def resnet() -> tuple[nn.Module, Batch]:
    """ResNet-20 and a minibatch of images."""
    first = WIDTHS[0]
    layers: list[nn.Module] = [
        nn.Conv2d(3, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
    ]
    channels = first
    for width in WIDTHS:
        for _ in range(BLOCKS):
            layers.append(Residual(channels, width))
            channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    images = torch.randn(IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE)
    return nn.Sequential(*layers), (images, torch.randint(CLASSES, (IMAGES,)))


class Block(nn.Module):
    """A layer of a transformer: causal attention, then two linear layers, each on a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = nn.Linear(WIDTH, 3 * WIDTH)
        self.joined = nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
        )

    def forward(self, input: Tensor) -> Tensor:
        heads = self.heads(self.norm(input)).unflatten(-1, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        input = input + self.joined(attended.transpose(1, 2).flatten(2))
        return input + self.feed_forward(input)


class GPT(nn.Module):
    """GPT-2's architecture, smaller; the table of tokens is the last layer's weight too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
        self.logits = nn.Linear(WIDTH, VOCABULARY, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.logits.weight = self.tokens.weight

    def forward(self, input: Tensor) -> Tensor:
        return self.logits(self.blocks(self.tokens(input) + self.positions))


def gpt() -> tuple[nn.Module, Batch]:
    """The GPT and a minibatch of tokens, with those that follow."""
    text = torch.randint(VOCABULARY, (SEQUENCES, CONTEXT + 1))
    return GPT(), (text[:, :-1].contiguous(), text[:, 1:].contiguous())


MODELS: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {"ResNet-20": resnet, "GPT": gpt}
DESCRIPTIONS = {
    "ResNet-20": f"{BLOCKS} residual blocks for each of {', '.join(map(str, WIDTHS))} channels, "
    f"{CLASSES} classes",
    "GPT": f"{LAYERS} layers of width {WIDTH} with {HEADS} heads, a vocabulary of {VOCABULARY:,}",
}


def stepper(model: nn.Module, is_compiled: bool, batch: Batch) -> Callable[[], Tensor]:
    """A function that takes a training step and returns its loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    forward = torch.compile(model, dynamic=False) if is_compiled else model

    def step() -> Tensor:
        loss = forward(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def check(name: str, steps: dict[str, Callable[[], Tensor]]) -> float:
    """The largest difference between losses of the first steps; ends the run where it is large."""
    losses = {
        contender: [step().item() for _ in range(COMPARED_STEPS)]
        for contender, step in steps.items()
    }
    expected = losses[EAGER]
    difference = max(
        abs(loss - right) / right
        for found in losses.values()
        for loss, right in zip(found, expected, strict=True)
    )
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: the losses differ by {difference:.1e} of theirs: {losses}")
    return difference


def bench(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """Measures one model on so many threads."""
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    torch.manual_seed(0)
    network, batch = MODELS[name]()
    before = WithLoss(network)
    reports: list[ConversionReport] = []
    after = mx.convert(copy.deepcopy(before), fuse_activations=True, on_report=reports.append)
    models = {BEFORE: before, AFTER: after}
    steps = {
        f"{how}{which}": stepper(copy.deepcopy(model), how == COMPILED, batch)
        for how in (EAGER, COMPILED)
        for which, model in models.items()
    }
    difference = check(name, steps)
    return {
        "model": name,
        "description": DESCRIPTIONS[name],
        "threads": threads,
        "parameters": sum(parameter.numel() for parameter in before.parameters()),
        "input": list(batch[0].shape),
        "swapped": dict(Counter(reports[0].swapped.values())),
        "fused": len(reports[0].fused),
        "loss_difference": difference,
        "seconds": interleaved(steps, rounds),
    }


def ratio(result: dict[str, Any], how: str) -> float:
    """Of a result then / now, eager or compiled."""
    return result["seconds"][f"{how}{BEFORE}"] / result["seconds"][f"{how}{AFTER}"]


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The row of the table for a result."""
    seconds = result["seconds"]
    row: dict[str, Any] = {"model": result["model"], "threads": str(result["threads"])}
    for how in (EAGER, COMPILED):
        row |= {f"{how}{which} ms": seconds[f"{how}{which}"] * 1e3 for which in SIDES}
        row |= {f"{how}: then / now": ratio(result, how)}
    then, now = (min(seconds[f"{how}{which}"] for how in (EAGER, COMPILED)) for which in SIDES)
    return {**row, "the faster: then / now": then / now}


def main() -> None:
    """Measures every model with every number of threads, prints the table, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds, no result file")
    is_quick = parser.parse_args().quick
    results = [
        bench(name, threads, 3 if is_quick else ROUNDS) for name in MODELS for threads in THREADS
    ]
    measure.print_rows("a training step of whole models", [summary(result) for result in results])
    if not is_quick:
        what = {"compared_steps": COMPARED_STEPS, "tolerance": TOLERANCE, "results": results}
        measure.write("models", what)


if __name__ == "__main__":
    main()
