"""What must come of a call of cross entropy's launchers: as the CPU's kernels, and as autograd in
float64."""

from __future__ import annotations

import torch
from cross_entropy_table import MEAN, NONE, Case, Scale, ascending, confident, normal, operators
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched_cross_entropy import CrossEntropy, class_dim
from torch import Tensor

# The largest error allowed: relative, and absolute for what an upstream gradient of 1 gives. A
# gradient is rounded once to its dtype; float32 takes a few roundings to compute.
BOUNDS = {
    torch.float16: (2**-10.9, 2**-24),
    torch.bfloat16: (2**-7.9, 2**-24),
    torch.float32: (2e-6, 2e-7),
    torch.float64: (1e-13, 1e-15),
}


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
        loss = loss.sum() / (total or torch.nan) if reduction == MEAN else loss.sum()
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

    expected_loss, expected_statistics, expected_total, _ = operators.cross_entropy_forward(
        logits, target, weight, *options
    )
    expected = operators.cross_entropy_backward(
        grad_output, grad_lse, logits, target, weight, expected_statistics, expected_total, *options
    )
    alike(loss, expected_loss, case.compute)
    alike(statistics, expected_statistics, case.compute)
    alike(total, expected_total, torch.float64)
    alike(gradient, expected, case.dtype)
    if case.logits in (normal, confident, ascending) and logits.numel():
        true_loss, true_gradient = truth(case)
        # A sum of terms of one sign: even of a loss near zero every digit is there.
        close(loss, true_loss, case.compute, absolute=1e-12)
        close(gradient, true_gradient, case.dtype)

    if case.reduction != NONE:  # the gradient that forward forms is that of an upstream of one
        both = call.forward(launchers, with_gradient=True, keep_statistics=False)
        alone = operators.cross_entropy_forward_with_gradient(logits, target, weight, *options)[1]
        assert both[0].equal(loss) or loss.isnan()
        alike(both[3], alone, case.dtype)
        results.append(both[3])
    if case.layout in ("contiguous", "transposed"):
        in_place = call.backward(launchers, statistics, total, grad_output, grad_lse, in_place=True)
        alike(in_place, expected, case.dtype)
    return [result.contiguous().view(torch.uint8).numpy().tobytes() if result.numel() else b""
            for result in (r.reshape(-1) for r in results)]  # fmt: skip


def check_outside(case: Case, target: int, launchers: Launchers, device: Device) -> None:
    """With this target in row 2, which is no class, only that row is NaN."""
    logits, index, weight = case.tensors()
    index[2] = target
    made = CrossEntropy(device, logits, index, weight=weight, reduction=NONE, **case.options)
    loss, statistics, total, _ = made.forward(launchers)
    gradient = made.backward(launchers, statistics, total, torch.ones_like(loss))
    bad = torch.zeros(len(logits), dtype=torch.bool)
    bad[2] = True
    for result in (loss, gradient):
        assert result[bad].isnan().all()
        assert result[~bad].isfinite().all()
    inside = torch.ones(index[~bad].shape) if weight is None else weight[index[~bad]]
    torch.testing.assert_close(total, inside.double().sum())


def check_scale(scale: Scale, launchers: Launchers, device: Device) -> None:
    gradient, target, by = scale.tensors()
    ignored = target == scale.ignore_index
    if not target.is_floating_point():
        gradient.movedim(class_dim(gradient), -1)[ignored] = 0
    placed = scale.launch(launchers, device, gradient, target, by)
    operators.cross_entropy_scale_(gradient, by, target, scale.ignore_index)
    torch.testing.assert_close(placed.tensor(), gradient, rtol=0, atol=0, equal_nan=True)


def close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype, absolute: float | None = None
) -> None:
    """To the truth."""
    bounds = BOUNDS[dtype]
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=bounds[0],
        atol=bounds[1] if absolute is None else absolute,
        equal_nan=True,
    )


def alike(actual: Tensor, other: Tensor, dtype: torch.dtype) -> None:
    """Two results, each of which may be so far from the truth."""
    relative, absolute = (2 * bound for bound in BOUNDS[dtype])
    torch.testing.assert_close(
        actual.double(), other.double(), rtol=relative, atol=absolute, equal_nan=True
    )
