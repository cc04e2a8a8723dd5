"""What the tests of FusedMLP share: a network, windows for it, and its state."""

import torch
from support import seeded
from torch import Tensor

import makemore_ext as mx
from makemore_ext.reference import Parameters

FLOAT32, FLOAT64 = torch.float32, torch.float64


def make(sizes=(27, 3, 10, 24), dtype=FLOAT64, seed=3, **options) -> mx.FusedMLP:
    """A network away from its start."""
    generator = seeded(seed)
    network = mx.FusedMLP(*sizes, dtype=dtype, generator=generator, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def windows(sizes=(27, 3, 10, 24), count: int = 32, seed: int = 4) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    vocabulary, context, _, _ = sizes
    x = torch.randint(vocabulary, (count, context), generator=generator)
    return x, torch.randint(vocabulary, (count,), generator=generator)


def clone(parameters: Parameters, dtype: torch.dtype | None = None) -> Parameters:
    return Parameters(*(p.detach().to(dtype, copy=True).requires_grad_() for p in parameters))


def state(network: mx.FusedMLP) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_bits(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
