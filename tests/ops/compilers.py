"""What the derivatives of every operation are tested for: torch.compile, export, their graphs."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch._dynamo.backends.common import aot_autograd
from transform_cases import IS_NATIVE, Case, Loss, Model
from transforms import looped, transforms

# Transforms that are compiled, each in a second or less.
COMPILED = (
    "grad",
    "vjp",
    "jvp",
    "hessian",
    "jacfwd of jacfwd",
    "vmap of grad over all",
    "grad of vmap over all",
)


def check_compiled(name: str, case: Case) -> None:
    """Raises AssertionError unless it is right compiled, or refused by Python's autograd."""
    transform = transforms(case)[name]
    expected = transform(case.theirs, case, looped)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled() -> Any:
        return transform(case.ours, case, torch.func.vmap)

    try:
        actual = compiled()
    except RuntimeError:
        if IS_NATIVE:
            raise
        return
    torch.testing.assert_close(actual, expected)


def _gradients(loss: Loss, case: Case) -> tuple[Tensor, ...]:
    leaves = case.differentiable()
    return torch.autograd.grad(case.of_leaves(loss)(*leaves), leaves)


def _compiled(loss: Loss, case: Case, backend: Any = "aot_eager", **options: Any) -> Any:
    leaves = case.differentiable()
    compiled = torch.compile(case.of_leaves(loss), fullgraph=True, backend=backend, **options)
    return torch.autograd.grad(compiled(*leaves), leaves)


def _inductor(loss: Loss, case: Case) -> Any:
    return _compiled(loss, case, "inductor")


def _checked_sizes(loss: Loss, case: Case) -> Any:
    """Of the case, after some of its rows went through the same code."""
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (2, 3, 4):
        few = case.with_rows(
            lambda tensor, size=size: tensor.repeat(2, *[1] * (tensor.dim() - 1))[:size]
        )
        torch.testing.assert_close(_gradients(compiled, few), _gradients(case.theirs, few))
    return _gradients(compiled, case)


def _unbacked_sizes(loss: Loss, case: Case) -> Any:
    """Of rows that a mask chooses: all of the case, out of twice as many."""
    count = len(case.samples[0][case.rows[0]])
    twice = case.with_rows(lambda tensor: tensor.repeat_interleave(2, 0))
    mask = torch.arange(2 * count) % 2 == 0

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(mask: Tensor, **tensors: Tensor) -> Tensor:
        return loss(**{k: v[mask] if k in case.rows else v for k, v in tensors.items()})

    leaves = twice.differentiable()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        value = twice.of_leaves(lambda **tensors: compiled(mask, **tensors))(*leaves)
        grads = torch.autograd.grad(value, leaves)
    return tuple(
        gradient[mask] if name in case.rows else gradient
        for name, gradient in zip(case.leaves, grads, strict=True)
    )


def _compiled_autograd(loss: Loss, case: Case) -> Any:
    leaves = case.differentiable()
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        case.of_leaves(loss)(*leaves).backward()
    return tuple(leaf.grad for leaf in leaves)


def _exported(strict: bool) -> Callable[[Loss, Case], Any]:
    def gradients(loss: Loss, case: Case) -> Any:
        factor = torch.ones((), dtype=torch.float64)
        exported = torch.export.export(Model(loss, case), (factor,), strict=strict).module()
        exported(factor).backward()
        return tuple(parameter.grad for parameter in exported.parameters())

    return gradients


# Each gives the gradients of a loss.
COMPILERS = {
    "compile": _compiled,
    "compile by inductor": _inductor,
    "compile for any size": _checked_sizes,
    "compile for unbacked sizes": _unbacked_sizes,
    "compiled autograd": _compiled_autograd,
    "export": _exported(False),
    "strict export": _exported(True),
}
# They do not know the autograd Functions of Python.
WITHOUT_FUNCTIONS = ("compiled autograd", "export", "strict export")


def check_compiler(name: str, case: Case) -> None:
    """Raises AssertionError unless the gradients of a compiled loss are those of theirs."""
    if not IS_NATIVE and name in WITHOUT_FUNCTIONS:
        pytest.skip("Python's autograd does not serve it")
    torch._dynamo.reset()
    torch.testing.assert_close(COMPILERS[name](case.ours, case), _gradients(case.theirs, case))


def graphs(function: Loss, *tensors: Tensor) -> list[str]:
    """The code of the graphs of a function and of its backward."""
    torch._dynamo.reset()
    codes: list[str] = []

    def compiler(graph: torch.fx.GraphModule, _: Any) -> Any:
        codes.append(graph.code)
        return make_boxed_func(graph)

    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=compiler))
    compiled(*tensors).backward()
    return codes


def operators_in(code: str) -> Counter[str]:
    """How often a graph calls each of our operators."""
    return Counter(re.findall(r"makemore_ext\.(\w+)\.default", code))


def kinds_in(code: str, operation: str) -> tuple[int, int]:
    """How many calls of forward and of backward operators of an operation a graph has."""
    found = {k: n for k, n in operators_in(code).items() if k.startswith(operation)}
    backward = sum(n for name, n in found.items() if "backward" in name)
    return sum(found.values()) - backward, backward
