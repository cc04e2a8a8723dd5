"""No result depends on whether its memory was used before, or by what."""

import pytest
import torch
from support import seeded
from torch import Tensor

import makemore_ext as mx


def gradients(output: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    upstream = torch.randn(output.shape, generator=seeded(1)).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, upstream)


def leaf(*shape: int, dtype: torch.dtype, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=seeded(seed)).to(dtype).requires_grad_()


def batch_norm_of(*shape: int, activation: str | None = None):
    def call(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, weight = leaf(*shape, dtype=dtype), leaf(shape[1], dtype=dtype, seed=3)
        y = mx.batch_norm(x, None, None, weight, training=True, activation=activation)
        return gradients(y, x, weight)

    return call


def cross_entropy_of(rows: int, classes: int, **options):
    def call(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = leaf(rows, classes, dtype=dtype)
        target = torch.randint(classes, (rows,), generator=seeded(4))
        target[::7] = -100
        return gradients(mx.cross_entropy(x, target, **options), x)

    return call


def embedding_of(tokens: int, vocabulary: int, features: int):
    def call(dtype: torch.dtype) -> tuple[Tensor, ...]:
        weight = leaf(vocabulary, features, dtype=dtype)
        indices = torch.randint(vocabulary, (tokens,), generator=seeded(5))
        return gradients(mx.embedding(indices, weight, padding_idx=1), weight)

    return call


CALLS = {
    "batch norm, rows": batch_norm_of(4000, 150, activation="tanh"),
    "batch norm, images": batch_norm_of(8, 33, 65, 41, activation="relu"),
    "cross entropy, mean": cross_entropy_of(70, 10007),
    "cross entropy, of each row": cross_entropy_of(70, 10007, reduction="none"),
    "cross entropy, few classes": cross_entropy_of(30001, 27, label_smoothing=0.1),
    "embedding": embedding_of(5000, 2000, 300),
}


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bits_do_not_depend_on_reuse(call, dtype):
    mx.set_cache_limit(0)
    expected = call(dtype)
    mx.set_cache_limit(None)
    poisoned = [tensor for _ in range(3) for tensor in call(dtype)]
    for tensor in poisoned:
        tensor.fill_(torch.nan)
    del poisoned, tensor
    before = mx.cache_info()
    actual = call(dtype)
    after = mx.cache_info()
    assert after.reused > before.reused
    assert after.missed == before.missed
    for tensor, other in zip(actual, expected, strict=True):
        assert torch.equal(bits(tensor), bits(other))
