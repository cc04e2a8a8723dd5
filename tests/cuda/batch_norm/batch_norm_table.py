"""Every call of batch norm's launchers that the tests make: batch_norm_check.py does."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS
from launched_batch_norm import BatchNorm, Options
from torch import Tensor

TANH, RELU = 1, 2


def padded_rows(tensor: Tensor) -> Tensor:
    """With a gap of 3 channels after each row."""
    wide = torch.cat([tensor, torch.full_like(tensor, 7.0)[:, :1].expand(-1, 3, -1)], dim=1)
    return wide[:, : tensor.shape[1]]


def aligned_rows(tensor: Tensor) -> Tensor:
    """With a gap of channels up to the next multiple of 8: rows that are all aligned alike."""
    channels = tensor.shape[1]
    wide = torch.full((len(tensor), channels // 8 * 8 + 8, tensor.shape[2]), 7.0)
    wide = wide.to(tensor.dtype)
    wide[:, :channels] = tensor
    return wide[:, :channels]


def channels_apart(tensor: Tensor) -> Tensor:
    """With a gap as large as a plane after each."""
    return torch.stack([tensor, torch.full_like(tensor, 7.0)], dim=2)[:, :, 0]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda tensor: tensor,
    "padded rows": padded_rows,
    "aligned rows": aligned_rows,
    "channels apart": channels_apart,
    "same row": lambda tensor: tensor[:1].expand_as(tensor),
}


def normal(x: Tensor) -> Tensor:
    return x


def far_from_zero(x: Tensor) -> Tensor:
    """So far that float32 keeps but 10 bits of what varies, and narrow dtypes a few values."""
    return x.mul(1 if x.dtype == torch.float64 else 3).add(1e4)


def far_and_coarse(x: Tensor) -> Tensor:
    return x.mul(300).add(1e4)


def beyond_squares(x: Tensor) -> Tensor:
    """Whose squares do not fit a float."""
    return x.mul(1e22).add(1e23)


def far_apart(x: Tensor) -> Tensor:
    """Whose differences do not fit a float."""
    return x.clamp(-1, 1).mul(3.3e38)


def near_the_limit(x: Tensor) -> Tensor:
    return x.clamp(-3, 3).mul(1e37).add(3e38)


def outlier_first(x: Tensor) -> Tensor:
    x[0, :, 0] = 1000
    return x


def constant(x: Tensor) -> Tensor:
    return torch.full_like(x, 2.5)


def not_a_number(x: Tensor) -> Tensor:
    x[0, 0, 0] = torch.nan
    x[-1, -1, -1] = torch.inf
    return x


def overflown(gradient: Tensor) -> Tensor:
    """As in a training step whose loss was scaled too far: some channels, whatever is activated."""
    gradient[:, ::2] = torch.nan
    gradient[:, 1::4] = torch.inf
    return gradient


@dataclass(frozen=True)
class Case:
    """Input [outer, channels, inner] of a dtype, options."""

    name: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    layout: str = "dense"
    grad_layout: str = "dense"
    offset: int = 0  # elements by which the tensors are not aligned
    result_offset: int | None = None
    values: Callable[[Tensor], Tensor] = normal
    grad_values: Callable[[Tensor], Tensor] = normal
    weight: bool = True
    bias: bool = True
    running: torch.dtype | None = None
    running_step: int = 1  # from one of the running statistics to the next in memory
    needs_input: bool = True
    needs_parameters: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.name}-{'x'.join(map(str, self.shape))}-{str(self.dtype).split('.')[1]}"

    @property
    def compute(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def random(self, *shape: int, salt: int = 0) -> Tensor:
        seed = zlib.crc32(f"{self.id}{salt}".encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def input(self) -> Tensor:
        values = self.values(self.random(*self.shape) + 0.5)
        return LAYOUTS[self.layout](values.to(self.dtype))

    def grad_output(self) -> Tensor:
        values = self.grad_values(self.random(*self.shape, salt=1) + 0.25)
        return LAYOUTS[self.grad_layout](values.to(self.dtype))

    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        channels = self.shape[1]
        weight = self.random(channels, salt=2).to(self.compute) + 1.5 if self.weight else None
        bias = self.random(channels, salt=3).to(self.compute) if self.bias else None
        return weight, bias

    def running_statistics(self) -> tuple[Tensor | None, Tensor | None]:
        if self.running is None:
            return None, None
        values = self.random(2, self.shape[1], salt=4).to(self.running)
        values = values.repeat_interleave(self.running_step, 1)
        mean, variance = values[:, :: self.running_step]
        return mean, variance.abs_().add_(0.5)

    @property
    def is_large(self) -> bool:
        """Whether it takes seconds."""
        return math.prod(self.shape) > 1_000_000

    def on(self, device: Device, launchers: Launchers) -> BatchNorm:
        return BatchNorm(
            device, launchers, self.input(), *self.parameters(), self.all_options(),
            offset=self.offset, result_offset=self.result_offset,
        )  # fmt: skip

    def all_options(self) -> Options:
        return Options(**self.options)


def _table() -> list[Case]:
    cases: list[Case] = []

    def add(
        name: str, *shapes: tuple[int, int, int], dtypes: Any = tuple(NUMBERS), **rest: Any
    ) -> None:
        cases.extend(Case(name, shape, dtype, **rest) for shape in shapes for dtype in dtypes)

    half, _, single, double = ([dtype] for dtype in NUMBERS)
    narrow = [torch.float16, torch.bfloat16]
    evaluation: dict[str, Any] = {"options": {"training": False}, "running": torch.float32}
    activations = {"tanh": TANH, "relu": RELU}
    apart: dict[str, Any] = {"layout": "aligned rows", "grad_layout": "aligned rows", "offset": 1}
    apart["needs_input"] = False

    # Channels side by side: one row, one column, many of both, columns with and without vectors.
    add("columns", (37, 27, 1), (33, 200, 1), (150, 40, 1), (37, 16, 1), (130, 40, 1))
    add("one row", (1, 37, 1), dtypes=[torch.float16, torch.float64])
    add("one column", (37, 1, 1), (700, 1, 1), dtypes=[torch.bfloat16, torch.float32])
    add("one element", (1, 1, 1), dtypes=single)
    add("two rows", (2, 403, 1), dtypes=half)
    add("many columns", (3, 1032, 1), dtypes=single)
    add("many rows", (1100, 5, 1), (1030, 8, 1))
    # Planes, and those of so few elements that they are columns.
    add("small planes", (5, 3, 49), (2, 8, 49), dtypes=[torch.float16, torch.float32])
    add("small planes", (3, 5, 3), dtypes=double)
    add("many small planes", (130, 2, 64), dtypes=[torch.bfloat16, torch.float32])
    add("small planes apart", (700, 3, 3), (5, 3, 64), layout="channels apart",
        grad_layout="channels apart", dtypes=[torch.bfloat16, torch.float32])  # fmt: skip
    add("planes", (5, 7, 65), (3, 2, 196))
    add("one plane", (1, 1, 131), dtypes=[torch.bfloat16, torch.float32])
    add("large planes", (1, 2, 8300))
    add("many planes", (100, 2, 100))
    # More channels than whole blocks run at once, each in more parts than its block has threads.
    add("many channels", (1, 4096, 40), dtypes=single)
    # Beyond the number of blocks that there are at most, rows or elements for each grow.
    add("most blocks", (262_200, 68, 1), dtypes=single, needs_input=False)
    add("most blocks", (3, 2, 2_800_001), dtypes=half, needs_parameters=False)
    # A head moves units of the columns into another block: more parts than without one.
    add("most parts", (65_537, 50, 1), dtypes=single, **apart)
    add("most parts", (32_769, 97, 1), dtypes=[torch.bfloat16], **apart)
    # Activations, in either layout; corrections; evaluation.
    for name, activation in activations.items():
        options = {"activation": activation, "correction": 1.0}
        add(name, (37, 24, 1), (5, 3, 121), options=options)
        add(f"{name} evaluation", (9, 16, 1), (3, 3, 68), dtypes=[torch.bfloat16, torch.float32],
            running=torch.float32, options={"training": False, **options})  # fmt: skip
    add("evaluation", (9, 27, 1), (3, 5, 121), running=torch.float64,
        options={"training": False})  # fmt: skip
    add("evaluation without parameters", (9, 27, 1), (3, 5, 121), dtypes=single, weight=False,
        bias=False, **evaluation)  # fmt: skip
    for dtype in NUMBERS:
        add(f"running {str(dtype)[6:]}", (37, 27, 1), (3, 5, 80), running=dtype,
            options={"momentum": 0.3, "correction": float(dtype.itemsize == 2)})  # fmt: skip
    add("without weight", (37, 24, 1), (3, 5, 80), weight=False)
    add("without bias", (37, 24, 1), (3, 5, 80), bias=False)
    # Gradients that are not needed.
    for part in ("input", "parameters"):
        add(f"no gradient of {part}", (37, 24, 1), (3, 5, 80), **{f"needs_{part}": False})
        add(f"no gradient of {part} in evaluation", (37, 24, 1), (3, 5, 80), dtypes=single,
            **{f"needs_{part}": False}, **evaluation)  # fmt: skip
    add("no gradient", (37, 24, 1), (3, 5, 80), needs_input=False, needs_parameters=False)
    # What is not aligned has vectors between single elements, or none.
    for offset in range(1, 8):
        add(f"unaligned by {offset}", (33, 40, 1), (3, 2, 196), (3, 2, 197), offset=offset,
            dtypes=[torch.bfloat16, *(single if offset < 4 else [])])  # fmt: skip
    add("unlike alignment", (33, 40, 1), (3, 2, 196), result_offset=1, options={"activation": TANH})
    add("padded rows", (33, 21, 1), (33, 5, 1), (5, 3, 68), layout="padded rows",
        dtypes=[torch.float16, torch.float32])  # fmt: skip
    add("same gradient", (33, 24, 1), (5, 3, 68), grad_layout="same row",
        dtypes=[torch.float16, torch.float32])  # fmt: skip
    # Values.
    add("far from zero", (150, 24, 1), (5, 3, 121), values=far_from_zero,
        dtypes=[torch.float32, torch.float64])  # fmt: skip
    add("far from zero", (150, 24, 1), (5, 3, 121), values=far_and_coarse, dtypes=narrow)
    add("beyond squares", (37, 24, 1), (5, 3, 121), values=beyond_squares,
        dtypes=[torch.bfloat16, torch.float32])  # fmt: skip
    for name, values in {"far apart": far_apart, "near the limit": near_the_limit}.items():
        add(name, (37, 24, 1), (5, 3, 121), values=values, dtypes=[torch.bfloat16, torch.float32],
            running=torch.float64)  # fmt: skip
    add("outlier first", (150, 24, 1), (5, 3, 121), values=outlier_first,
        dtypes=[torch.float16, torch.float32])  # fmt: skip
    add("constant", (37, 24, 1), (3, 5, 80), values=constant, dtypes=[torch.float16, torch.float64])
    add("not a number", (37, 24, 1), (3, 5, 121), values=not_a_number, running=torch.float32,
        options={"activation": RELU})  # fmt: skip
    add("overflown gradient", (37, 24, 1), (3, 6, 121), grad_values=overflown)
    for name, activation in activations.items():
        add(f"overflown gradient {name}", (37, 24, 1), grad_values=overflown,
            options={"activation": activation})  # fmt: skip
    add("empty", (0, 5, 1), (0, 5, 80), (3, 5, 0), (3, 0, 1), dtypes=single)
    add("empty evaluation", (0, 5, 1), dtypes=single, **evaluation)
    return cases


CASES = _table()
PARTS = [
    Case("part", shape, dtype, options=options, **rest)
    for shape in ((37, 24, 1), (5, 3, 121))
    for dtype in NUMBERS
    for options, rest in (
        ({}, {}),
        ({"activation": TANH, "correction": 1.0}, {"weight": False}),
        ({"activation": RELU}, {"offset": 1, "result_offset": 2}),
    )
]
HUGE_DOUBLES = ((37, 24, 1), (5, 3, 121))
