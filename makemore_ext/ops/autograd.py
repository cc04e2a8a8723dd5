"""Autograd Functions: what is at work around a call, and calls without what small tensors feel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_eager() -> bool:
    """Whether neither torch.compile nor a transform of torch.func or forward_ad is at work."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_batched(grad: Tensor) -> bool:
    """Whether `grad` stands for many: torch.func.vmap, or torch.autograd.grad(is_grads_batched)."""
    return not is_eager() or torch._C._functorch.is_legacy_batchedtensor(grad)


def applier(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply`, in eager mode at about half the cost.

    A Function with setup_context, which torch.func needs, has its arguments bound by
    inspect.signature at every call: its twin in the older style has not. One with a jvp, which
    forward-mode AD needs, is none that torch.compile traces.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = function.forward(*inputs)
            function.setup_context(ctx, inputs, output)
            return output

        backward = function.backward

    class WithoutJVP(torch.autograd.Function):
        generate_vmap_rule = function.generate_vmap_rule
        forward = function.forward
        setup_context = function.setup_context
        backward = function.backward

    for twin in (Eager, WithoutJVP):
        twin.__name__ = twin.__qualname__ = function.__name__

    def apply(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return WithoutJVP.apply(*inputs)
        return (Eager if is_eager() else function).apply(*inputs)

    return apply
