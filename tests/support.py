"""What several tests share: data, layouts, threads, distance from truth, other processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def _offset(tensor: Tensor) -> Tensor:
    padded = torch.full((tensor.numel() + 3,), torch.nan, dtype=tensor.dtype)
    padded[3:] = tensor.reshape(-1)
    return padded[3:].view(tensor.shape)


def _every_other(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


# Each gives a tensor of the same values with other strides or another offset.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor.clone(memory_format=torch.contiguous_format),
    "transposed": lambda tensor: tensor.t().contiguous().t(),
    "offset": _offset,
    "every other": _every_other,
    "row padding": lambda tensor: torch.cat([tensor, tensor], dim=1)[:, : tensor.shape[1]],
}


def permuted(tensor: Tensor) -> Tensor:
    """The last dimension is the slowest in memory but for the first, which is the fastest."""
    order = [*range(tensor.dim() - 1, 0, -1), 0]
    inverse = sorted(range(tensor.dim()), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(inverse)


def padded(tensor: Tensor) -> Tensor:
    """Every dimension is part of a longer one."""
    wide = torch.full([size + 2 for size in tensor.shape], torch.nan, dtype=tensor.dtype)
    inside = wide[tuple(slice(1, size + 1) for size in tensor.shape)]
    return inside.copy_(tensor)


# The same for more dimensions; some repeat a value.
ND_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: LAYOUTS[name] for name in ("contiguous", "offset", "every other")},
    "channels last": lambda tensor: tensor.movedim(1, -1).contiguous().movedim(-1, 1),
    "permuted": permuted,
    "padded": padded,
    "first dimension last": lambda tensor: tensor.movedim(0, -1).contiguous().movedim(-1, 0),
    "first dimension last, padded": lambda tensor: padded(tensor.movedim(0, -1)).movedim(-1, 0),
    "expanded pixels": lambda tensor: tensor[..., :1].expand_as(tensor),
}


seed_shift = 0  # what `pytest --seed` says


def seeded(seed: int = 0) -> torch.Generator:
    """Where a test draws its data from: with every `--seed` from somewhere else."""
    return torch.Generator().manual_seed(seed + 1_000_003 * seed_shift)


def seed_default_generator() -> None:
    torch.manual_seed(1_000_003 * seed_shift)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the body with `count` threads of torch's pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def upstream(output: Tensor) -> Tensor:
    """A gradient for it, of its dtype, the same numbers in every one."""
    steps = torch.linspace(0.5, 2, output.numel(), dtype=torch.float64)
    return steps.bfloat16().to(output.dtype).view(output.shape)


def error(value: Tensor, truth: Tensor) -> float:
    """The largest absolute distance from a float64 truth."""
    return (value.double() - truth).abs().max().item() if truth.numel() else 0.0


def spacing(truth: Tensor, dtype: torch.dtype) -> float:
    """The rounding error that no result in `dtype` can avoid: half a unit in the last place."""
    return truth.abs().max().item() * torch.finfo(dtype).eps / 2 if truth.numel() else 0.0


def assert_few_roundings(
    actual: Tensor,
    truth: Tensor,
    terms: Tensor,
    roundings: float,
    compute: torch.dtype = torch.float32,
) -> None:
    """Holds each element to its last rounding and so many half ulps, in `compute`, of its terms."""
    finite = truth.isfinite()
    assert torch.equal(actual.isfinite(), finite)
    kind = torch.finfo(actual.dtype)
    last = (truth.abs() + kind.smallest_normal) * kind.eps / 2
    limit = last + roundings * terms * torch.finfo(compute).eps / 2
    assert ((actual.double() - truth).abs() <= limit)[finite].all()


def mean_error(value: Tensor, truth: Tensor, size: Tensor | None = None) -> float:
    """The mean distance from a float64 truth, in units of the `spacing` of `size` or the truth.

    No element counts for more than 100, so that one that is lost altogether hides no other.
    """
    finite = truth.isfinite()
    unit = spacing(truth[finite] if size is None else size, value.dtype)
    errors = (value.double() - truth)[finite].abs()
    return (errors / unit).clamp(max=100).mean().item() if unit else errors.sum().item()


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
