# ruff: noqa: D103
"""What every operator needs tests of: values, derivatives, what torch asks of it, and errors."""

import pytest
import torch
from own_operator import squared_relu
from torch.nn import functional as F

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAYOUTS = {
    "contiguous": lambda x: x,  # large enough for several threads
    "transposed": lambda x: x.t(),
    "every other": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(5, -1),
    "empty": lambda x: x[:0],
    "scalar": lambda x: x[0, 0],
}
operators = torch.ops.own_operator


def formula(x):
    return F.relu(x).square()


def draw(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients_are_those_of_float64_rounded_once(dtype, layout):
    x = layout(draw(300, 400, dtype=dtype)).detach().requires_grad_()
    wide = x.detach().double().requires_grad_()
    ours, truth = squared_relu(x), formula(wide)
    torch.testing.assert_close(ours, truth.to(dtype), rtol=0, atol=0)
    # The first gradient is laid out as that of a sum is: one element, expanded.
    for dy in (torch.ones((), dtype=dtype).expand_as(x), draw(*x.shape, dtype=dtype)):
        (gradient,) = torch.autograd.grad(ours, x, dy, retain_graph=True)
        (right,) = torch.autograd.grad(truth, wide, dy.double(), retain_graph=True)
        torch.testing.assert_close(gradient, right.to(dtype), rtol=0, atol=0)


def test_what_is_no_number_goes_where_torchs_goes():
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e30])
    x, dy = torch.cartesian_prod(special, special).unbind(1)
    x.requires_grad_()
    results = [(y, torch.autograd.grad(y, x, dy)) for y in (squared_relu(x), formula(x))]
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


def test_derivatives_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(squared_relu, draw(4, 5))
    assert torch.autograd.gradgradcheck(squared_relu, draw(4, 5))


def test_torch_finds_schema_fake_and_kernel_consistent():
    x = draw(4, 5).detach()
    for tensor in (x, x.t()):
        torch.library.opcheck(operators.squared_relu.default, (tensor,))
        torch.library.opcheck(operators.squared_relu_backward.default, (tensor, x.view_as(tensor)))


def test_torch_compile_has_it_in_one_graph():
    step = torch.compile(lambda x: squared_relu(2 * x).sum(), fullgraph=True, dynamic=True)
    for rows in (7, 9):
        x = draw(rows, 3)
        (ours,), (right,) = (torch.autograd.grad(f, x) for f in (step(x), formula(2 * x).sum()))
        torch.testing.assert_close(ours, right)


@pytest.mark.parametrize("dims", [(0, 0), (1, 0), (None, 1), (1, None)])
def test_vmap_of_gradients(dims):
    shapes = {0: (3, 4), 1: (4, 3), None: (4,)}
    dy, x = (draw(*shapes[dim]) + shift for dim, shift in zip(dims, (0, 0.5), strict=True))
    ours, right = (
        torch.func.vmap(lambda dy, x, f=function: torch.func.vjp(f, x)[1](dy)[0], dims)(dy, x)
        for function in (squared_relu, formula)
    )
    torch.testing.assert_close(ours, right)


ERRORS = {
    "list": (squared_relu, ([1.0],), TypeError, "input must be a Tensor, got list"),
    "dtype": (squared_relu, (torch.ones(2).int(),), NotImplementedError, "got torch.int32"),
    # Whoever calls an operator, and whatever Python has checked, the kernel reads what is there.
    "its dtype": (operators.squared_relu, (torch.ones(2).int(),), RuntimeError, "for 'Int'"),
    "sizes": (
        operators.squared_relu_backward,
        (torch.ones(3), torch.ones(2)),
        RuntimeError,
        "grad_output must have the sizes of input",
    ),
    "dtypes": (
        operators.squared_relu_backward,
        (torch.ones(2).half(), torch.ones(2)),
        RuntimeError,
        "grad_output must have the dtype of input, Float, got Half",
    ),
}


@pytest.mark.parametrize(("function", "arguments", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_what_is_refused(function, arguments, kind, message):
    with pytest.raises(kind, match=message):
        function(*arguments)
