"""Derivatives of every kind, eager and compiled, on native autograd and on Python's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from support import seeded
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch._dynamo.backends.common import aot_autograd
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext._native import operators

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:.*should not be instantiated")

IS_NATIVE = mx.build_info()["autograd"] == "native"
needs_native = pytest.mark.skipif(not IS_NATIVE, reason="Python's autograd serves eager mode alone")

V, D, B = 5, 2, 3
INPUT = torch.randint(V, (4, 3), generator=seeded())
INPUTS = torch.randint(V, (B, 4), generator=seeded(1))
WEIGHT = torch.randn(V, D, dtype=torch.float64, generator=seeded(2))
WEIGHTS = torch.randn(B, V, D, dtype=torch.float64, generator=seeded(3))


def smooth(embedding, padding_idx):
    """A function of the table that is not linear, of either embedding."""
    return lambda input, weight: embedding(input, weight, padding_idx).sin().prod(-1).sum()


def tangent(function):
    return lambda weight: jvp(function, (weight,), (WEIGHT.cos(),))[1]


# What is computed of loss(input, weight).
TRANSFORMS = {
    "grad": lambda loss: grad(lambda w: loss(INPUT, w))(WEIGHT),
    "vjp": lambda loss: vjp(lambda w: loss(INPUT, w), WEIGHT)[1](
        torch.ones((), dtype=WEIGHT.dtype)
    )[0],
    "jvp": lambda loss: tangent(lambda w: loss(INPUT, w))(WEIGHT),
    "jvp of jvp": lambda loss: tangent(tangent(lambda w: loss(INPUT, w)))(WEIGHT),
    "hessian": lambda loss: hessian(lambda w: loss(INPUT, w))(WEIGHT),
    "jacfwd of jacfwd": lambda loss: jacfwd(jacfwd(lambda w: loss(INPUT, w)))(WEIGHT),
    "jacrev of jacrev": lambda loss: jacrev(jacrev(lambda w: loss(INPUT, w)))(WEIGHT),
    "jacrev of jacfwd": lambda loss: jacrev(jacfwd(lambda w: loss(INPUT, w)))(WEIGHT),
    "vmap over indices": lambda loss: vmap(loss, (0, None))(INPUTS, WEIGHT),
    "vmap over tables": lambda loss: vmap(loss, (None, 0))(INPUT, WEIGHTS),
    "vmap over both": lambda loss: vmap(loss)(INPUTS, WEIGHTS),
    "vmap of grad": lambda loss: vmap(grad(loss, argnums=1), (0, None))(INPUTS, WEIGHT),
    "vmap of grad of both": lambda loss: vmap(grad(loss, argnums=1))(INPUTS, WEIGHTS),
    "grad of vmap": lambda loss: grad(lambda w: vmap(loss, (0, None))(INPUTS, w).sum())(WEIGHT),
    "grad of vmap of both": lambda loss: grad(lambda w: vmap(loss)(INPUTS, w).sum())(WEIGHTS),
    "hessian of vmap": lambda loss: hessian(lambda w: vmap(loss, (0, None))(INPUTS, w).sum())(
        WEIGHT
    ),
    "vmap of size 0": lambda loss: vmap(loss, (0, None))(INPUTS[:0], WEIGHT),
    "functionalize": lambda loss: functionalize(grad(lambda w: loss(INPUT, w)))(WEIGHT),
}
# What torch's own embedding gets wrong: tables of a batch lose their padding_idx.
TRUTH = {
    "grad of vmap of both": lambda loss: torch.stack(
        [grad(loss, argnums=1)(*one) for one in zip(INPUTS, WEIGHTS, strict=True)]
    ),
}
COMPILED = (
    "grad",
    "vjp",
    "jvp",
    "hessian",
    "jacfwd of jacfwd",
    "vmap of grad",
    "grad of vmap of both",
)


def expected(name, padding_idx):
    return TRUTH.get(name, TRANSFORMS[name])(smooth(F.embedding, padding_idx))


@needs_native
@pytest.mark.parametrize("padding_idx", [None, 1])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name, padding_idx):
    ours = TRANSFORMS[name](smooth(mx.embedding, padding_idx))
    torch.testing.assert_close(ours, expected(name, padding_idx))


@needs_native
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_transform(name):
    def ours():
        return TRANSFORMS[name](smooth(mx.embedding, 1))

    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(), expected(name, 1))


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize(
    ("check", "options"),
    [
        (torch.autograd.gradcheck, {}),
        (torch.autograd.gradgradcheck, {}),
        pytest.param(torch.autograd.gradcheck, {"check_forward_ad": True}, marks=needs_native),
        pytest.param(
            torch.autograd.gradgradcheck, {"check_fwd_over_rev": True}, marks=needs_native
        ),
    ],
    ids=["first", "second", "forward mode", "forward over reverse"],
)
def test_derivatives(check, options, padding_idx):
    weight = WEIGHT.clone().requires_grad_()
    if padding_idx is not None:  # numerically there would be a gradient
        weight = weight.detach()[:padding_idx].clone().requires_grad_()
        embedding = lambda w: mx.embedding(INPUT % padding_idx, w, None)  # noqa: E731
    else:
        embedding = lambda w: mx.embedding(INPUT, w)  # noqa: E731
    assert check(lambda w: embedding(w).sin(), weight, **options)


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_third_derivatives(padding_idx):
    def third(embedding):
        weight = WEIGHT.clone().requires_grad_()
        result = smooth(embedding, padding_idx)(INPUT, weight)
        for _ in range(3):
            (result,) = torch.autograd.grad(result.sum(), weight, create_graph=True)
        return result

    torch.testing.assert_close(third(mx.embedding), third(F.embedding))


@needs_native
def test_gradients_of_a_batch_of_upstream_gradients():
    weight = WEIGHT.clone().requires_grad_()
    upstream = torch.randn(B, 4, 3, D, dtype=torch.float64, generator=seeded(4))

    def gradient(embedding):
        output = embedding(INPUT, weight, 1)
        return torch.autograd.grad(output, weight, upstream, is_grads_batched=True)

    torch.testing.assert_close(gradient(mx.embedding), gradient(F.embedding))


@pytest.mark.parametrize("backend", ["aot_eager", "eager"])
def test_compile(backend):
    def gradient(embedding):
        weight = WEIGHT.clone().requires_grad_()
        (embedding(INPUT, weight, -1) ** 2).sum().backward()
        return weight.grad

    compiled = torch.compile(mx.embedding, fullgraph=True, backend=backend)
    torch.testing.assert_close(gradient(compiled), gradient(F.embedding))


def gradient(embedding, input, weight):
    weight = weight.clone().requires_grad_()
    embedding(input, weight, 1).sin().sum().backward()
    return weight.grad


def test_compile_for_any_size():
    compiled = torch.compile(mx.embedding, fullgraph=True, backend="aot_eager", dynamic=True)
    for tokens, rows in ((4, 5), (7, 9), (3, 11)):
        case = torch.randint(rows, (tokens, 2)), torch.randn(rows, D)
        assert torch.equal(gradient(compiled, *case), gradient(F.embedding, *case))


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_autograd():
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        ours = gradient(mx.embedding, INPUT, WEIGHT)
    torch.testing.assert_close(ours, gradient(F.embedding, INPUT, WEIGHT))


@needs_native
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_model_trains(strict):
    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(WEIGHT.clone())

        def forward(self, input):
            return mx.embedding(input, self.weight, 1).sin()

    model = Table()
    exported = torch.export.export(model, (INPUT,), strict=strict).module()
    exported(INPUT).sum().backward()
    (parameter,) = exported.parameters()
    torch.testing.assert_close(parameter.grad, gradient(F.embedding, INPUT, WEIGHT))


@needs_native
def test_the_compiled_graphs_hold_our_operators():
    graphs = []

    def compiler(graph, inputs):
        graphs.append(str(graph.code))
        return make_boxed_func(graph)

    compiled = torch.compile(mx.embedding, backend=aot_autograd(fw_compiler=compiler))
    compiled(INPUT, WEIGHT.clone().requires_grad_()).sum().backward()
    forward, backward = graphs
    assert "makemore_ext.embedding.default" in forward
    assert "makemore_ext.embedding_backward.default" in backward


@needs_native
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_by_make_fx_and_jit():
    gradient = grad(lambda w: smooth(mx.embedding, 1)(INPUT, w))
    torch.testing.assert_close(make_fx(gradient)(WEIGHT)(WEIGHT), gradient(WEIGHT))
    traced = torch.jit.trace(lambda w: mx.embedding(INPUT, w, 1), (WEIGHT,))
    torch.testing.assert_close(traced(WEIGHTS[0]), mx.embedding(INPUT, WEIGHTS[0], 1))


def test_traced_symbolically():
    class Model(torch.nn.Module):
        def forward(self, input, weight):
            return mx.embedding(input, weight, padding_idx=1)

    traced = torch.fx.symbolic_trace(Model())
    torch.testing.assert_close(traced(INPUT, WEIGHT), mx.embedding(INPUT, WEIGHT, 1))


def test_a_subclass_is_asked():
    class Loud(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, arguments=(), options=None):
            return function

    assert mx.embedding(INPUT, WEIGHT.as_subclass(Loud)) is mx.embedding


@needs_native
def test_saved_tensors_go_through_hooks():
    seen = []
    weight = WEIGHT.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        output = mx.embedding(INPUT, weight)
    assert len(seen) == 1
    assert seen[0] is INPUT
    output.sum().backward()


def test_an_index_changed_before_backward_is_noticed():
    input, weight = INPUT.clone(), WEIGHT.clone().requires_grad_()
    output = mx.embedding(input, weight)
    input.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_the_profiler_sees_it():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        mx.embedding(INPUT, WEIGHT)
    assert "makemore_ext::embedding" in {event.key for event in profile.key_averages()}


@needs_native
@pytest.mark.parametrize("requires_grad", [True, False])
def test_opcheck(requires_grad):
    weight = torch.randn(V, D, requires_grad=requires_grad)
    torch.library.opcheck(operators.embedding.default, (INPUT, weight, 1))
    grad_output = torch.randn(4, 3, D, requires_grad=requires_grad)
    torch.library.opcheck(operators.embedding_backward.default, (grad_output, INPUT, V, 1))


@pytest.mark.long
@pytest.mark.skipif(not IS_NATIVE, reason="this is the run on Python's autograd")
def test_on_the_autograd_of_python():
    folder = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        env={**environment, "MAKEMORE_EXT_AUTOGRAD": "python"},
        cwd=folder.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
