"""Derivatives of every order and mode."""

from functools import partial

import pytest
import torch
from cross_entropy_cases import float64_target, indices, logits, probabilities
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jvp
from torch.nn import functional as F

import makemore_ext as mx

needs_python = pytest.mark.skipif(
    mx.build_info()["autograd"] == "native", reason="native autograd has these"
)
# Forward mode loads torch's own decompositions, which warn.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

OPTIONS = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignore": {"ignore_index": 0},
    "smoothing": {"label_smoothing": 0.3},
    "lse": {"return_lse": True},
    "lse none": {"return_lse": True, "reduction": "none"},
    "z-loss": {"lse_square_scale": 0.2},
    "z-loss ignore": {"lse_square_scale": 0.2, "ignore_index": 0},
    "all": {"lse_square_scale": 0.2, "return_lse": True, "label_smoothing": 0.3},
}
PROBABILITY_OPTIONS = {
    name: options for name, options in OPTIONS.items() if "ignore_index" not in options
}
SHAPES = ((3, 4), (4,), (2, 3, 2))
CHECKS = {  # either in reverse and in forward mode
    "first order": partial(gradcheck, check_forward_ad=True),
    "second order": partial(gradgradcheck, check_fwd_over_rev=True),
}
checks = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def class_weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(0.5, 1.5, shape[0] if len(shape) == 1 else shape[1], dtype=dtype)


@checks
@shapes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_input(options, weighted, shape, check):
    target = float64_target("indices", shape)
    weight = class_weight(shape) if weighted else None
    input = logits(shape, torch.float64).requires_grad_()
    assert check(lambda x: mx.cross_entropy(x, target, weight, **options), (input,))


@checks
@shapes
@pytest.mark.parametrize("options", PROBABILITY_OPTIONS.values(), ids=PROBABILITY_OPTIONS)
def test_input_probabilities_and_weight(options, shape, check):
    arguments = (
        logits(shape, torch.float64),
        probabilities(shape, torch.float64),
        class_weight(shape),
    )
    for argument in arguments:
        argument.requires_grad_()
    assert check(lambda x, q, w: mx.cross_entropy(x, q, w, **options), arguments)


