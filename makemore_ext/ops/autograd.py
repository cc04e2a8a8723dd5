"""What is at work around a call; what autograd Functions refuse, and torch.compile takes whole."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from makemore_ext._native import autograd

Called = TypeVar("Called", bound=Callable[..., Any])


def is_traced() -> bool:
    """Whether torch.jit.trace is at work."""
    return torch._C._get_tracing_state() is not None


def is_eager() -> bool:
    """Whether nothing traces, and no transform of torch.func or forward_ad is at work."""
    return not (
        torch.compiler.is_compiling()
        or is_traced()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _transforms() -> list[TransformType]:
    """Those of torch.func that are at work, the innermost last."""
    return [level.key() for level in torch._C._functorch.get_interpreter_stack() or ()]


def is_functionalizing() -> bool:
    """Whether torch.func.functionalize is at work."""
    return TransformType.Functionalize in _transforms()


def without_functionalize(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` as it can be written to `like`, which torch.func.functionalize may not know of."""
    while torch._is_functional_tensor(tensor) and not torch._is_functional_tensor(like):
        torch._sync(tensor)  # type: ignore[attr-defined]
        tensor = torch._C._functorch._unwrap_functional_tensor(tensor, True)
    return tensor


def is_batched(grad: Tensor) -> bool:
    """Whether `grad` stands for many: torch.func.vmap, or torch.autograd.grad(is_grads_batched)."""
    return not is_eager() or torch._C._functorch.is_legacy_batchedtensor(grad)


def check_forward_mode(operation: str) -> None:
    """Raises RuntimeError for tangents of tangents, which the jvp of a Function takes for 0."""
    if _transforms().count(TransformType.Jvp) > 1:
        raise RuntimeError(
            f"{operation} has no jvp of jvp, nor jacfwd of jacfwd, on the autograd of Python: "
            "native autograd, which is built for one version of torch, has"
        )


# Of float64 temporaries that stay in the second-level cache and in memory that malloc keeps.
PIECE_ELEMENTS = 65536


def pieces(tensor: Tensor, dim: int) -> list[tuple[int, int]]:
    """Where to cut `tensor` in `dim`, (begin, length) each, that a formula passes over many times.

    One piece where there is nothing to gain, or a graph of the operations to lose.
    """
    size, elements = tensor.shape[dim], tensor.numel()
    if (
        torch.is_grad_enabled()
        or not tensor.is_cpu
        or type(tensor) is not Tensor
        or not is_eager()
        or _get_current_dispatch_mode() is not None
        or elements <= PIECE_ELEMENTS
    ):
        return [(0, size)]
    length = max(1, PIECE_ELEMENTS * size // elements)
    return [(begin, min(length, size - begin)) for begin in range(0, size, length)]


def in_pieces(
    formula: Callable[..., Sequence[Tensor | None]],
    cuts: Sequence[tuple[int, int]],
    tensors: Sequence[Tensor | None],
    in_dims: Sequence[int | None],
    out_dims: Sequence[int | None],
) -> list[Tensor | None]:
    """What `formula` gives for `tensors`, from what it gives for each of the `cuts`.

    As torch.func.vmap has them, `in_dims` are the dimensions that are cut, None for what every
    piece has whole, and `out_dims` those that the results are joined in, None for what is summed.
    """
    columns = zip(
        *(
            formula(
                *(
                    tensor if tensor is None or dim is None else tensor.narrow(dim, *place)
                    for tensor, dim in zip(tensors, in_dims, strict=True)
                )
            )
            for place in cuts
        ),
        strict=True,
    )

    def joined(parts: tuple[Any, ...], dim: int | None) -> Tensor | None:
        if parts[0] is None:
            return None
        return torch.stack(parts).sum(0) if dim is None else torch.cat(parts, dim)

    return [joined(column, dim) for column, dim in zip(columns, out_dims, strict=True)]


def no_tangent(output: Tensor) -> Tensor | None:
    """What the jvp of a Function returns for an output that is not differentiable.

    That is None, but where torch.func.vmap maps over it and forgets what the Function said of it.
    """
    return torch.zeros_like(output) if torch._C._functorch.is_batchedtensor(output) else None


def taken_whole(function: Called) -> Called:
    """`function`, which applies an autograd Function, as one step of what torch.compile traces.

    torch.compile looks into no Function with a jvp, which forward-mode AD needs. Where autograd is
    native nothing calls `function` there, and torch's compiler, which takes a second to import,
    needs not know of it.
    """
    if autograd is None:
        torch.compiler.allow_in_graph(function)
    return function
