"""Calling an autograd Function without the overhead that small tensors feel."""

from functools import cache
from typing import Any

import torch


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """`function.apply(*inputs)`, at about half the cost in eager mode.

    A Function with setup_context, which torch.func needs, has its arguments bound by
    inspect.signature at every call. Its twin in the older style has not.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*inputs)
    return _eager_twin(function).apply(*inputs)


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
