"""What must come of a call of batch norm's launchers: by the formulas, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from batch_norm_table import RELU, TANH, Case
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched_batch_norm import BatchNorm, Options
from torch import Tensor

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
    call = case.on(device, launchers)
    output, statistics, running_mean, running_var = call.forward(*case.running_statistics())
    results = [output, statistics]
    if 0 in case.shape:
        assert not statistics.any()
        if running_mean is not None:
            assert running_mean.equal(case.running_statistics()[0])
        activated = output if options.activation else None
        _, *sums = call.backward(case.grad_output(), activated, statistics, needs_sums=True)
        assert not any(of_channel.any() for of_channel in sums)
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

    *grads, _ = call.backward(
        case.grad_output(), output if options.activation else None, statistics,
        needs_input=case.needs_input, needs_parameters=case.needs_parameters,
    )  # fmt: skip
    expected_input, expected_weight, expected_bias, sizes = truth.gradients(output)
    grad_input, grad_weight, grad_bias = grads
    lost = ~expected_bias.isfinite()  # one such gradient takes those of its channel with it
    for gradient in grads:
        if gradient is not None:
            assert not gradient.movedim(min(1, gradient.dim() - 1), 0)[lost].isfinite().any()
    if grad_input is not None:
        scale = (case.grad_output() * factors)[:, ~lost]
        close(grad_input[:, ~lost], expected_input[:, ~lost], case.dtype, scale, of_mean)
    if grad_weight is not None and grad_bias is not None:
        beside = of_mean * _largest(sizes)
        close(grad_weight[~lost], expected_weight[~lost], case.compute, sizes, beside)
        close(grad_bias[~lost], expected_bias[~lost], case.compute, sizes)
    results += [gradient for gradient in grads if gradient is not None]
    return [result.contiguous().view(torch.uint8).numpy().tobytes() for result in results]


def check_part(case: Case, launchers: Launchers, device: Device) -> None:
    """The steps of a batch that others have parts of, against those of a whole one."""
    call = case.on(device, launchers)
    output, statistics, *_ = call.forward()
    alone = call.forward(needs_output=False)[1]
    torch.testing.assert_close(alone, statistics, rtol=STATISTICS_BOUNDS[case.compute], atol=1e-7)
    activated = output if case.all_options().activation else None
    given = case.grad_output(), activated, statistics
    grad_input, grad_weight, grad_bias, sums = call.backward(*given, needs_sums=True)
    *_, alone = call.backward(*given, needs_input=False, needs_parameters=False, needs_sums=True)
    close(alone, sums, case.compute)
    assert torch.equal(sums.to(grad_weight.dtype), torch.stack([grad_bias, grad_weight]))
    count = case.shape[0] * case.shape[2]
    degrees = count - case.all_options().correction
    shares = sums / torch.tensor([[count], [degrees]])
    of_part = call.backward(*given, needs_parameters=False, shares=shares)[0]
    assert torch.equal(of_part, grad_input)
    # Of a batch twice as large, whose other half has no gradient.
    halved = call.backward(*given, needs_parameters=False, shares=shares / 2)[0]
    truth = Truth.of(case)
    factors = (truth.weight() * truth.invstd)[:, None]
    of_mean, of_variance = shares[:, :, None]
    fed_back = factors * (of_mean + truth.xhat() * of_variance)
    expected = truth.gradients(output)[0] + fed_back / 2
    close(halved, expected, case.dtype, case.grad_output() * factors)


def check_huge_doubles(shape: tuple[int, int, int], launchers: Launchers, device: Device) -> None:
    """Whose squares overflow: as those of a tenth of the exponent, but for the scale of the input's
    gradient."""
    case = Case("doubles", shape, torch.float64, values=lambda x: x.clamp(-3, 3))
    results = []
    for scale in (0.0, 1021.0):
        input = case.input() * 2**scale
        norm = BatchNorm(device, launchers, input, *case.parameters(), Options(eps=0.0))
        output, statistics, *_ = norm.forward(None, None)
        grad_input, *of_parameters, _ = norm.backward(case.grad_output(), None, statistics)
        assert grad_input is not None
        results.append((output, grad_input * 2**scale, *of_parameters))
    torch.testing.assert_close(*results)
