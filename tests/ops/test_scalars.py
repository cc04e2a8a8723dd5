"""Numbers that functions and layers are told: the kinds that torch takes, and its refusals."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import python, seeded
from torch import nn
from torch.nn import functional as F

import makemore_ext as mx

X = torch.randn(4, 5, generator=seeded())
TARGET = torch.tensor([0, 1, 2, 0])
TORCH = SimpleNamespace(
    cross_entropy=F.cross_entropy,
    CrossEntropyLoss=nn.CrossEntropyLoss,
    batch_norm=F.batch_norm,
    BatchNorm1d=nn.BatchNorm1d,
    embedding=F.embedding,
)


def batch_norm(library, **options):
    running = torch.zeros(5), torch.ones(5)
    return library.batch_norm(X, *running, training=True, **options), *running


def batch_norm_layer(library, **options):
    layer = library.BatchNorm1d(5, **options)
    return layer(X), layer.running_mean, layer.running_var, layer.num_batches_tracked


def embedding(library, **options):
    weight = X.clone().requires_grad_()
    return torch.autograd.grad(library.embedding(TARGET, weight, **options).sum(), weight)


def cross_entropy(library, **options):
    return library.cross_entropy(X, TARGET, **options)


def cross_entropy_layer(library, **options):
    return library.CrossEntropyLoss(**options)(X, TARGET)


INTEGERS = {
    "ignore_index": cross_entropy,
    "ignore_index of the layer": cross_entropy_layer,
    "padding_idx": embedding,
}
FLOATS = {
    "label_smoothing": cross_entropy,
    "label_smoothing of the layer": cross_entropy_layer,
    "momentum": batch_norm,
    "momentum of the layer": batch_norm_layer,
    "eps": batch_norm,
    "eps of the layer": batch_norm_layer,
}
KINDS_OF_INTEGERS = {
    "int": 1,
    "int64 of numpy": np.int64(1),
    "uint8 of numpy": np.uint8(1),
    "array": np.array(1),
    "tensor": torch.tensor(1),
    "uint8 tensor": torch.tensor(1, dtype=torch.uint8),
    "tensor of one element": torch.tensor([1]),
}
KINDS_OF_FLOATS = {
    "float": 0.25,
    "int": 1,
    "bool": True,
    "float64 of numpy": np.float64(0.25),
    "float32 of numpy": np.float32(0.25),
    "float16 of numpy": np.float16(0.25),
    "int64 of numpy": np.int64(1),
    "bool of numpy": np.bool_(True),
    "tensor": torch.tensor(0.25),
    "float64 tensor": torch.tensor(0.25, dtype=torch.float64),
    "bfloat16 tensor": torch.tensor(0.25, dtype=torch.bfloat16),
    "int64 tensor": torch.tensor(1),
}
NO_INTEGERS = {
    "float": 1.0,
    "bool": True,
    "float32 of numpy": np.float32(1),
    "bool of numpy": np.bool_(True),
    "tensor": torch.tensor(1.0),
    "string": "1",
}
NO_FLOATS = {
    "string": "0.25",
    "None": None,
    "complex": 0.25j,
    "vector": torch.tensor([0.25]),
    "needs grad": torch.tensor(0.25, requires_grad=True),
}


def table(arguments, kinds):
    return pytest.mark.parametrize(
        ("name", "call", "value"),
        [
            pytest.param(name.split()[0], call, value, id=f"{name}-{kind}")
            for name, call in arguments.items()
            for kind, value in kinds.items()
        ],
    )


@table(INTEGERS, KINDS_OF_INTEGERS)
def test_integers(name, call, value):
    torch.testing.assert_close(call(mx, **{name: value}), call(TORCH, **{name: value}))


@table(FLOATS, KINDS_OF_FLOATS)
def test_floats(name, call, value):
    torch.testing.assert_close(call(mx, **{name: value}), call(TORCH, **{name: value}))


def test_lse_square_scale():
    expected = mx.cross_entropy(X, TARGET, lse_square_scale=0.25)
    for value in KINDS_OF_FLOATS.values():
        if value == 0.25:
            torch.testing.assert_close(
                mx.cross_entropy(X, TARGET, lse_square_scale=value), expected
            )


@table(INTEGERS, NO_INTEGERS)
def test_no_integers(name, call, value):
    for library in (TORCH, mx):
        with pytest.raises(TypeError):
            call(library, **{name: value})


@table(FLOATS, NO_FLOATS)
def test_no_floats(name, call, value):
    if name == "momentum" and value is None and call is batch_norm_layer:
        pytest.skip("the layer takes the mean over all batches")
    for library in (TORCH, mx):
        with pytest.raises(TypeError):
            call(library, **{name: value})


REFUSED = {
    "momentum": {"momentum": "0.1"},
    "eps": {"eps": torch.tensor([0.1])},
    "training": {"training": 1},
    "correction": {"correction": 2},
    "activation": {"activation": "gelu"},
    "weight of another length": {"weight": torch.ones(4)},
    "sparse weight": {"weight": torch.ones(5).to_sparse()},
    # Torch has updated them when it raises for these.
    "bias of another dtype": {"bias": torch.zeros(5, dtype=torch.float64)},
    "bias of another device": {"bias": torch.zeros(5, device="meta")},
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_no_running_statistics(arguments):
    running = torch.zeros(5), torch.ones(5)
    call = {"input": X, "training": True, **arguments}
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        mx.batch_norm(call.pop("input"), *running, **call)
    torch.testing.assert_close(running, (torch.zeros(5), torch.ones(5)), rtol=0, atol=0)


IN_TORCHS_PLACE = """
import torch
import makemore_ext as mx
from torch.nn import functional as F

F.cross_entropy, F.batch_norm, F.embedding = mx.cross_entropy, mx.batch_norm, mx.embedding
ones, target = torch.ones(2, 3), torch.tensor([0, 1])
for call in (
    lambda: F.cross_entropy(ones, target, label_smoothing=2.0),
    lambda: F.cross_entropy(ones, [0, 1]),
    lambda: F.batch_norm(ones, None, None, training=True, momentum="0.1"),
    lambda: F.batch_norm(ones, None, None),
    lambda: F.embedding(target, target),
):
    try:
        call()
    except RecursionError:
        raise
    except Exception as error:
        print(type(error).__name__)
print(F.cross_entropy(torch.ones(2, 0), torch.empty(2, 0)).item())
print(F.batch_norm(torch.ones(0), None, None).shape)
"""


def test_in_the_place_of_torchs_own_they_still_refuse():
    run = python(IN_TORCHS_PLACE)
    assert run.stdout.split() == [
        "RuntimeError",
        "TypeError",
        "TypeError",
        "RuntimeError",
        "NotImplementedError",
        str(F.cross_entropy(torch.ones(2, 0), torch.empty(2, 0)).item()),
        "torch.Size([0])",
    ], run.stderr
