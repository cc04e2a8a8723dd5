"""Every call of cross entropy's launchers that the tests make: cross_entropy_check.py does."""

from __future__ import annotations

import ctypes
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from cross_entropy_cases import indices, probabilities
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS, Placed, call
from launched_cross_entropy import CrossEntropy, class_dim, indices_at, row_shape, row_view
from torch import Tensor

import makemore_ext  # noqa: F401  registers the operators

operators = torch.ops.makemore_ext
NONE, MEAN, SUM = 0, 1, 2


def every_other(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def row_padding(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.full_like(tensor, 7.0)[..., :3]], dim=-1)[
        ..., : tensor.shape[-1]
    ]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "transposed": lambda tensor: tensor.mT.contiguous().mT,
    "channels last": lambda tensor: tensor.movedim(1, -1).contiguous().movedim(-1, 1),
    "every other": every_other,
    "row padding": row_padding,
    "same row": lambda tensor: tensor[:1].expand_as(tensor),
}


def normal(logits: Tensor) -> Tensor:
    return logits


def one_infinite(logits: Tensor) -> Tensor:
    """The last class of every row is -inf, and all of the first row."""
    logits.select(class_dim(logits), -1).fill_(-torch.inf)
    logits[0] = -torch.inf
    return logits


def first_half_infinite(logits: Tensor) -> Tensor:
    """-inf in the classes that a thread meets first."""
    half = logits.shape[class_dim(logits)] // 2
    logits.narrow(class_dim(logits), 0, half).fill_(-torch.inf)
    return logits


def not_a_number(logits: Tensor) -> Tensor:
    logits[0].view(-1)[0] = torch.nan
    return logits


def confident(logits: Tensor) -> Tensor:
    """The first class is 12 above the others, which are 0."""
    logits.fill_(0).select(class_dim(logits), 0).fill_(12)
    return logits


def ascending(logits: Tensor) -> Tensor:
    """Every class is a new maximum; the largest are near the end of float16."""
    dim = class_dim(logits)
    values = torch.linspace(-100, 60000, logits.shape[dim]).to(logits.dtype)
    logits.movedim(dim, -1).copy_(values)
    return logits


