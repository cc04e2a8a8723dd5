"""Calling an autograd Function without the overhead that small tensors feel."""

from functools import cache
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


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """`function.apply(*inputs)`, at about half the cost in eager mode.

    A Function with setup_context, which torch.func needs, has its arguments bound by
    inspect.signature at every call. Its twin in the older style has not.
    """
    return (_eager_twin(function) if is_eager() else function).apply(*inputs)


@cache
def _eager_twin(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = function.forward(*inputs)
            function.setup_context(ctx, inputs, output)
            return output

        backward = function.backward

    Eager.__name__ = Eager.__qualname__ = function.__name__
    return Eager
