"""What derivatives are taken of: two losses of one operation that are to be the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad

import makemore_ext as mx

IS_NATIVE = mx.build_info()["autograd"] == "native"
needs_native = pytest.mark.skipif(not IS_NATIVE, reason="native autograd alone does this")
# Of torch: tracing of Functions, decompositions for forward mode, torch.jit.
torch_warns = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

Loss = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """Two losses that are to be the same, and what they are given.

    Args:
        ours: a scalar, which is not linear in what is differentiated.
        theirs: the same without this package.
        samples: what they are given, by name, some times over.
        leaves: the names of what is differentiated.
        rows: the names of what has in dimension 0 a place for each item.
    """

    ours: Loss
    theirs: Loss
    samples: Sequence[dict[str, Tensor]]
    leaves: tuple[str, ...]
    rows: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.samples[0])

    @property
    def at(self) -> tuple[int, ...]:
        return tuple(map(self.names.index, self.leaves))

    @property
    def many(self) -> list[Tensor]:
        return [torch.stack([sample[name] for sample in self.samples]) for name in self.names]

    def values(self, sample: int = 0) -> tuple[Tensor, ...]:
        """What is differentiated."""
        return tuple(self.samples[sample][name] for name in self.leaves)

    def differentiable(self) -> tuple[Tensor, ...]:
        return tuple(value.clone().requires_grad_() for value in self.values())

    def of_all(self, loss: Loss) -> Loss:
        """The loss of all tensors in their order."""
        return lambda *tensors: loss(**dict(zip(self.names, tensors, strict=True)))

    def of_leaves(self, loss: Loss) -> Loss:
        """The loss of what is differentiated alone."""
        return lambda *leaves: loss(
            **{**self.samples[0], **dict(zip(self.leaves, leaves, strict=True))}
        )

    def gradient(self, loss: Loss) -> Loss:
        return grad(self.of_leaves(loss), tuple(range(len(self.leaves))))

    def with_rows(self, choose: Callable[[Tensor], Tensor]) -> "Case":
        """The case with some of its rows."""
        samples = [
            {name: choose(t) if name in self.rows else t for name, t in sample.items()}
            for sample in self.samples
        ]
        return replace(self, samples=samples)


class Model(torch.nn.Module):
    """A loss whose parameters are what is differentiated, times a factor."""

    def __init__(self, loss: Loss, case: Case):
        super().__init__()
        self.loss, self.at, self.names = loss, case.at, case.names
        for index, (name, value) in enumerate(case.samples[0].items()):
            if index in self.at:
                self.register_parameter(f"{name}_", torch.nn.Parameter(value.clone()))
            else:
                self.register_buffer(f"{name}_", value)

    def forward(self, factor: Tensor) -> Tensor:
        tensors = {}
        for index, name in enumerate(self.names):
            tensor = getattr(self, f"{name}_")
            tensors[name] = tensor * factor if index in self.at else tensor
        return self.loss(**tensors)
