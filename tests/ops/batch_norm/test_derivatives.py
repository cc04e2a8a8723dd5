"""Derivatives of every order and mode, torch.func's transforms, torch.compile."""

from functools import partial

import pytest
import torch
from batch_norm_cases import Case
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jvp
from torch.nn import functional as F

import makemore_ext as mx

needs_python = pytest.mark.skipif(
    mx.build_info()["autograd"] == "native", reason="native autograd has these"
)
# Forward mode loads torch's own decompositions, which warn; so does tracing a Function.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated"),
]

SHAPES = ((5, 3), (4, 2, 3), (2, 3, 2, 2))
CHECKS = {  # either in reverse and in forward mode
    "first order": partial(gradcheck, check_forward_ad=True),
    "second order": partial(gradgradcheck, check_fwd_over_rev=True),
}
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
training_or_not = pytest.mark.parametrize("training", [True, False])


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@shapes
@pytest.mark.parametrize(("training", "correction"), [(True, 0), (True, 1), (False, 0)])
@pytest.mark.parametrize("activation", [None, "tanh", "relu"])
def test_derivatives(check, activation, correction, training, shape):
    case = Case(shape, torch.float64)

    def function(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        running = (case.running_mean.clone(), case.running_var.clone())
        return mx.batch_norm(
            input, *running, weight, bias, training, correction=correction, activation=activation
        )

    inputs = [t.requires_grad_() for t in (case.input, case.weight, case.bias)]
    assert check(function, inputs)


@shapes
@training_or_not
@pytest.mark.parametrize("affine", [True, False])
def test_double_backward_as_torch(affine, training, shape):
    if not (affine or training):
        pytest.skip("the gradient does not depend on the input")
    results = []
    for function in (mx.batch_norm, F.batch_norm):
        case = Case(shape, torch.float64)
        leaves = [t.requires_grad_() for t in (case.input, case.weight, case.bias)]
        parameters = leaves[1:] if affine else [None, None]
        used = leaves if affine else leaves[:1]
        output = function(leaves[0], case.running_mean, case.running_var, *parameters, training)
        first = torch.autograd.grad(output, used, case.grad_output, create_graph=True)
        total = sum(gradient.square().sum() for gradient in first)
        results.append((first, torch.autograd.grad(total, used[:2])))
    torch.testing.assert_close(*results)


def test_saved_inputs_must_not_change():
    case = Case((6, 5), torch.float32)
    hidden = case.input.requires_grad_() * 1
    output = mx.batch_norm(hidden, None, None, training=True)
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_evaluation_remembers_the_statistics_it_used():
    # Those of torch are read again in backward, whatever happened to them.
    case = Case((6, 5), torch.float32)
    expected = case.run(mx.batch_norm, False)[1]
    input = case.input.detach().requires_grad_()
    output = mx.batch_norm(
        input, case.running_mean, case.running_var, case.weight, case.bias, False
    )
    case.running_var.zero_()
    (actual,) = torch.autograd.grad(output, input, case.grad_output)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_a_graph_that_is_kept_gives_the_same_again():
    case = Case((6, 5), torch.float32)
    input = case.input.requires_grad_()
    output = mx.batch_norm(input, None, None, training=True, activation="tanh")
    first, second = (
        torch.autograd.grad(output, input, case.grad_output, retain_graph=True)[0] for _ in "ab"
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("way", ["is_grads_batched", "vmap"])
@training_or_not
def test_batched_upstream_gradients(training, way):
    results = []
    for function in (mx.batch_norm, F.batch_norm):
        case = Case((6, 5), torch.float64)
        leaves = [t.requires_grad_() for t in (case.input, case.weight, case.bias)]
        output = function(leaves[0], case.running_mean, case.running_var, *leaves[1:], training)
        grads = torch.stack([case.grad_output, case.grad_output.square(), output.detach()])
        if way == "vmap":
            results.append(
                torch.func.vmap(lambda g, o=output, t=leaves: torch.autograd.grad(o, t, g))(grads)
            )
        else:
            results.append(torch.autograd.grad(output, leaves, grads, is_grads_batched=True))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_what_backward_was_told_must_not_change(activation):
    case = Case((6, 5), torch.float32)
    input = case.input.requires_grad_()
    output = mx.batch_norm(
        input, None, None, case.weight, case.bias, training=True, activation=activation
    )
    case.weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@needs_python
@training_or_not
@pytest.mark.parametrize("transform", [jacfwd, lambda f: lambda x: jvp(f, (x,), (x,))[1]])
def test_tangents_of_tangents_are_refused(transform, training):
    case = Case((6, 5), torch.float32)
    running = (None, None) if training else (case.running_mean, case.running_var)
    with pytest.raises(RuntimeError, match="has no jvp of jvp"):
        transform(transform(lambda x: mx.batch_norm(x, *running, training=training)))(case.input)


# ---- torch.func ----


@shapes
@training_or_not
@pytest.mark.parametrize("transform", ["grad", "jvp", "jacrev", "jacfwd", "hessian"])
def test_func_transforms_as_torch(transform, training, shape):
    def derive(function):
        case = Case(shape, torch.float64)

        def output(x: Tensor) -> Tensor:
            return function(
                x, case.running_mean, case.running_var, case.weight, case.bias, training
            )

        def loss(x: Tensor) -> Tensor:
            return (output(x).tanh() * case.grad_output).sum()

        transforms = {
            "grad": torch.func.grad(loss),
            "jvp": lambda x: torch.func.jvp(output, (x,), (case.grad_output,)),
            "jacrev": torch.func.jacrev(output),
            "jacfwd": torch.func.jacfwd(output),
            "hessian": torch.func.hessian(loss),
        }
        result = transforms[transform](case.input)
        return result, case.running_mean, case.running_var

    ours = derive(mx.batch_norm)
    if training and transform in ("jacfwd", "hessian"):  # torch refuses to update within vmap
        theirs = derive(lambda x, mean, var, *rest: F.batch_norm(x, None, None, *rest))
        torch.testing.assert_close(ours[0], theirs[0])
    else:
        torch.testing.assert_close(ours, derive(F.batch_norm))


VMAPPED = {
    "input": (0, None, None, None, None),
    "last dimension": (-1, None, None, None, None),
    "running statistics": (0, 0, 0, None, None),
    "all": (0, 0, 1, 0, -1),
    "weight alone": (None, None, None, 0, None),
}


@shapes
@training_or_not
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("in_dims", VMAPPED.values(), ids=VMAPPED)
def test_vmap(in_dims, gradient, training, shape):
    cases = [Case(shape, torch.float64, seed=seed) for seed in range(3)]
    names = ("input", "running_mean", "running_var", "weight", "bias")
    track = in_dims[1] is not None or not training

    def compute(function, input, mean, var, weight, bias):
        running = (mean, var) if track else (None, None)
        return function(input, *running, weight, bias, training).tanh().square()

    def derive(function):
        def loss(*arguments):
            return compute(function, *arguments).sum()

        return (
            torch.func.grad(loss, argnums=(0, 3, 4))
            if gradient
            else (lambda *arguments: compute(function, *arguments))
        )

    def stacked():
        return [
            getattr(cases[0], name).clone()
            if dim is None
            else torch.stack([getattr(case, name) for case in cases], dim)
            for name, dim in zip(names, in_dims, strict=True)
        ]

    together = stacked()
    actual = torch.func.vmap(derive(mx.batch_norm), in_dims)(*together)
    singly = stacked()
    each = []
    for index in range(3):
        sample = [
            tensor if dim is None else tensor.select(dim, index)
            for tensor, dim in zip(singly, in_dims, strict=True)
        ]
        if not training:  # torch misreads a running_var or weight that is not contiguous
            sample = [tensor.contiguous() for tensor in sample]
        each.append(derive(F.batch_norm)(*sample))
    expected = (
        tuple(torch.stack(t) for t in zip(*each, strict=True)) if gradient else torch.stack(each)
    )
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(together, singly)  # running statistics were updated


def test_vmap_refuses_to_update_what_is_not_batched():
    case = Case((4, 3), torch.float32)
    inputs = torch.stack([case.input] * 2)
    for function in (mx.batch_norm, F.batch_norm):
        with pytest.raises(RuntimeError, match=r"(?i)batch.?norm got a batched"):
            torch.func.vmap(
                lambda x, f=function: f(x, case.running_mean, case.running_var, training=True)
            )(inputs)


# ---- torch.compile, export and the operators ----


@training_or_not
@pytest.mark.parametrize(
    ("shape", "backend"), [((6, 5), "aot_eager"), ((2, 3, 4, 4), "inductor")], ids=str
)
def test_compile(shape, training, backend):
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        case = Case(shape, torch.float32)
        if len(shape) == 4:
            case.input = case.input.to(memory_format=torch.channels_last)

        def function(*arguments, **options):
            return mx.batch_norm(*arguments, activation="tanh", **options) * 2

        if compiled:
            function = torch.compile(function, fullgraph=True, backend=backend)
        results.append(case.run(function, training))
        assert not compiled or results[0][0].stride() == results[1][0].stride()
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((6, 5), torch.float32), ((2, 3, 4, 4), torch.bfloat16)], ids=str
)
@training_or_not
def test_operators_pass_opcheck(training, dtype, shape):
    operators = torch.ops.makemore_ext
    case = Case(shape, dtype, parameter_dtype=torch.float32)
    if len(shape) == 4:
        case.input = case.input.to(memory_format=torch.channels_last)
    running = (case.running_mean, case.running_var)
    arguments = (case.input, case.weight, case.bias, *running)
    options = (1.0, 1e-5, 1)
    torch.library.opcheck(operators.batch_norm_forward.default, (*arguments, training, *options))
    torch.library.opcheck(
        operators.batch_norm_forward_and_update.default, (*arguments, 0.1, *options)
    )
    output, statistics = operators.batch_norm_forward.default(*arguments, training, *options)
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            operators.batch_norm_backward.default,
            (
                case.grad_output,
                case.input,
                case.weight,
                output,
                statistics,
                training,
                1.0,
                1,
                *needs,
            ),
        )
