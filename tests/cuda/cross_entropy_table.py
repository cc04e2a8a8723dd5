"""Every call of cross entropy's launchers that the tests make, and what must come of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from cross_entropy_cases import indices, probabilities
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS, CrossEntropy, Placed, call, class_dim
from torch import Tensor

import makemore_ext  # noqa: F401  registers the operators

operators = torch.ops.makemore_ext
NONE, MEAN, SUM = 0, 1, 2

# The largest error allowed: relative, and absolute for what an upstream gradient of 1 gives. A
# gradient is rounded once to its dtype; float32 takes a few roundings to compute.
BOUNDS = {
    torch.float16: (2**-10.9, 2**-24),
    torch.bfloat16: (2**-7.9, 2**-24),
    torch.float32: (2e-6, 2e-7),
    torch.float64: (1e-13, 1e-15),
}


def _every_other(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _row_padding(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, torch.full_like(tensor, 7.0)[..., :3]], dim=-1)[
        ..., : tensor.shape[-1]
    ]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "transposed": lambda tensor: tensor.mT.contiguous().mT,
    "channels last": lambda tensor: tensor.movedim(1, -1).contiguous().movedim(-1, 1),
    "every other": _every_other,
    "row padding": _row_padding,
    "same row": lambda tensor: tensor[:1].expand_as(tensor),
}


def _normal(logits: Tensor) -> Tensor:
    return logits


def _one_infinite(logits: Tensor) -> Tensor:
    """The last class of every row is -inf, and all of the first row."""
    logits.select(class_dim(logits), -1).fill_(-torch.inf)
    logits[0] = -torch.inf
    return logits


def _first_half_infinite(logits: Tensor) -> Tensor:
    """-inf in the classes that a thread meets first."""
    half = logits.shape[class_dim(logits)] // 2
    logits.narrow(class_dim(logits), 0, half).fill_(-torch.inf)
    return logits


def _not_a_number(logits: Tensor) -> Tensor:
    logits[0].view(-1)[0] = torch.nan
    return logits


def _confident(logits: Tensor) -> Tensor:
    """The first class is 12 above the others, which are 0."""
    logits.fill_(0).select(class_dim(logits), 0).fill_(12)
    return logits


def _ascending(logits: Tensor) -> Tensor:
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
    logits: Callable[[Tensor], Tensor] = _normal
    weight: bool = False
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
    add("many rows", (8200, 3), dtypes=single)
    add("columns of many classes", (2, 1027, 5), dtypes=[torch.float16, torch.float64])
    add("one row", (27,), (9000,), options={"reduction": SUM, **smoothing})
    add("eight row dimensions", (1, 2, 3, 2, 1, 2, 2, 2, 2), dtypes=single)
    # What is not aligned has vectors between single elements, or none.
    for offset in (1, 3):
        add("unaligned", (3, 45), (2, 1100), offset=offset, gradient_offset=offset,
            dtypes=[torch.bfloat16, torch.float32])
    add("unlike alignment", (3, 45), (2, 1100), offset=1, options=smoothing)
    add("unaligned gradient", (3, 45), gradient_offset=1)
    add("transposed", (35, 6), (40, 150), layout="transposed", dtypes=[torch.float16,
        torch.float32])
    add("every other", (5, 33), layout="every other", dtypes=single)
    add("row padding", (5, 33), layout="row padding", dtypes=[torch.bfloat16, torch.float64])
    add("same row", (5, 33), layout="same row", dtypes=half)
    add("channels last", (2, 21, 3, 5), layout="channels last", dtypes=[torch.bfloat16])
    # Options.
    add("none", (5, 33), (3, 7, 4), options={"reduction": NONE})
    add("weight", (5, 33), (3, 7, 4), weight=True, dtypes=half + single)
    add("smoothing", (5, 33), (3, 7, 4), options=smoothing, dtypes=half + single)
    add("everything", (37, 13), (3, 70, 5), weight=True, options=everything)
    add("everything", (3, 1030), weight=True, options=everything, dtypes=half + single)
    add("everything sum", (9, 13), weight=True, options={"reduction": SUM, **everything})
    add("all smoothing", (5, 33), options={"label_smoothing": 1.0}, dtypes=single)
    add("uint8", (5, 33), (3, 7, 4), target="uint8", options={"ignore_index": 3}, dtypes=single)
    add("all ignored", (4, 1), options={"ignore_index": 0})
    add("z loss", (5, 33), options={"lse_square_scale": 0.1, "reduction": NONE}, dtypes=single)
    add("probabilities", (5, 33), (3, 1030), (3, 7, 4), target="probabilities")
    add("probabilities weight smoothing", (5, 33), (3, 7, 4), target="probabilities", weight=True,
        options={**smoothing, "lse_square_scale": 0.01}, dtypes=half + single)
    add("probabilities of another layout", (9, 33), target="probabilities", layout="transposed",
        dtypes=half, options={"reduction": SUM})
    # Values.
    add("minus infinity", (5, 33), (3, 1030), (3, 7, 4), logits=_one_infinite,
        options={"reduction": NONE}, dtypes=half + single)
    add("minus infinity first", (3, 45), (2, 1100), (2, 40, 3), logits=_first_half_infinite,
        dtypes=single)
    add("minus infinity smoothing", (5, 33), logits=_one_infinite, options={"reduction": NONE,
        **smoothing})
    add("not a number", (5, 33), (3, 7, 4), logits=_not_a_number, options={"reduction": NONE},
        dtypes=single)
    add("confident", (4, 3), (4, 1030), (4, 40, 3), logits=_confident, options={"reduction": NONE},
        dtypes=[torch.bfloat16, torch.float32])
    add("ascending", (4, 45), (2, 1100), (2, 40, 3), logits=_ascending,
        options={"reduction": NONE}, dtypes=single)
    add("no rows", (0, 5), (0, 1100), (0, 5, 3))
    add("no rows sum", (0, 5), options={"reduction": SUM, **smoothing}, dtypes=single)
    # fmt: on
    return cases


CASES = _table()


def truth(case: Case) -> tuple[Tensor, Tensor]:
    """loss and gradient by autograd, in float64."""
    logits, target, weight = case.tensors()
    reduction, ignore_index, smoothing, z = case.operator_options()
    grad_output, grad_lse = case.upstream()
    x = logits.double().detach().requires_grad_()
    rows = x.movedim(class_dim(x), -1).reshape(-1, x.shape[class_dim(x)])
    classes = rows.shape[1]
    lse = rows.logsumexp(1)
    w = torch.ones(classes, dtype=torch.float64) if weight is None else weight.double()
    if target.is_floating_point():
        q = target.double().movedim(class_dim(x), -1).reshape(-1, classes)
        valid, total = torch.ones_like(lse, dtype=torch.bool), float(len(rows))
    else:
        index = target.long().reshape(-1)
        valid = index != ignore_index
        q = torch.nn.functional.one_hot(index.where(valid, 0), classes).double()
        total = w[index[valid]].sum()
    v = w * ((1 - smoothing) * q + smoothing / classes)
    loss = (v * (lse[:, None] - rows)).sum(1) + z * lse.square()
    loss = loss.where(valid, 0)
    if reduction == NONE:
        loss = loss.view(grad_output.shape)
    else:
        loss = loss.sum() / total if reduction == MEAN else loss.sum()
    (gradient,) = torch.autograd.grad(
        (loss * grad_output.double()).sum() + (lse * grad_lse.double().reshape(-1)).sum(), x
    )
    return loss.detach(), gradient


def check(case: Case, launchers: Launchers, device: Device) -> list[bytes]:
    """Every launcher on one case, against the CPU's kernels and the truth; returns the bits."""
    logits, target, weight = case.tensors()
    options = case.operator_options()
    grad_output, grad_lse = case.upstream()
    call = case.on(device)
    loss, statistics, total, _ = call.forward(launchers)
    gradient = call.backward(launchers, statistics, total, grad_output, grad_lse)
    results = [loss, statistics, total, gradient]

    expected_loss, expected_statistics, expected_total = operators.cross_entropy_forward(
        logits, target, weight, *options
    )
    expected = operators.cross_entropy_backward(
        grad_output, grad_lse, logits, target, weight, expected_statistics, expected_total, *options
    )
    close(loss, expected_loss, case.compute)
    close(statistics, expected_statistics, case.compute)
    close(total, expected_total, torch.float64)
    close(gradient, expected, case.dtype)
    if case.logits in (_normal, _confident, _ascending) and logits.numel():
        true_loss, true_gradient = truth(case)
        # A sum of terms of one sign: even of a loss near zero every digit is there.
        close(loss, true_loss, case.compute, absolute=1e-12)
        close(gradient, true_gradient, case.dtype)

    if case.reduction != NONE:  # the gradient that forward forms is that of an upstream of one
        both = call.forward(launchers, with_gradient=True)
        alone = operators.cross_entropy_forward_with_gradient(logits, target, weight, *options)[1]
        assert both[0].equal(loss) or loss.isnan()
        close(both[3], alone, case.dtype)
        results.append(both[3])
    if case.layout in ("contiguous", "transposed"):
        in_place = call.backward(launchers, statistics, total, grad_output, grad_lse, in_place=True)
        close(in_place, expected, case.dtype)
    return [result.contiguous().view(torch.uint8).numpy().tobytes() if result.numel() else b""
            for result in (r.reshape(-1) for r in results)]  # fmt: skip


