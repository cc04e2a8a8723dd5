"""Which code of a model calls torch's functions, which `convert` cannot reach."""

import dis
import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType

from torch import nn
from torch.nn import functional as F

FUNCTIONS = (F.cross_entropy, F.batch_norm)


def torch_calls(module: nn.Module) -> dict[str, str]:
    """What is called, and how ours takes its place, by Class.method of the model's own classes."""
    return {
        method.__qualname__: called
        for kind in dict.fromkeys(type(layer) for layer in module.modules())
        for method in _methods(kind)
        for called in _called(method)
    }


def _methods(kind: type) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in ("torch", "makemore_ext"):
            for member in vars(base).values():
                if isinstance(member, (staticmethod, classmethod)):
                    member = member.__func__
                if isinstance(member, FunctionType):
                    yield inspect.unwrap(member)


def _called(method: FunctionType) -> Iterator[str]:
    """Follows names, as in `nn.functional.cross_entropy`, from a global one on."""
    value: object = None
    for instruction in dis.get_instructions(method):
        if instruction.opname == "LOAD_GLOBAL":
            value = method.__globals__.get(instruction.argval)
            if _is_torchs(value):
                name = instruction.argval
                yield f"{name}, imported from torch.nn.functional: import makemore_ext's instead"
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType):
            value = getattr(value, instruction.argval, None)
            if _is_torchs(value):
                yield f"{instruction.argval} of torch.nn.functional, which patch() replaces"
        else:
            value = None


def _is_torchs(value: object) -> bool:
    return any(value is function for function in FUNCTIONS)