@pytest.mark.parametrize("needed", ["target", "weight", "target and weight", "input and weight"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_probabilities_and_weight_as_torch(dtype, reduction, needed):
    shape = (6, 5, 3)
    results = []
    for function in (mx.cross_entropy, F.cross_entropy):
        arguments = {
            "input": logits(shape, dtype),
            "target": probabilities(shape, dtype),
            "weight": class_weight(shape, dtype),
        }
        leaves = [arguments[name].requires_grad_() for name in needed.split(" and ")]
        loss = function(**arguments, reduction=reduction, label_smoothing=0.2)
        results.append(torch.autograd.grad(loss.square().sum(), leaves))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_double_backward_as_torch(kind, reduction):
    shape = (6, 5)
    target = indices(shape) if kind == "indices" else probabilities(shape, torch.float64)
    results = []
    for function in (mx.cross_entropy, F.cross_entropy):
        input = logits(shape, torch.float64).requires_grad_()
        loss = function(input, target, reduction=reduction).square().sum()
        (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
        results.append((gradient, *torch.autograd.grad(gradient.square().sum(), input)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["input", "direction", "upstream"])
@pytest.mark.parametrize("options", ["mean", "ignore", "smoothing", "z-loss"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 40)], ids=str)
def test_second_gradients_of_special_values_as_the_formulas(shape, options, place, value):
    """Kernels and formulas have the same, where each gives a call what the other did not take."""
    given = [logits(shape, torch.float32, seed) for seed in (0, 3)]
    given.append(torch.tensor(0.5))
    given[place].view(-1)[:1] = value
    input, direction, grad_loss = given
    target = indices(shape)
    function = partial(mx.cross_entropy, target=target, **OPTIONS[options])
    tensors = [input.requires_grad_(), grad_loss.requires_grad_()]
    (gradient,) = torch.autograd.grad(function(input), *tensors, create_graph=True)
    of_kernel = torch.autograd.grad(gradient, tensors, direction, retain_graph=True)
    of_formula = torch.autograd.grad(gradient, tensors, direction, create_graph=True)
    torch.testing.assert_close(of_kernel, of_formula, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_graph_that_is_kept_gives_the_same_again(reduction, scale, dtype):
    input = logits((6, 5), dtype).requires_grad_()
    loss = mx.cross_entropy(input, indices((6, 5)), reduction=reduction).sum() * scale
    first, second, third = (
        torch.autograd.grad(loss, input, retain_graph=True)[0] for _ in range(3)
    )
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert len({tensor.data_ptr() for tensor in (first, second, third)}) == 3


def test_gradients_add_up():
    input = logits((6, 5), torch.float32).requires_grad_()
    mx.cross_entropy(input, indices((6, 5))).backward()
    once = input.grad.clone()
    mx.cross_entropy(input, indices((6, 5))).backward()
    torch.testing.assert_close(input.grad, 2 * once)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, torch.nan])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_upstream_gradient(reduction, value):
    grads = []
    for function in (mx.cross_entropy, F.cross_entropy):
        input = logits((6, 5), torch.float32).requires_grad_()
        loss = function(input, indices((6, 5)), reduction=reduction)
        grads += torch.autograd.grad(loss, input, torch.tensor(value))
    torch.testing.assert_close(*grads, equal_nan=True)


def backward(loss, input, target, value):
    input.requires_grad_()
    return torch.autograd.grad(loss(input, target), input, value)[0]


def again(loss, input, target, value):
    """Of a graph that is kept, and so is what it holds."""
    result = loss(input.requires_grad_(), target)
    torch.autograd.grad(result, input, retain_graph=True)
    return torch.autograd.grad(result, input, value, retain_graph=True)[0]


def with_a_graph(loss, input, target, value):
    input.requires_grad_()
    return torch.autograd.grad(loss(input, target), input, value, create_graph=True)[0].detach()


def batched(loss, input, target, value):
    input.requires_grad_()
    values = value.expand(2)
    return torch.autograd.grad(loss(input, target), input, values, is_grads_batched=True)[0][1]


def vmap_of_grad(loss, input, target, value):
    function = torch.func.grad(lambda x, t: loss(x, t) * value)
    return torch.func.vmap(function)(input[None], target[None])[0]


WAYS = (backward, again, with_a_graph, batched, vmap_of_grad)
IGNORING = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "smoothing": {"label_smoothing": 0.1},
    "weight, smoothing": {"weight": class_weight((6, 5)), "label_smoothing": 0.1},
    "z-loss": {"lse_square_scale": 0.1},
}


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("options", IGNORING.values(), ids=IGNORING)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_ignored_rows_get_nothing_of_an_infinity(dtype, way, options, value):
    target = indices((6, 5), torch.uint8) if value != value else indices((6, 5))
    target[2] = ignored = 3
    if "weight" in options:
        options = {**options, "weight": options["weight"].to(dtype)}
    loss = partial(mx.cross_entropy, ignore_index=ignored, **options)
    gradient = way(loss, logits((6, 5), dtype), target, torch.tensor(value, dtype=dtype))
    assert (gradient[target == ignored] == 0).all()
    assert not gradient[target != ignored].isfinite().any()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_without_weight_have_no_mean(smoothing, way):
    # What smoothing gives the other classes is divided by 0 as well.
    target, weight = torch.tensor([0, 1, 3, 1, 0, 3]), torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0])
    options = {"weight": weight, "ignore_index": 3, "label_smoothing": smoothing}
    results = []
    for function in (mx.cross_entropy, F.cross_entropy):
        loss = partial(function, **options)
        input = logits((6, 5), torch.float32)
        results.append((loss(input, target), way(loss, input, target, torch.tensor(2.0))))
    torch.testing.assert_close(*results, equal_nan=True)


