"""A call of an operation that hypothesis has drawn, and what must be true of it.

The truth is torch's own function in float64, of the same values. A call may be off by a few units
in the last place of its dtype, and by as many of the largest value of that result in the type that
it was computed in. Where torch refuses the call, so must ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Tensor]
ULPS = 16  # of the dtype, and of what it is computed in


@dataclass
class Call:
    """`input` and `operands` are what is differentiated, where they are floating; None is none."""

    ours: Function
    torchs: Function
    input: Tensor
    operands: dict[str, Any]
    options: dict[str, Any]
    buffers: tuple[str, ...] = ()  # of the operands, those that the call changes
    transform: str = "value"
    scale: float = 1.0  # of the upstream gradient
    is_mistaken: bool = False

    def in_float64(self) -> "Call":
        operands = {name: _doubled(value) for name, value in self.operands.items()}
        return replace(self, input=_doubled(self.input), operands=operands)

    def with_wide_indices(self) -> "Call":
        """Torch takes others in some transforms alone."""
        operands = {
            name: value.long()
            if isinstance(value, Tensor) and value.dtype == torch.uint8
            else value
            for name, value in self.operands.items()
        }
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
    for name, value in operands.items():
        if name not in call.buffers and isinstance(value, Tensor) and name in ("weight", "bias"):
            leaves[name] = value.detach()
    if call.options.get("fixed_weight"):
        leaves.pop("weight", None)
    options = {k: v for k, v in call.options.items() if k != "fixed_weight"}

    def of(*values: Tensor) -> Tensor:
        given = dict(zip(leaves, values, strict=True))
        input = given.pop("input")
        return function(input, **{**operands, **given}, **options)

    results = TRANSFORMS[call.transform](of, leaves, call.scale)
    for name in call.buffers:
        if operands[name] is not None:
            results[name] = operands[name]
    return results


def _upstream(output: Tensor, scale: float) -> Tensor:
    values = torch.linspace(0.5, 2, max(1, output.numel()), dtype=torch.float64)
    return (values[: output.numel()] * scale).bfloat16().to(output.dtype).view(output.shape)


def _value(of: Function, leaves: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {"output": of(*leaves.values())}


def _backward(of: Function, leaves: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    values = [value.requires_grad_() for value in leaves.values()]
    output = of(*values)
    grads = torch.autograd.grad(output, values, _upstream(output, scale), allow_unused=True)
    named = {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {"output": output.detach(), **{k: v for k, v in named.items() if v is not None}}


def _double_backward(of: Function, leaves: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    values = [value.requires_grad_() for value in leaves.values()]
    output = of(*values)
    first = torch.autograd.grad(output, values, _upstream(output, scale), create_graph=True)
    total = sum((grad * _upstream(grad, 1)).sum() for grad in first)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return {}
    second = torch.autograd.grad(total, values, allow_unused=True)
    named = {f"second of {name}": grad for name, grad in zip(leaves, second, strict=True)}
    return {name: grad for name, grad in named.items() if grad is not None}


def _jvp(of: Function, leaves: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    values = tuple(leaves.values())
    tangents = tuple(_upstream(value, scale) for value in values)
    output, tangent = torch.func.jvp(of, values, tangents)
    return {"output": output, "tangent": tangent}


def _vmap(of: Function, leaves: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {"output": torch.func.vmap(of)(*_stacked(leaves))}


def _vmap_of_grad(of: Function, leaves: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    def total(*values: Tensor) -> Tensor:
        output = of(*values)
        return (output * _upstream(output, scale)).sum()

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


def check(call: Call) -> None:
    """Raises AssertionError where ours is not torch's."""
    ours = attempt(call, call.ours)
    torchs = attempt(call.with_wide_indices(), call.torchs)
    if isinstance(torchs, Exception):
        if call.transform in ("value", "backward") and call.input.numel() > 0:
            assert isinstance(ours, _like(torchs)), f"torch raises {torchs!r}, ours {ours!r}"
        return  # of some transforms torch has less
    if isinstance(ours, Exception):
        is_refused = isinstance(ours, (NotImplementedError, ValueError, TypeError))
        by_torch_too = isinstance(attempt(call, call.torchs), type(ours))
        assert by_torch_too or (call.is_mistaken and is_refused), f"ours refuses: {ours!r}"
        return
    truth = run(call.with_wide_indices().in_float64(), call.torchs)
    undefined = "output" in truth and bool(truth["output"].isnan().all())
    for name, expected in truth.items():
        if call.transform in ("value", "backward"):
            assert ours[name].dtype == torchs[name].dtype, name
        if name == "output" or not (undefined and call.transform == "jvp"):
            compare(name, ours[name], torchs[name], expected)


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
