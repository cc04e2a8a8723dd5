"""Every call of batch norm's launchers that the tests make, and what must come of it."""

from __future__ import annotations

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

# The largest error allowed of what is stored in a dtype: relative to the value, and to the largest
# one of its kind. Results are rounded once to their dtype, and before that computed in float32 with
# a few roundings, or in float64.
BOUNDS = {
    torch.float16: (2**-10.9, 1e-6),
    torch.bfloat16: (2**-7.9, 1e-6),
    torch.float32: (1e-6, 1e-6),
    torch.float64: (1e-13, 1e-14),
}
FINEST = {torch.float16: 2**-25}  # half the smallest step between its numbers
# Of statistics, relative to the standard deviation and the variance.
STATISTICS_BOUNDS = {torch.float32: 2e-7, torch.float64: 1e-13}


def padded_rows(tensor: Tensor) -> Tensor:
    """With a gap of 3 channels after each row."""
    wide = torch.cat([tensor, torch.full_like(tensor, 7.0)[:, :1].expand(-1, 3, -1)], dim=1)
    return wide[:, : tensor.shape[1]]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda tensor: tensor,
    "padded rows": padded_rows,
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
        values = self.random(*self.shape, salt=1) + 0.25
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

    # Channels side by side: one row, one column, many of both, columns with and without vectors.
    add("columns", (37, 27, 1), (33, 200, 1), (150, 40, 1))
    add("one row", (1, 37, 1), dtypes=[torch.float16, torch.float64])
    add("one column", (37, 1, 1), (700, 1, 1), dtypes=[torch.bfloat16, torch.float32])
    add("one element", (1, 1, 1), dtypes=single)
    add("two rows", (2, 403, 1), dtypes=half)
    add("many columns", (3, 1032, 1), dtypes=single)
    add("many rows", (1100, 5, 1), (1030, 8, 1), dtypes=[torch.bfloat16, torch.float32])
    # Planes, and those of so few elements that they are columns.
    add("small planes", (5, 3, 49), dtypes=[torch.float16, torch.float32])
    add("small planes", (3, 5, 3), dtypes=double)
    add("many small planes", (130, 2, 64), dtypes=[torch.bfloat16, torch.float32])
    add("planes", (5, 7, 65), (3, 2, 196))
    add("one plane", (1, 1, 131), dtypes=[torch.bfloat16, torch.float32])
    add("large planes", (1, 2, 8300), dtypes=[torch.float16, torch.float32])
    add("many planes", (100, 2, 100), dtypes=[torch.bfloat16, torch.float64])
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
        add(f"running {str(dtype)[6:]}", (37, 27, 1), (3, 5, 80), dtypes=single, running=dtype,
            options={"momentum": 0.3, "correction": float(dtype.itemsize == 2)})  # fmt: skip
    add("running of its own dtype", (37, 8, 1), dtypes=narrow, running=torch.float16)
    add("without weight", (37, 24, 1), (3, 5, 80), dtypes=half, weight=False)
    add("without bias", (37, 24, 1), (3, 5, 80), dtypes=single, bias=False)
    # Gradients that are not needed.
    for part in ("input", "parameters"):
        for where in ({}, evaluation):
            add(f"no gradient of {part}", (37, 24, 1), (3, 5, 80), dtypes=single,
                **{f"needs_{part}": False}, **where)  # fmt: skip
    add("no gradient", (37, 24, 1), (3, 5, 80), dtypes=single, needs_input=False,
        needs_parameters=False)  # fmt: skip
    # What is not aligned has vectors between single elements, or none.
    for offset in (1, 3):
        add("unaligned", (33, 40, 1), (3, 2, 196), (3, 2, 197), offset=offset,
            dtypes=[torch.bfloat16, torch.float32])  # fmt: skip
    add("unlike alignment", (33, 40, 1), (3, 2, 196), result_offset=1,
        dtypes=[torch.float16, torch.float32], options={"activation": TANH})  # fmt: skip
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
    add("not a number", (37, 24, 1), (3, 5, 80), values=not_a_number, dtypes=single,
        options={"activation": RELU}, running=torch.float32)  # fmt: skip
    add("empty", (0, 5, 1), (0, 5, 80), (3, 5, 0), (3, 0, 1), dtypes=single)
    add("empty evaluation", (0, 5, 1), dtypes=single, **evaluation)
    return cases


CASES = _table()