def test_small_gradients_in_float16_survive_a_loss_scale():
    # 1/N p is below float16's least number before the upstream gradient is there.
    input = torch.zeros(4096, 4, dtype=torch.float16)
    input[:, 0] = -8
    target = torch.ones(4096, dtype=torch.int64)
    input.requires_grad_()
    loss = mx.cross_entropy(input, target).float() * 2.0**15
    (actual,) = torch.autograd.grad(loss, input)
    exact = input.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(exact, target) * 2.0**15, exact)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=0)


def test_saved_inputs_must_not_change():
    input = logits((6, 5), torch.float32).requires_grad_()
    hidden = input * 1
    losses = mx.cross_entropy(hidden, indices((6, 5)), reduction="none")
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


@pytest.mark.parametrize("changed", ["target", "weight"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_what_backward_was_told_must_not_change(reduction, changed):
    input = logits((6, 5), torch.float32).requires_grad_()
    arguments = {"target": indices((6, 5)), "weight": torch.ones(5)}
    loss = mx.cross_entropy(input, **arguments, reduction=reduction).sum()
    arguments[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_logits_may_change_once_their_gradient_is_there():
    input = logits((6, 5), torch.float32).requires_grad_()
    expected = torch.autograd.grad(mx.cross_entropy(input, indices((6, 5))), input)
    hidden = input * 1
    loss = mx.cross_entropy(hidden, indices((6, 5)))
    hidden.add_(1)
    torch.testing.assert_close(torch.autograd.grad(loss, input), expected)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_what_hooks_keep_of_saved_tensors_stays_as_it_was(reduction):
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append((tensor, tensor.detach().clone()))
        return tensor

    input = logits((6, 5), torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = mx.cross_entropy(input, indices((6, 5)), reduction=reduction).sum()
    (loss * 3).backward()
    assert sum(before.shape == input.shape for _, before in kept) >= 1
    for tensor, before in kept:
        assert torch.equal(tensor, before)


def test_saved_on_the_cpu():
    results = []
    for function in (mx.cross_entropy, F.cross_entropy):
        input = logits((6, 5), torch.float32).requires_grad_()
        with torch.autograd.graph.save_on_cpu():
            loss = function(input, indices((6, 5)))
        results += torch.autograd.grad(loss * 3, input)
    torch.testing.assert_close(*results)


@needs_python
@pytest.mark.parametrize("transform", [jacfwd, lambda f: lambda x: jvp(f, (x,), (x,))[1]])
def test_tangents_of_tangents_are_refused(transform):
    loss = partial(mx.cross_entropy, target=indices((6, 5)))
    with pytest.raises(RuntimeError, match="has no jvp of jvp"):
        transform(transform(loss))(logits((6, 5), torch.float32))


@pytest.mark.parametrize("way", ["is_grads_batched", "vmap"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_batched_upstream_gradients(reduction, way):
    results = []
    for function in (mx.cross_entropy, F.cross_entropy):
        input = logits((6, 5), torch.float64).requires_grad_()
        loss = function(input, indices((6, 5)), reduction=reduction)
        grads = torch.linspace(0.5, 2, 3 * loss.numel(), dtype=torch.float64)
        grads = grads.view(3, *loss.shape)
        if way == "vmap":
            pull = partial(torch.autograd.grad, loss, input)
            results.append(torch.func.vmap(pull)(grads))
        else:
            results.append(torch.autograd.grad(loss, input, grads, is_grads_batched=True))
    torch.testing.assert_close(*results)


@needs_python
def test_the_gradient_formed_in_forward_is_given_away(monkeypatch):
    # Where the graph is kept it is copied, which the gradients of another test show.
    monkeypatch.setattr(Tensor, "clone", None)
    input = logits((6, 5), torch.float32).requires_grad_()
    torch.autograd.grad(mx.cross_entropy(input, indices((6, 5))), input)