def check_outside(case: Case, target: int, launchers: Launchers, device: Device) -> None:
    """With this target in row 2, which is no class, only that row is NaN."""
    logits, index, weight = case.tensors()
    index[2] = target
    made = CrossEntropy(device, logits, index, weight=weight, reduction=NONE)
    loss, statistics, total, _ = made.forward(launchers)
    ones = torch.ones_like(loss)
    gradient = made.backward(launchers, statistics, total, ones)
    bad = torch.zeros(len(logits), dtype=torch.bool)
    bad[2] = True
    for result in (loss, gradient):
        assert result[bad].isnan().all()
        assert result[~bad].isfinite().all()
    inside = torch.ones(index[~bad].shape) if weight is None else weight[index[~bad]]
    torch.testing.assert_close(total, inside.double().sum())


def check_scale(
    count: int, offset: int, factor: float, dtype: torch.dtype, launchers: Launchers, device: Device
) -> None:
    """So many elements, `offset` of them from their alignment, times the factor."""
    gradient = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(dtype)
    by = torch.tensor(factor, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    placed = Placed(device, gradient, offset)
    arguments = (placed.buffer, count, Placed(device, by).buffer)
    call(launchers, device, "scale", NUMBERS[dtype], *arguments)
    operators.cross_entropy_scale_(gradient, by)
    assert placed.tensor().equal(gradient)


def close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype, absolute: float | None = None
) -> None:
    bounds = BOUNDS[dtype]
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=bounds[0],
        atol=bounds[1] if absolute is None else absolute,
        equal_nan=True,
    )
