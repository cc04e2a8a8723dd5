"""Every call of the embedding's launcher that the tests make, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cuda_bench import Device
from cuda_bench.launchers import Launchers
from launched import NUMBERS
from launched_embedding import embedding_backward
from torch import Tensor

# The largest error allowed, relative to the sum of the magnitudes: one rounding to the dtype, and
# in float32 those of the parts that long runs are cut in.
BOUNDS = {
    torch.float16: 2**-10.9,
    torch.bfloat16: 2**-7.9,
    torch.float32: 2e-7,
    torch.float64: 1e-14,
}


@dataclass(frozen=True)
class Case:
    """grad_output [tokens, features], indices below `vocabulary`, or all `only`."""

    tokens: int
    vocabulary: int
    features: int
    dtype: torch.dtype
    only: int | None = None
    layout: str = "contiguous"
    offset: int = 0

    @property
    def id(self) -> str:
        parts = [f"{self.tokens}x{self.vocabulary}x{self.features}", str(self.dtype).split(".")[1]]
        parts += [] if self.only is None else [f"only {self.only}"]
        parts += [] if self.layout == "contiguous" else [self.layout]
        parts += [] if self.offset == 0 else ["unaligned"]
        return "-".join(parts)

    def tensors(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.tokens)
        grad_output = torch.randn(self.tokens, self.features, generator=generator).to(self.dtype)
        if self.layout == "transposed":
            grad_output = grad_output.T.contiguous().T
        if self.layout == "every other":
            grad_output = torch.stack([grad_output, grad_output + 1], 2).flatten(1)[:, ::2]
        if self.layout == "row padding":
            grad_output = torch.cat([grad_output, grad_output], 1)[:, : self.features]
        if self.only is not None:
            return grad_output, torch.full((self.tokens,), self.only)
        return grad_output, torch.randint(0, self.vocabulary, (self.tokens,), generator=generator)


CASES = [
    # Runs within a chunk of 32 and across chunks; features that are vectors and that are not.
    *(
        Case(tokens, vocabulary, features, dtype)
        for dtype in NUMBERS
        for tokens, vocabulary, features in (
            *((96, 27, 10), (1, 1, 1), (31, 3, 16), (65, 1, 24), (200, 3, 70), (40, 1000, 8)),
            (0, 5, 4),
        )
    ),
    *(Case(300, 2, 8, dtype, only=1) for dtype in NUMBERS),
    *(Case(70, 5, 272, dtype) for dtype in NUMBERS),
    *(Case(70, 5, 16, dtype, layout="transposed") for dtype in NUMBERS),
    *(Case(70, 5, 16, dtype, layout="every other") for dtype in NUMBERS),
    *(Case(70, 5, 16, dtype, layout="row padding") for dtype in NUMBERS),
    *(Case(70, 5, 16, dtype, offset=1) for dtype in NUMBERS),
    Case(64, 3, 16, torch.float32, only=2),
    Case(33, 3, 16, torch.float32, only=0),
    Case(5, 0, 16, torch.float32, only=0),
    # No row of the table.
    *(Case(tokens, 5, 8, dtype, only=only)
      for dtype in NUMBERS for tokens in (1, 70) for only in (-1, 5)),
]  # fmt: skip


def check(case: Case, launchers: Launchers, device: Device) -> bytes:
    """Against sums in float64; returns the bits."""
    grad_output, indices = case.tensors()
    arguments = (grad_output, indices, case.vocabulary, case.offset)
    result = embedding_backward(launchers, device, *arguments)
    inside = (indices >= 0) & (indices < case.vocabulary)
    rows, values = indices[inside], grad_output[inside].double()
    zeros = torch.zeros(case.vocabulary, case.features, dtype=torch.float64)
    truth = zeros.index_add(0, rows, values)
    magnitude = zeros.index_add(0, rows, values.abs())
    allowed = BOUNDS[case.dtype] * magnitude.where(
        torch.tensor(case.dtype == torch.float32), truth.abs()
    )
    assert ((result.double() - truth).abs() <= allowed + 1e-14).all()
    return result.reshape(-1).view(torch.uint8).numpy().tobytes() if result.numel() else b""
