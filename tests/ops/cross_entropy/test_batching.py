"""torch.func.vmap over each tensor, and jvp, of every shape and option; narrow dtypes."""

from functools import partial

import pytest
import torch
from cross_entropy_cases import float64_target, indices, logits
from support import seeded
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

# Forward mode loads torch's own decompositions, which warn.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

OPTIONS = {
    **{reduction: {"reduction": reduction} for reduction in ("mean", "sum", "none")},
    "smoothing": {"label_smoothing": 0.3},
    "weight": {"weight": torch.linspace(0.5, 1.5, 5, dtype=torch.float64)},
    "ignore": {"ignore_index": 1},
    "weight ignore": {
        "weight": torch.linspace(0.5, 1.5, 5, dtype=torch.float64),
        "ignore_index": 1,
    },
}
SAMPLES = {"one row": (5,), "rows": (4, 5), "pixels": (2, 5, 3), "volume": (2, 5, 3, 2)}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
samples = pytest.mark.parametrize("shape", SAMPLES.values(), ids=SAMPLES)
kinds = pytest.mark.parametrize("kind", ["indices", "probabilities"])


def skip_unsupported(kind: str, options: dict) -> None:
    if kind == "probabilities" and "ignore_index" in options:
        pytest.skip("ignore_index is for class indices")


def batch(kind: str, shape: tuple[int, ...], size: int = 3) -> tuple[Tensor, Tensor]:
    input = torch.stack([logits(shape, torch.float64, seed) for seed in range(size)])
    return input, torch.stack([float64_target(kind, shape, seed) for seed in range(size)])


@kinds
@samples
@every_option
def test_per_sample_gradients(options, shape, kind):
    skip_unsupported(kind, options)
    inputs, targets = batch(kind, shape)

    def loss(input: Tensor, target: Tensor) -> Tensor:
        return mx.cross_entropy(input, target, **options).square().sum()

    actual = torch.func.vmap(torch.func.grad(loss))(inputs, targets)
    expected = []
    for input, target in zip(inputs, targets, strict=True):
        input = input.detach().requires_grad_()
        total = F.cross_entropy(input, target, **options).square().sum()
        expected += torch.autograd.grad(total, input)
    torch.testing.assert_close(actual, torch.stack(expected))


IN_DIMS = {
    "both": (0, 0, None),
    "last dimension": (-1, -1, None),
    "input alone": (0, None, None),
    "target alone": (None, 0, None),
    "weight alone": (None, None, 0),
    "input and weight": (0, None, 0),
    "all": (0, 0, 1),
}


@kinds
@samples
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("in_dims", IN_DIMS.values(), ids=IN_DIMS)
def test_vmap(in_dims, reduction, shape, kind):
    inputs, targets = batch(kind, shape)
    weights = torch.rand(3, 5, dtype=torch.float64, generator=seeded())
    stacked = [
        tensor[0] if dim is None else tensor.movedim(0, dim)
        for tensor, dim in zip((inputs, targets, weights), in_dims, strict=True)
    ]
    samples = [
        [
            tensor[0 if dim is None else i]
            for dim, tensor in zip(in_dims, (inputs, targets, weights), strict=True)
        ]
        for i in range(3)
    ]

    def loss_and_lse(input, target, weight):
        return mx.cross_entropy(input, target, weight, reduction=reduction, return_lse=True)

    actual = torch.func.vmap(loss_and_lse, in_dims)(*stacked)
    losses = [F.cross_entropy(x, t, w, reduction=reduction) for x, t, w in samples]
    lses = [x.logsumexp(0 if x.dim() == 1 else 1) for x, _, _ in samples]
    torch.testing.assert_close(actual, (torch.stack(losses), torch.stack(lses)))


