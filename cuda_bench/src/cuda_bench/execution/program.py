"""A kernel made ready to run: its memory laid out, each instruction turned into a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

import numpy as np

from ..arithmetic import convert, floating, floats, integers
from ..checks.memory import PARAMETER_WINDOW
from ..faults import Fault
from ..ptx import flow
from ..ptx.parser import Function, Instruction, Module, Variable, split
from ..ptx.types import SIZES
from . import memory_steps, register_steps, warp
from .operands import Operands, Reader, Step

# What the bench provides itself when a kernel calls it.
PROVIDED = ("vprintf", "__assertfail")
NO_EFFECT = ("prefetch", "prefetchu", "nanosleep", "griddepcontrol", "discard", "applypriority")


class Kind(Enum):
    """How an instruction moves the threads."""

    PLAIN = auto()
    BRANCH = auto()
    TABLE = auto()
    RETURN = auto()
    EXIT = auto()
    CALL = auto()


@dataclass
class Call:
    """A call's callee and, by name, the caller's variables that stand for its parameters."""

    callee: str
    returns: list[str]
    arguments: list[str]


@dataclass
class Code:
    """One instruction, decoded."""

    kind: Kind
    instruction: Instruction
    predicate: Reader | None
    step: Step | None = None
    targets: tuple[int, ...] = ()
    selector: Reader | None = None
    meeting: int = 0
    together: Literal["block", "warp"] | None = None  # whose threads must all be here
    mask: Reader | None = None  # of a warp: which of its threads
    call: Call | None = None


@dataclass
class DecodedFunction:
    """A function's instructions, decoded, and how its registers are kept."""

    function: Function
    code: list[Code]
    storage: list[np.dtype[Any]]


class Program:
    """A kernel and all that it calls, on a device that holds the module's global variables."""

    def __init__(
        self,
        module: Module,
        kernel: Function,
        addresses: dict[str, int],
        approximate: floats.Approximator,
    ) -> None:
        self.module = module
        self.kernel = kernel
        self.approximate = approximate
        used = [kernel, *self._callees(kernel)]
        names = {name for function in used for name in _mentioned(function)}
        shared = [
            (name, variable)
            for holder in (module.variables, *(function.variables for function in used))
            for name, variable in holder.items()
            if variable.space == "shared" and name in names
        ]
        local = [
            (name, variable)
            for function in used
            for name, variable in function.variables.items()
            if variable.space == "local"
        ]
        self.shared_symbols, self.static_shared = _lay_out(shared)
        self.local_symbols, self.local_size = _lay_out(local)
        self.parameter_offsets, self.parameter_size = _lay_out(
            [(parameter.name, parameter) for parameter in kernel.parameters]
        )
        symbols = {**addresses, **self.shared_symbols, **self.local_symbols}
        for name, offset in self.parameter_offsets.items():
            symbols[name] = PARAMETER_WINDOW + offset
        self.functions = {function.name: self._decode(function, symbols) for function in used}
        instructions = [code.instruction for item in self.functions.values() for code in item.code]
        self.global_granule = _granule(instructions, "global")
        self.shared_granule = _granule(instructions, "shared")
        self.has_fences = any(
            i.opcode in ("membar", "fence") or {"acquire", "release", "acq_rel"} & set(i.modifiers)
            for i in instructions
        )
        self.entry = self.functions[kernel.name]

    def _callees(self, kernel: Function) -> list[Function]:
        found: dict[str, Function] = {}
        waiting = [kernel]
        while waiting:
            for instruction in waiting.pop().instructions:
                if instruction.opcode != "call":
                    continue
                name = _call(instruction).callee
                callee = self.module.functions.get(name)
                if name in PROVIDED or name in found:
                    continue
                if callee is None or not callee.instructions:
                    raise Fault("unsupported", f"a call of {name}")
                found[name] = callee
                waiting.append(callee)
        return list(found.values())

    def _decode(self, function: Function, symbols: dict[str, int]) -> DecodedFunction:
        operands = Operands(function, symbols)
        meetings = flow.reconvergence(function)
        code = []
        for index, instruction in enumerate(function.instructions):
            try:
                decoded = self._decode_one(function, instruction, operands)
            except (Fault, KeyError, IndexError, StopIteration, ValueError) as error:
                detail = error.detail if isinstance(error, Fault) else f"{instruction.text}"
                raise Fault("unsupported", detail).at(describe(instruction), 1) from error
            decoded.meeting = meetings.get(index, 0)
            code.append(decoded)
        return DecodedFunction(function, code, operands.storage)

    def _decode_one(self, function: Function, instruction: Instruction, operands: Operands) -> Code:
        predicate = None
        if instruction.predicate is not None:
            name = ("!" if instruction.negated else "") + instruction.predicate
            predicate = operands.read(name, "pred")
        code = Code(Kind.PLAIN, instruction, predicate)
        opcode = instruction.opcode
        if opcode in ("bra", "brx"):
            code.kind = Kind.BRANCH if opcode == "bra" else Kind.TABLE
            code.targets = tuple(flow.targets(function, instruction))
            if opcode == "brx":
                code.selector = operands.read(instruction.operands[0], "u32")
        elif opcode in ("ret", "exit"):
            code.kind = Kind.RETURN if opcode == "ret" else Kind.EXIT
        elif opcode == "call":
            code.kind, code.call = Kind.CALL, _call(instruction)
        else:
            code.step = self._step(instruction, operands)
            if opcode in ("shfl", "vote", "match", "redux") or "warp" in instruction.modifiers:
                code.together = "warp"
                code.mask = operands.read(instruction.operands[-1], "u32")
            elif opcode in ("bar", "barrier"):
                code.together = "block"
        return code

    def _step(self, instruction: Instruction, operands: Operands) -> Step:
        builders: dict[str, Callable[[Instruction, Operands], Step]] = {
            **dict.fromkeys(("ld", "ldu", "st"), memory_steps.load_or_store),
            **dict.fromkeys(("atom", "red"), memory_steps.atomic),
            **dict.fromkeys(("bar", "barrier"), warp.barrier),
            **dict.fromkeys(("add", "addc", "sub", "subc", "mad", "madc"), register_steps.carrying),
            "cp": memory_steps.copy_async,
            "cvta": memory_steps.convert_address,
            "shfl": warp.shuffle,
            "vote": warp.vote,
            "match": warp.match,
            "redux": warp.reduce,
            "activemask": warp.active_mask,
            "mov": register_steps.move,
            "setp": register_steps.set_predicate,
        }
        opcode = instruction.opcode
        if opcode in ("membar", "fence"):
            return memory_steps.fence
        if opcode in ("trap", "brkpt"):
            return register_steps.trap
        if opcode in NO_EFFECT:
            return lambda activation, lanes: None
        carries = "cc" in instruction.modifiers or opcode in ("addc", "subc", "madc")
        if opcode in builders and (builders[opcode] is not register_steps.carrying or carries):
            return builders[opcode](instruction, operands)
        operation = (
            convert.operation(instruction)
            or floating.operation(instruction, self.approximate)
            or integers.operation(instruction)
        )
        if operation is None:
            raise Fault("unsupported", instruction.text)
        return register_steps.compute(operation, instruction, operands)


