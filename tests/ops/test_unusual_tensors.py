"""Tensors that torch takes though they are unlike others, or are changed on the way to backward."""

from types import SimpleNamespace

import pytest
import torch
from support import seeded
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from transform_cases import IS_NATIVE, torch_warns

import makemore_ext as mx

pytestmark = torch_warns

OURS = SimpleNamespace(
    cross_entropy=mx.cross_entropy, batch_norm=mx.batch_norm, embedding=mx.embedding
)
TORCH = SimpleNamespace(
    cross_entropy=F.cross_entropy, batch_norm=F.batch_norm, embedding=F.embedding
)
X = torch.randn(6, 5, generator=seeded())
TARGET = torch.tensor([0, 1, 2, 0, 1, 4])
WEIGHT = torch.linspace(0.5, 1.5, 5)
PROBABILITIES = torch.randn(6, 5, generator=seeded(1)).softmax(1)
RUNNING = {"running_mean": torch.full((5,), 0.5), "running_var": torch.full((5,), 2.0)}


def given(name, library, tensors, **options):
    """The result, and the gradients of the tensors that require one."""
    result = getattr(library, name)(**tensors, **options)
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    if not leaves:
        return result
    return result.detach(), torch.autograd.grad(result.square().sum(), leaves)


CALLS = {
    "cross_entropy": ({"input": X, "target": TARGET}, {}),
    "cross_entropy none": ({"input": X, "target": TARGET}, {"reduction": "none"}),
    "cross_entropy weight": ({"input": X, "target": TARGET, "weight": WEIGHT}, {}),
    "cross_entropy probabilities": ({"input": X, "target": PROBABILITIES}, {}),
    "batch_norm training": ({"input": X, **RUNNING, "weight": WEIGHT, "bias": WEIGHT},
                            {"training": True}),
    "batch_norm evaluation": ({"input": X, **RUNNING, "weight": WEIGHT, "bias": WEIGHT}, {}),
    "embedding": ({"input": TARGET, "weight": X}, {"padding_idx": 1}),
}  # fmt: skip
calls = pytest.mark.parametrize("call", CALLS)


def arguments(call: str) -> tuple[str, dict[str, Tensor], dict]:
    """The function, copies of its tensors, of which the first can require grad, and its options."""
    tensors, options = CALLS[call]
    return call.split()[0], {key: tensor.clone() for key, tensor in tensors.items()}, options


def first_floating(tensors: dict[str, Tensor]) -> str:
    return next(key for key, tensor in tensors.items() if tensor.is_floating_point())


# ---- saved tensors ----


@calls
@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16])
def test_hooks_that_keep_less(kept, call):
    # Values that survive; what torch saves of them is float32, and so they give that back.
    def pack(tensor: Tensor) -> Tensor:
        return tensor.to(kept) if tensor.is_floating_point() else tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.is_floating_point() else tensor

    results = []
    for library in (OURS, TORCH):
        name, tensors, options = arguments(call)
        tensors[first_floating(tensors)].requires_grad_()
        with saved_tensors_hooks(pack, unpack):
            results.append(given(name, library, tensors, **options))
    torch.testing.assert_close(*results, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("training", [True, False])
def test_the_bias_may_be_stepped_before_backward(training):
    results = []
    for library in (OURS, TORCH):
        input, weight, bias = (t.clone().requires_grad_() for t in (X, WEIGHT, WEIGHT))
        running = [tensor.clone() for tensor in RUNNING.values()]
        output = library.batch_norm(input, *running, weight, bias, training)
        with torch.no_grad():
            bias.add_(1)
        results.append(torch.autograd.grad(output.square().sum(), (input, weight, bias)))
    torch.testing.assert_close(*results)


# ---- inference tensors ----


def inference(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


@calls
def test_inference_tensors(call):
    name, tensors, options = arguments(call)
    results = [
        given(name, library, {key: inference(t) for key, t in tensors.items()}, **options)
        for library in (OURS, TORCH)
    ]
    torch.testing.assert_close(*(tensor.clone() for tensor in results))


@calls
def test_in_inference_mode(call):
    results = []
    for library in (OURS, TORCH):
        name, tensors, options = arguments(call)
        tensors[first_floating(tensors)].requires_grad_()
        with torch.inference_mode():
            results.append(getattr(library, name)(**tensors, **options))
    torch.testing.assert_close(*(tensor.clone() for tensor in results))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_that_cannot_be_saved(reduction):
    results = []
    for library in (OURS, TORCH):
        target = PROBABILITIES.clone().requires_grad_()
        tensors = {"input": inference(X), "target": target}
        results.append(given("cross_entropy", library, tensors, reduction=reduction))
    torch.testing.assert_close(*results)


def test_running_statistics_that_are_inference_tensors():
    results = []
    for library in (OURS, TORCH):
        running = [inference(tensor) for tensor in RUNNING.values()]
        output = library.batch_norm(X, *running, training=True)
        results.append((output, *(tensor.clone() for tensor in running)))
    torch.testing.assert_close(*results)


# ---- tensors that are negated when they are read ----


def negative_view(tensor: Tensor) -> Tensor:
    return torch._neg_view(-tensor)


def imaginary_of_conjugate(tensor: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


NEGATED = (negative_view, imaginary_of_conjugate)
negated = pytest.mark.parametrize("negate", NEGATED, ids=lambda negate: negate.__name__)


@negated
@pytest.mark.parametrize("needs_grad", [False, True])
@calls
def test_negated_tensors(call, needs_grad, negate):
    # Torch's own batch norm leaves running statistics as they were where they are negated.
    name, tensors, options = arguments(call)
    for key in [key for key, tensor in tensors.items() if tensor.is_floating_point()]:
        has_gradient = (name, key) != ("cross_entropy", "weight") and key not in RUNNING
        results = []
        for library, change in ((OURS, negate), (TORCH, lambda tensor: tensor * 1)):
            _, tensors, _ = arguments(call)
            leaf = tensors[key].requires_grad_(needs_grad and has_gradient)
            tensors[key] = change(leaf)
            result = getattr(library, name)(**tensors, **options)
            results.append([result.detach(), *(t.detach() for t in tensors.values())])
            if leaf.requires_grad:
                results[-1] += torch.autograd.grad(result.square().sum(), leaf)
        torch.testing.assert_close(*results)


@negated
@calls
def test_negated_upstream_gradient(call, negate):
    results = []
    for library in (OURS, TORCH):
        name, tensors, options = arguments(call)
        leaf = tensors[first_floating(tensors)].requires_grad_()
        result = getattr(library, name)(**tensors, **options)
        results += torch.autograd.grad(result, leaf, negate(torch.full_like(result, 0.3)))
    torch.testing.assert_close(*results)


@negated
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_negated_logits_in_place(reduction, negate):
    results = []
    for options in ({}, {"inplace_backward": True}):
        leaf = X.clone().requires_grad_()
        loss = mx.cross_entropy(negate(leaf * 2), TARGET, reduction=reduction, **options)
        results += torch.autograd.grad(loss.sum(), leaf)
    torch.testing.assert_close(*results)


# ---- nothing at all ----


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 3, 2), (2, 3, 0)], ids=str)
def test_batch_norm_of_nothing(shape, training):
    input = torch.empty(shape)
    assert mx.batch_norm(input, None, None, training=training).shape == shape
    assert F.batch_norm(input, None, None, training=training).shape == shape
    running = torch.ones(shape[-1]), torch.ones(shape[-1])
    if len(shape) == 1:
        assert mx.batch_norm(input, *running, training=training).shape == shape
        assert F.batch_norm(input, *running, training=training).shape == shape