@kinds
@pytest.mark.parametrize("in_dims", IN_DIMS.values(), ids=IN_DIMS)
def test_vmap_of_gradients(in_dims, kind):
    inputs, targets = batch(kind, (4, 5))
    weights = torch.rand(3, 5, dtype=torch.float64, generator=seeded())
    stacked = [
        tensor[0] if dim is None else tensor.movedim(0, dim)
        for tensor, dim in zip((inputs, targets, weights), in_dims, strict=True)
    ]
    actual, expected = (
        torch.func.vmap(torch.func.grad(f), in_dims)(*stacked)
        for f in (mx.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(actual, expected)


@kinds
@samples
@every_option
def test_jvp(options, shape, kind):
    skip_unsupported(kind, options)
    target = float64_target(kind, shape)
    input, tangent = logits(shape, torch.float64), logits(shape, torch.float64, seed=5)
    actual, expected = (
        torch.func.jvp(lambda x, f=f: f(x, target, **options), (input,), (tangent,))
        for f in (mx.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(actual, expected)


WEIGHTED = {
    "z-loss, ignore": {"lse_square_scale": 0.2, "ignore_index": 1},
    "lse": {"return_lse": True},
    "all": {"lse_square_scale": 0.2, "return_lse": True, "ignore_index": 1},
    "smoothing": {"label_smoothing": 0.3},
    "smoothing, all": {
        "label_smoothing": 0.3,
        "lse_square_scale": 0.2,
        "return_lse": True,
        "ignore_index": 1,
    },
}


@samples
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", WEIGHTED.values(), ids=WEIGHTED)
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, None, 1), (0, None, 0)], ids=str)
def test_a_weight_of_each_sample_is_as_one_after_another(in_dims, options, reduction, dtype, shape):
    inputs, targets = batch("indices", shape)
    weights = torch.rand(3, 5, generator=seeded()).to(dtype)

    def loss(input: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        result = mx.cross_entropy(input, target, weight, reduction=reduction, **options)
        parts = result if isinstance(result, tuple) else (result,)
        return sum(part.double().sin().sum() for part in parts)

    function = torch.func.grad_and_value(loss)
    arguments = [
        tensor[0] if dim is None else tensor.movedim(0, dim)
        for tensor, dim in zip((inputs.to(dtype), targets, weights), in_dims, strict=True)
    ]
    actual = torch.func.vmap(function, in_dims)(*arguments)
    expected = [
        function(
            *[
                tensor if dim is None else tensor.select(dim, index)
                for tensor, dim in zip(arguments, in_dims, strict=True)
            ]
        )
        for index in range(3)
    ]
    torch.testing.assert_close(actual, tuple(map(torch.stack, zip(*expected, strict=True))))


def create_graph(function, inputs, targets):
    """The gradient of a gradient."""
    input = inputs[0].requires_grad_()
    (gradient,) = torch.autograd.grad(function(input, targets[0]), input, create_graph=True)
    return torch.autograd.grad(gradient.square().sum(), input)


UINT8 = {
    "call": lambda f, x, t: f(x[0], t[0]),
    "vmap": lambda f, x, t: torch.func.vmap(f)(x, t),
    "vmap of grad": lambda f, x, t: torch.func.vmap(torch.func.grad(f))(x, t),
    "jvp": lambda f, x, t: torch.func.jvp(lambda y: f(y, t[0]), (x[0],), (x[1],)),
    "create_graph": create_graph,
}


@pytest.mark.parametrize("transform", UINT8.values(), ids=UINT8)
@pytest.mark.parametrize("weight", [None, torch.linspace(0.5, 1.5, 200, dtype=torch.float64)])
def test_uint8_holds_classes_that_are_none_to_ignore(weight, transform):
    # Torch's own vmap takes int64 alone. 156 is the default ignore_index, -100, as a uint8.
    targets = torch.tensor([[156, 3, 156, 199], [0, 156, 7, 156]], dtype=torch.uint8)
    results = [
        transform(partial(f, weight=weight), logits((2, 4, 200), torch.float64), t)
        for f, t in ((mx.cross_entropy, targets), (F.cross_entropy, targets.long()))
    ]
    torch.testing.assert_close(*results)


def test_vmap_over_narrow_types():
    inputs = logits((3, 4, 5), torch.bfloat16)
    targets = torch.stack([indices((4, 5), torch.uint8, seed) for seed in range(3)])
    gradients = torch.func.vmap(torch.func.grad(mx.cross_entropy))(inputs, targets)
    for gradient, input, target in zip(gradients, inputs, targets, strict=True):
        input = input.detach().requires_grad_()
        (expected,) = torch.autograd.grad(mx.cross_entropy(input, target), input)
        torch.testing.assert_close(gradient, expected)
