"""What the tests of the reference share: a network and numbers, drawn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import seeded

from makemore_ext.reference import Parameters

DTYPES = [torch.float32, torch.float64]

sizes = pytest.mark.parametrize(("n", "hidden"), [(2, 5), (32, 64), (33, 200), (40, 1)])
shapes = given(
    n=st.integers(2, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
examples = settings(max_examples=50, deadline=None, derandomize=True)


def network(
    n,
    hidden,
    dtype,
    *,
    output_scale=1.0,
    vocabulary_size=27,
    context=3,
    dimensions=10,
    seed=2147483647,
):
    """A random network with every parameter in play, and a minibatch."""
    generator = seeded(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    fan_in = context * dimensions
    parameters = Parameters(
        C=normal(vocabulary_size, dimensions),
        W1=normal(fan_in, hidden) * 5 / 3 / math.sqrt(fan_in),
        b1=normal(hidden),
        W2=normal(hidden, vocabulary_size) * output_scale / math.sqrt(hidden),
        b2=normal(vocabulary_size) * output_scale,
        bngain=1 + 0.1 * normal(hidden),
        bnbias=0.1 * normal(hidden),
    )
    x = torch.randint(0, vocabulary_size, (n, context), generator=generator)
    y = torch.randint(0, vocabulary_size, (n,), generator=generator)
    return parameters, x, y


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def integers(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=seeded(seed))