def test_batch_norm_of_nothing_has_second_derivatives():
    tensors = [torch.empty(0, 3).requires_grad_(), torch.ones(3).requires_grad_()]
    output = mx.batch_norm(tensors[0], None, None, tensors[1], training=True)
    first = torch.autograd.grad(output.sum(), tensors, create_graph=True)
    second = torch.autograd.grad(first[1].sum(), tensors)
    assert torch.equal(second[1], torch.zeros(3))


def test_a_size_is_refused_under_jvp_too():
    def normalized(input: Tensor) -> Tensor:
        return mx.batch_norm(input, torch.zeros(4), torch.ones(4), training=False)

    with pytest.raises(RuntimeError, match="running_mean should contain 3 elements not 4"):
        torch.func.jvp(normalized, (torch.ones(2, 3),), (torch.ones(2, 3),))


# ---- torch.jit.trace and torch.func.functionalize ----


def traced(function, *tensors):
    return torch.jit.trace(function, tensors)(*tensors)


def functionalized(function, *tensors):
    return torch.func.functionalize(function)(*tensors)


def without_views(function, *tensors):
    return torch.func.functionalize(function, remove="mutations_and_views")(*tensors)


def form(call: str, **more):
    """A function of the first of a call's floating tensors, which also gives what it updates."""

    def function(leaf: Tensor) -> tuple[Tensor, ...]:
        name, tensors, options = arguments(call)
        tensors[first_floating(tensors)] = leaf * 2
        result = getattr(OURS, name)(**tensors, **options, **more)
        results = result if isinstance(result, tuple) else (result,)
        return (*results, *(tensors[key] for key in RUNNING if key in tensors))

    return function


FORMS = {
    **{call: form(call) for call in CALLS},
    "cross_entropy in place": form("cross_entropy", inplace_backward=True),
    "cross_entropy lse": form("cross_entropy", return_lse=True, lse_square_scale=0.1),
    "cross_entropy smoothing": form("cross_entropy weight", label_smoothing=0.1, ignore_index=1),
    "batch_norm tanh": form("batch_norm training", activation="tanh", correction=1),
}
ways = pytest.mark.parametrize(
    "way", [traced, functionalized, without_views], ids=lambda way: way.__name__
)
forms = pytest.mark.parametrize("function", FORMS.values(), ids=FORMS)


def skip_functionalize_in_python(way) -> None:
    if not IS_NATIVE and way is not traced:
        pytest.skip("torch has no functionalize for Functions of Python")


@forms
@ways
@pytest.mark.parametrize("needs_grad", [False, True])
def test_tracing_a_function(needs_grad, way, function):
    skip_functionalize_in_python(way)
    leaf = X.clone().requires_grad_(needs_grad)
    actual, expected = way(function, leaf), function(leaf)
    if needs_grad:
        actual, expected = (
            (*(t.detach() for t in results), *torch.autograd.grad(results[0].sum(), leaf))
            for results in (actual, expected)
        )
    torch.testing.assert_close(actual, expected)


LAYERS = {
    "training": {},
    "evaluation": {},
    "batch statistics": {"track_running_stats": False},
    "tanh": {"activation": "tanh"},
}


@pytest.mark.parametrize("options", LAYERS.items(), ids=LAYERS)
@ways
def test_tracing_a_layer(way, options):
    skip_functionalize_in_python(way)
    mode, options = options
    layer, other = (mx.BatchNorm1d(5, **options).train(mode != "evaluation") for _ in range(2))
    torch.testing.assert_close(way(layer, X), other(X))
    while (
        other.num_batches_tracked is not None
        and mode != "evaluation"
        and (
            other.num_batches_tracked < layer.num_batches_tracked  # tracing runs it several times
        )
    ):
        other(X)
    torch.testing.assert_close(dict(layer.named_buffers()), dict(other.named_buffers()))