@dataclass(frozen=True)
class Case:
    """Logits [shape] of a dtype, a kind of target, options."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    target: str = "int64"  # or uint8, probabilities
    layout: str = "contiguous"
    offset: int = 0  # elements by which the logits, and with them all their rows, are not aligned
    gradient_offset: int = 0
    logits: Callable[[Tensor], Tensor] = normal
    weight: bool | str = False  # "0": of 0 for every class
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.name}-{'x'.join(map(str, self.shape))}-{str(self.dtype).split('.')[1]}"

    @property
    def reduction(self) -> int:
        return self.options.get("reduction", MEAN)

    @property
    def compute(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def is_large(self) -> bool:
        """Whether it takes seconds."""
        return self.name == "many rows" and self.dtype == torch.float64

    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """logits, target, weight."""
        seed = zlib.crc32(self.id.encode())
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(self.shape, dtype=torch.float64, generator=generator) * 3
        logits = LAYOUTS[self.layout](self.logits(values.to(self.dtype)))
        if self.target == "probabilities":
            target = LAYOUTS[self.layout](probabilities(self.shape, self.dtype, seed))
        else:
            target = indices(self.shape, getattr(torch, self.target), seed)
        weight = None
        if self.weight:
            classes = self.shape[class_dim(logits)]
            weight = torch.rand(classes, generator=generator).to(self.compute) + 0.5
            weight *= self.weight != "0"
        return logits, target, weight

    def upstream(self) -> tuple[Tensor, Tensor]:
        """grad_output and grad_lse."""
        rows = list(self.shape)
        del rows[class_dim(torch.empty(self.shape))]
        generator = torch.Generator().manual_seed(1)
        shape = rows if self.reduction == NONE else []
        return (
            torch.rand(shape, generator=generator).to(self.compute) + 0.5,
            torch.randn(rows, generator=generator).to(self.compute),
        )

    def operator_options(self) -> tuple[int, int, float, float]:
        options = self.options
        return (
            self.reduction,
            options.get("ignore_index", -100),
            options.get("label_smoothing", 0.0),
            options.get("lse_square_scale", 0.0),
        )

    def on(self, device: Device) -> CrossEntropy:
        logits, target, weight = self.tensors()
        like = operators.cross_entropy_forward_with_gradient(
            logits, target, weight, MEAN, *self.operator_options()[1:]
        )[1]
        return CrossEntropy(
            device, logits, target, weight=weight, offset=self.offset, gradient=like,
            gradient_offset=self.gradient_offset, **self.options,
        )  # fmt: skip


def _table() -> list[Case]:
    cases = []

    def add(name: str, *shapes: tuple[int, ...], dtypes: Any = tuple(NUMBERS), **rest: Any) -> None:
        cases.extend(Case(name, shape, dtype, **rest) for shape in shapes for dtype in dtypes)

    half, single = [torch.float16], [torch.float32]
    smoothing = {"label_smoothing": 0.1}
    everything = {"label_smoothing": 0.3, "ignore_index": 2, "lse_square_scale": 0.01}

    # fmt: off
    # A warp a row, a block a row, a thread a row; no sizes that are multiples of anything.
    add("plain", (5, 33), (1, 1), (3, 1), (1, 8), (3, 1030), (7, 5, 3), (2, 21, 3, 5))
    add("vocabulary", (2, 50257), dtypes=[torch.bfloat16, torch.float32])
    add("vocabulary none", (1, 9001), options={"reduction": NONE})
    add("many rows", (8200, 3))
    add("many rows smoothing", (8200, 3), dtypes=[*half, torch.bfloat16, *single],
        options=smoothing)
    add("many columns", (1, 2, 8200), dtypes=[torch.float64])
    add("columns of many classes", (2, 1027, 5))
    add("many columns", (3, 70, 67))
    for name, options in {"": {}, " smoothing": smoothing}.items():
        add(f"one row{name}", (27,), (9000,), options={"reduction": SUM, **options})
        add(f"one column{name}", (27,), layout="every other", options=options)
        add(f"channels last{name}", (2, 21, 3, 5), layout="channels last", options=options)
        add(f"transposed{name}", (35, 6), (40, 150), layout="transposed", options=options)
        add(f"uint8{name}", (5, 33), (3, 7, 20), target="uint8", options={"ignore_index": 3,
            **options})
        add(f"ascending{name}", (4, 45), (2, 1100), (2, 40, 3), logits=ascending,
            options={"reduction": NONE, **options})
    add("eight row dimensions", (1, 2, 3, 2, 1, 2, 2, 2, 2), dtypes=single)
    # What is not aligned has vectors between single elements, or none.
    for offset in (1, 3):
        add(f"unaligned by {offset}", (3, 45), (2, 1100), offset=offset, gradient_offset=offset,
            dtypes=[torch.bfloat16, torch.float32])
    add("unlike alignment", (3, 45), (2, 1100), offset=1, options=smoothing)
    add("unaligned gradient", (3, 45), gradient_offset=1)
    add("every other", (5, 33), layout="every other", dtypes=single)
    add("row padding", (5, 33), layout="row padding", dtypes=[torch.bfloat16, torch.float64])
    add("same row", (5, 33), layout="same row", dtypes=half)
    # Options.
    add("none", (5, 33), (3, 7, 4), options={"reduction": NONE})
    add("weight", (5, 33), (3, 7, 4), weight=True)
    add("smoothing", (5, 33), (3, 7, 4), (2, 21, 3, 5), options=smoothing)
    add("everything", (37, 13), (3, 70, 5), weight=True, options=everything)
    add("everything", (3, 1030), weight=True, options=everything, dtypes=half + single)
    add("everything sum", (9, 13), weight=True, options={"reduction": SUM, **everything})
    add("all smoothing", (5, 33), options={"label_smoothing": 1.0}, dtypes=single)
    add("all ignored", (4, 1), options={"ignore_index": 0})
    add("no weight", (5, 33), (3, 7, 4), weight="0", options=everything)
    add("z loss", (5, 33), (3, 7, 4), options={"lse_square_scale": 0.1, "reduction": NONE})
    add("probabilities", (5, 33), (3, 1030), (3, 7, 4), target="probabilities")
    add("probabilities weight smoothing", (5, 33), (3, 7, 4), target="probabilities", weight=True,
        options={**smoothing, "lse_square_scale": 0.01}, dtypes=half + single)
    add("probabilities of another layout", (9, 33), target="probabilities", layout="transposed",
        dtypes=half, options={"reduction": SUM})
    # Values.
    add("minus infinity", (5, 33), (3, 1030), (3, 7, 4), logits=one_infinite,
        options={"reduction": NONE}, dtypes=half + single)
    add("minus infinity first", (3, 45), (2, 1100), (2, 40, 3), logits=first_half_infinite,
        dtypes=single)
    add("minus infinity smoothing", (5, 33), logits=one_infinite, options={"reduction": NONE,
        **smoothing})
    add("not a number", (5, 33), (3, 7, 4), logits=not_a_number, options={"reduction": NONE},
        dtypes=single)
    add("confident", (4, 3), (4, 1030), (4, 40, 3), logits=confident, options={"reduction": NONE},
        dtypes=[torch.bfloat16, torch.float32])
    add("no rows", (0, 5), (0, 1100), (0, 5, 3))
    add("no rows sum", (0, 5), options={"reduction": SUM, **smoothing}, dtypes=single)
    # fmt: on
    return cases


CASES = _table()

# With a target that is no class.
OUTSIDE = [
    (Case("outside", shape, dtype, weight=weight, options=options), target)
    for dtype in NUMBERS
    for shape, weight, target in (
        ((5, 33), False, -1),
        ((5, 33), True, 33),
        ((5, 33, 3), False, 2**40),
        ((5, 33, 3), True, -(2**63)),
    )
    for options in ({}, {"label_smoothing": 0.1})
]


@dataclass(frozen=True)
class Scale:
    """A gradient of so many elements, `offset` of them off its alignment, times a factor."""

    count: int
    offset: int
    factor: float
    dtype: torch.dtype
    shape: tuple[int, ...] = ()  # or one class
    target: str = "int64"  # or uint8, probabilities
    ignore_index: int = 1

    @property
    def id(self) -> str:
        dtype = str(self.dtype).split(".")[1]
        shape = f"-{'x'.join(map(str, self.shape))}-{self.target}" if self.shape else ""
        return f"scale-{self.count}x{self.factor}-{dtype}-{self.offset}{shape}"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """gradient, target, factor; every third row is ignored."""
        generator = torch.Generator().manual_seed(0)
        shape = self.shape or (self.count, 1)
        gradient = torch.randn(shape, generator=generator).to(self.dtype)
        if self.target == "probabilities":
            target = torch.ones_like(gradient)
        else:
            rows = gradient.select(class_dim(gradient), 0)
            target = (torch.arange(rows.numel()) % 3).view(rows.shape)
            target = target.to(getattr(torch, self.target))
        compute = torch.float64 if self.dtype == torch.float64 else torch.float32
        return gradient, target, torch.tensor(self.factor, dtype=compute)

    def launch(
        self, launchers: Launchers, device: Device, gradient: Tensor, target: Tensor, by: Tensor
    ) -> Placed:
        """Where the product is."""
        placed, indices = Placed(device, gradient, self.offset), Placed(device, target)
        call(
            launchers, device, "scale", NUMBERS[self.dtype],
            ctypes.byref(row_shape(gradient)), ctypes.byref(row_view(gradient, placed.address)),
            ctypes.byref(indices_at(indices.address, target.dtype)), self.ignore_index,
            Placed(device, by).buffer,
        )  # fmt: skip
        return placed


SCALES = [
    *(Scale(1003, 0, 1.0, dtype) for dtype in NUMBERS),
    *(Scale(count, offset, -0.75, dtype)
      for dtype in NUMBERS for count in (1, 8, 1003) for offset in (0, 1, 7)),
    # Factors that are not finite, which ignored rows do not get.
    *(Scale(math.prod(shape), 1, factor, dtype, shape, target)
      for dtype in NUMBERS
      for factor, shape, target in (
          (math.inf, (59, 17), "int64"), (math.nan, (5, 7, 3, 2), "uint8"),
          (-math.inf, (9,), "int64"), (math.inf, (9,), "uint8"),
          (math.inf, (5, 7), "probabilities"), (-0.75, (5, 7), "probabilities"),
          (-0.75, (5, 7), "uint8"),
      )),
    # More than a grid has threads.
    *(Scale(270_000 * 16 // dtype.itemsize, 3, -0.75, dtype) for dtype in NUMBERS),
    *(Scale(270_000, 0, math.inf, dtype) for dtype in NUMBERS),
]  # fmt: skip
