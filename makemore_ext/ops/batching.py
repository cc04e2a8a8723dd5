"""Batching rules of operators, for torch.func.vmap."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch

Rule = Callable[..., tuple[Any, Any]]

_library = torch.library.Library("makemore_ext", "FRAGMENT")
_batched_key = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)


class VmapInfo(NamedTuple):
    """What a rule is told of the call."""

    batch_size: int


def register_vmap(name: str) -> Callable[[Rule], Rule]:
    """Registers `rule(info, in_dims, *arguments)` -> results, out_dims for an operator.

    As torch.library.register_vmap, of whose time most goes into taking arguments and results apart
    as trees of any depth. Here they are tensors and numbers.
    """
    operator = getattr(torch.ops.makemore_ext, name).default

    def register(rule: Rule) -> Rule:
        def batched(*arguments: Any) -> Any:
            innermost = _functorch.peek_interpreter_stack()
            interpreter = _functorch.CVmapInterpreterPtr(innermost)  # which it does not keep alive
            level = interpreter.level()
            values, dims = zip(
                *(
                    _functorch._unwrap_batched(argument, level)
                    if isinstance(argument, Tensor)
                    else (argument, None)
                    for argument in arguments
                ),
                strict=True,
            )
            with torch._C._ExcludeDispatchKeyGuard(_batched_key):
                if all(dim is None for dim in dims):
                    return operator(*arguments)
                results, out_dims = rule(VmapInfo(interpreter.batchSize()), dims, *values)
            if isinstance(results, Tensor):
                return _functorch._add_batch_dim(results, out_dims, level)
            return tuple(
                result if dim is None else _functorch._add_batch_dim(result, dim, level)
                for result, dim in zip(results, out_dims, strict=True)
            )

        _library.impl(name, batched, "FuncTorchBatched")
        return rule

    return register