@dataclass
class Truth:
    """Batch norm by its formulas, in float64; xhat, z: [outer, channels, inner]."""

    case: Case
    x: Tensor
    mean: Tensor
    variance: Tensor
    invstd: Tensor

    @staticmethod
    def of(case: Case) -> Truth:
        x = case.input().double()
        options = case.all_options()
        count = max(1, x.numel() // max(1, x.shape[1]))
        if options.training:
            mean = x.mean((0, 2))
            squares = (x - mean[:, None]).square().sum((0, 2))
            variance = squares / (count - options.correction)
        else:
            mean, variance = (tensor.double() for tensor in case.running_statistics())  # type: ignore[union-attr]
        return Truth(case, x, mean, variance, (variance + options.eps).rsqrt())

    def weight(self) -> Tensor:
        weight = self.case.parameters()[0]
        return torch.ones_like(self.mean) if weight is None else weight.double()

    def xhat(self) -> Tensor:
        return (self.x - self.mean[:, None]) * self.invstd[:, None]

    def output(self) -> Tensor:
        bias = self.case.parameters()[1]
        z = self.xhat() * self.weight()[:, None]
        z = z if bias is None else z + bias.double()[:, None]
        activation = self.case.all_options().activation
        return z.tanh() if activation == TANH else z.relu() if activation == RELU else z

    def running(self) -> tuple[Tensor, Tensor]:
        options = self.case.all_options()
        mean, variance = (tensor.double() for tensor in self.case.running_statistics())  # type: ignore[union-attr]
        if not options.training:
            return mean, variance
        count = self.x.numel() // self.x.shape[1]
        unbiased = self.variance * (count - options.correction) / (count - 1)
        share = options.momentum
        return (1 - share) * mean + share * self.mean, (1 - share) * variance + share * unbiased

    def gradients(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of input, weight and bias, from the output as it was rounded; sum |dz| (1 + |xhat|)."""
        options = self.case.all_options()
        dz, y = self.case.grad_output().double(), output.double()
        if options.activation == TANH:
            dz = dz * (1 - y.square())
        elif options.activation == RELU:
            dz = dz.masked_fill(y <= 0, 0)
        xhat = self.xhat()
        grad_bias, grad_weight = dz.sum((0, 2)), (dz * xhat).sum((0, 2))
        grad_input = dz
        if options.training:
            count = self.x.numel() // self.x.shape[1]
            grad_input = dz - (grad_bias / count)[:, None]
            grad_input = grad_input - xhat * (grad_weight / (count - options.correction))[:, None]
        grad_input = grad_input * (self.weight() * self.invstd)[:, None]
        return grad_input, grad_weight, grad_bias, (dz.abs() * (1 + xhat.abs())).sum((0, 2))


def _largest(sizes: Tensor) -> float:
    finite = sizes[sizes.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 1.0


def close(
    actual: Tensor,
    expected: Tensor,
    dtype: torch.dtype,
    scale: Tensor | None = None,
    beside: float = 0.0,
) -> None:
    relative, absolute = BOUNDS[dtype]
    largest = _largest(expected if scale is None else scale)
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=relative,
        atol=absolute * largest + FINEST.get(dtype, 0) + beside,
        equal_nan=True,
    )


def check(case: Case, launchers: Launchers, device: Device) -> list[bytes]:
    """Every launcher on one case, against the truth; returns the bits."""
    options = case.all_options()
    call = BatchNorm(
        device, launchers, case.input(), *case.parameters(), options, offset=case.offset,
        result_offset=case.result_offset,
    )  # fmt: skip
    output, statistics, running_mean, running_var = call.forward(*case.running_statistics())
    results = [output, statistics]
    if case.input().numel() == 0:
        assert not statistics.any()
        if running_mean is not None:
            assert running_mean.equal(case.running_statistics()[0])
        activated = output if options.activation else None
        _, *of_parameters = call.backward(case.grad_output(), activated, statistics)
        assert not any(gradient.any() for gradient in of_parameters)
        return []

    truth = Truth.of(case)
    factors = (truth.weight() * truth.invstd)[:, None]
    # The mean itself, a float64, is not exact.
    of_mean = 2**-52 * _largest(truth.mean[:, None] * factors)
    known = truth.variance.isfinite() & truth.mean.isfinite()
    assert not statistics[0, ~known].isfinite().any()
    assert statistics[1, ~known].isnan().all()
    bound = STATISTICS_BOUNDS[case.compute] + 2 * of_mean
    error = (statistics[0] - truth.mean).abs()[known]
    assert (error <= bound * truth.variance.sqrt()[known] + 2**-52 * truth.mean.abs()[known]).all()
    torch.testing.assert_close(statistics[1][known], truth.variance[known], rtol=bound, atol=1e-25)
    torch.testing.assert_close(statistics[2][known], truth.invstd[known], rtol=bound, atol=0)
    close(output, truth.output(), case.dtype, beside=of_mean)
    if running_mean is not None and running_var is not None and case.running is not None:
        for actual, expected in zip((running_mean, running_var), truth.running(), strict=True):
            narrower = max(case.running, case.compute, key=lambda dtype: BOUNDS[dtype][0])
            close(actual[known], expected[known], narrower)
            results.append(actual)

    grads = call.backward(
        case.grad_output(), output if options.activation else None, statistics,
        needs_input=case.needs_input, needs_parameters=case.needs_parameters,
    )  # fmt: skip
    expected_input, expected_weight, expected_bias, sizes = truth.gradients(output)
    grad_input, grad_weight, grad_bias = grads
    if grad_input is not None:
        close(grad_input, expected_input, case.dtype, case.grad_output() * factors, of_mean)
    if grad_weight is not None and grad_bias is not None:
        close(grad_weight, expected_weight, case.compute, sizes, of_mean * _largest(sizes))
        close(grad_bias, expected_bias, case.compute, sizes)
    results += [gradient for gradient in grads if gradient is not None]
    return [result.contiguous().view(torch.uint8).numpy().tobytes() for result in results]