def _granule(instructions: list[Instruction], space: str) -> int:
    """The narrowest access to a space, in bytes."""
    widths = [
        4 if instruction.opcode == "cp" else SIZES[instruction.type]
        for instruction in instructions
        if instruction.opcode == "cp"
        or (
            instruction.opcode in ("ld", "ldu", "st", "atom", "red")
            and memory_steps.space_of(instruction) in (space, "generic")
        )
    ]
    return min([*widths, 8])


def describe(instruction: Instruction) -> str:
    """The line of the source and the text."""
    source = f"{instruction.source}: " if instruction.source else ""
    return source + instruction.text


def _mentioned(function: Function) -> Iterator[str]:
    for instruction in function.instructions:
        for operand in instruction.operands:
            yield from operand.strip("[]{} ").replace("+", " ").split()


def _lay_out(variables: list[tuple[str, Variable]]) -> tuple[dict[str, int], int]:
    """Offsets in order; variables without a size, `extern __shared__`, begin where others end."""
    symbols, size = {}, 0
    for name, variable in sorted(variables, key=lambda item: item[1].size == 0):
        align = max(variable.align, 16) if variable.size == 0 else variable.align
        start = -(-size // align) * align
        symbols[name] = start
        size = start + variable.size
    return symbols, size


def _call(instruction: Instruction) -> Call:
    """`call (result), callee, (arguments)`, both lists optional."""
    parts = [split(part.strip("()")) for part in instruction.operands]
    bracketed = [part.startswith("(") for part in instruction.operands]
    returns = parts[0] if bracketed[0] else []
    callee = instruction.operands[1 if bracketed[0] else 0]
    arguments = [part for part, is_list in zip(parts[1:], bracketed[1:], strict=True) if is_list]
    if callee.startswith("%"):
        raise Fault("unsupported", "a call through a pointer")
    return Call(callee, returns, arguments[0] if arguments else [])
