"""A call of an operation that hypothesis has drawn, and what must be true of it.

The truth is torch's own function in float64, of the same values. A result may be off by a few units
in the last place of its dtype, by as many of its largest value in float32, and by a few times what
torch's own function of that dtype is off where it is most: cancellation costs either its digits. In
float64 the truth is no more exact than the result, and the bound is wide. How exact the kernels are
is tested elsewhere; a wrong value, layout, option or derivative shows here. Where torch refuses a
value or its gradient, so must ours; of some transforms torch has less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from support import upstream
from torch import Tensor

Function = Callable[..., Tensor]
ULPS = 16  # of the dtype, and of float32


@dataclass
class Call:
    """A function of `input`, by keyword `operands`, some of which may be None, and `options`."""

    ours: Function
    torchs: Function
    input: Tensor
    operands: dict[str, Any]
    options: dict[str, Any]
    transform: str
    differentiated: tuple[str, ...] = ()  # of the operands, beside the input
    buffers: tuple[str, ...] = ()  # of the operands, those that the call changes
    is_mistaken: bool = False  # what ours may refuse in words of its own

    def in_float64(self) -> "Call":
        operands = {name: _doubled(value) for name, value in self.operands.items()}
        return replace(self, input=_doubled(self.input), operands=operands)

    def with_wide_indices(self) -> "Call":
        """Torch takes others in some transforms alone."""
        operands = dict(self.operands)
        for name, value in operands.items():
            if isinstance(value, Tensor) and value.dtype == torch.uint8:
                operands[name] = value.long()
        return replace(self, operands=operands)


def _doubled(value: Any) -> Any:
    """Contiguous too: where strides fit two layouts torch's batch norm may mix them up."""
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double().clone(memory_format=torch.contiguous_format) if is_floating else value


def run(call: Call, function: Function) -> dict[str, Tensor]:
    """The results of a call by name: values, derivatives and what it changed."""
    operands = {
        name: value.clone() if name in call.buffers and value is not None else value
        for name, value in call.operands.items()
    }
    leaves = {"input": call.input.detach()}
    for name in call.differentiated:
        if operands[name] is not None:
            leaves[name] = operands[name].detach()

    def of(*values: Tensor) -> Tensor:
        given = dict(zip(leaves, values, strict=True))
        input = given.pop("input")
        return function(input, **{**operands, **given}, **call.options)

    results = TRANSFORMS[call.transform](of, leaves)
    for name in call.buffers:
        if operands[name] is not None:
            results[name] = operands[name]
    return results


def _named(
    kind: str, leaves: dict[str, Tensor], grads: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    named = {f"{kind} of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: grad for name, grad in named.items() if grad is not None}


def _value(of: Function, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"output": of(*leaves.values())}


def _backward(of: Function, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    values = [value.requires_grad_() for value in leaves.values()]
    output = of(*values)
    grads = torch.autograd.grad(output, values, upstream(output), allow_unused=True)
    return {"output": output.detach(), **_named("gradient", leaves, grads)}


def _double_backward(of: Function, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    values = [value.requires_grad_() for value in leaves.values()]
    output = of(*values)
    first = torch.autograd.grad(output, values, upstream(output), create_graph=True)
    total = sum((grad * upstream(grad)).sum() for grad in first)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return {}
    second = torch.autograd.grad(total, values, allow_unused=True)
    return _named("second derivative", leaves, second)


def _jvp(of: Function, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    values = tuple(leaves.values())
    tangents = tuple(upstream(value) for value in values)
    output, tangent = torch.func.jvp(of, values, tangents)
    return {"output": output, "tangent": tangent}


def _vmap(of: Function, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"output": torch.func.vmap(of)(*_stacked(leaves))}


def _vmap_of_grad(of: Function, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    def total(*values: Tensor) -> Tensor:
        output = of(*values)
        return (output * upstream(output)).sum()

    return {"gradient": torch.func.vmap(torch.func.grad(total))(*_stacked(leaves))}


def _stacked(leaves: dict[str, Tensor]) -> Sequence[Tensor]:
    return [torch.stack([value, value * 0.5]) for value in leaves.values()]


TRANSFORMS = {
    "value": _value,
    "backward": _backward,
    "double backward": _double_backward,
    "jvp": _jvp,
    "vmap": _vmap,
    "vmap of grad": _vmap_of_grad,
}


def attempt(call: Call, function: Function) -> dict[str, Tensor] | Exception:
    try:
        return run(call, function)
    except Exception as error:
        return error


def check(call: Call) -> str:
    """What became of it. AssertionError where ours is not torch's."""
    ours = attempt(call, call.ours)
    torchs = attempt(call.with_wide_indices(), call.torchs)
    if isinstance(torchs, Exception):
        if call.transform in ("value", "backward") and call.input.numel() > 0:
            assert isinstance(ours, _like(torchs)), f"torch raises {torchs!r}, ours {ours!r}"
        return "refused by both" if isinstance(ours, Exception) else "refused by torch"
    if isinstance(ours, Exception):
        is_refused = isinstance(ours, (NotImplementedError, ValueError, TypeError))
        by_torch_too = isinstance(attempt(call, call.torchs), type(ours))
        assert by_torch_too or (call.is_mistaken and is_refused), f"ours refuses: {ours!r}"
        return "refused by both" if by_torch_too else "refused by ours"
    truth = run(call.with_wide_indices().in_float64(), call.torchs)
    undefined = "output" in truth and bool(truth["output"].isnan().all())
    for name, expected in truth.items():
        if call.transform in ("value", "backward"):
            assert ours[name].dtype == torchs[name].dtype, name
        if name == "output" or not (undefined and call.transform == "jvp"):
            compare(name, ours[name], torchs[name], expected)
    return "compared"


def _like(error: Exception) -> type[Exception] | tuple[type[Exception], ...]:
    """What ours may raise where torch raises this: the same, or what says more of it."""
    if isinstance(error, (AssertionError, NotImplementedError)):
        return Exception
    return type(error), NotImplementedError, ValueError, IndexError


def compare(name: str, actual: Tensor, torchs: Tensor, truth: Tensor) -> None:
    """Raises AssertionError where `actual` is further from `truth` than said above."""
    assert actual.shape == truth.shape, name
    if actual.numel() == 0:
        return
    exact = truth.double()
    rounded = exact.to(actual.dtype).double()  # what overflows is infinite
    finite = rounded.isfinite()
    allowed = (
        bounds(actual.dtype, exact.where(finite, 0))
        + 4 * (torchs.double() - exact).where(finite, 0).abs().nan_to_num(torch.inf).max()
    )
    close = (actual.double() - exact).abs() <= allowed
    same = torch.where(finite, close, actual.double().nan_to_num(7) == rounded.nan_to_num(7))
    first, expected = actual[~same].flatten()[:4].tolist(), exact[~same].flatten()[:4].tolist()
    assert same.all(), f"{name}: {first}, truth {expected}"


def bounds(dtype: torch.dtype, exact: Tensor) -> Tensor:
    """Of a result in `dtype` that is computed in float32, or in float64 as the truth is."""
    if dtype == torch.float64:
        return torch.full_like(exact, 1e-12 + 1e-8 * exact.abs().max().item())
    single = torch.finfo(torch.float32).eps
    return ULPS * (torch.finfo(dtype).eps * exact.abs() + single * exact.abs().max()) + single
