"""Loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic import floats
from ..checks.memory import LOCAL_WINDOW, SHARED_WINDOW, Store
from ..faults import Fault
from ..ptx.parser import Instruction, split
from ..ptx.types import SIZES, UNSIGNED, dtype_of
from .chunk import Activation, Chunk, PendingCopy
from .operands import Lanes, Operands, Step

Array = NDArray[Any]

SPACES = ("global", "shared", "local", "param", "const")
# Hints to caches, and the scope of a fence or atomic, of which the bench knows only one.
HINTS = {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "cta", "gpu", "sys", "cluster", "weak", "noftz"}


def space_of(instruction: Instruction) -> str:
    """The kind of memory that an instruction names."""
    for name in instruction.modifiers:
        space = name.split("::")[0]
        if space in SPACES:
            return space
    return "generic"


def _check_modifiers(instruction: Instruction, known: set[str]) -> None:
    for name in instruction.modifiers:
        if name not in known | HINTS | set(SIZES) and not name.startswith(
            (*SPACES, "L1::", "L2::", "level::")
        ):
            raise Fault("unsupported", instruction.text)


def load_or_store(instruction: Instruction, operands: Operands) -> Step:
    """Ld and st in every space and width."""
    _check_modifiers(
        instruction,
        {"v2", "v4", "v8", "nc", "volatile", "relaxed", "acquire", "release"},
    )
    space, type = space_of(instruction), instruction.type
    dtype, width = dtype_of(type), SIZES[type]
    loading = instruction.opcode in ("ld", "ldu")
    target, source = instruction.operands[:2] if loading else instruction.operands[1::-1]
    names = split(target.strip("{}"))
    strong = any(
        name in instruction.modifiers for name in ("volatile", "relaxed", "acquire", "release")
    )
    ordering = any(name in instruction.modifiers for name in ("acquire", "release"))
    if space == "param" and operands.is_register(source.strip("[] ").split("+")[0].strip()):
        space = "generic"
    if space == "param":
        return _parameter(instruction, operands, names, source)
    read_only = "nc" in instruction.modifiers or space == "const"
    address = operands.address(source)

    if loading:
        writers = [operands.write(name, type) for name in names]

        def load(activation: Activation, lanes: Lanes) -> None:
            values = activation.chunk.load(
                space, address(activation, lanes), width, len(names), lanes, strong, read_only
            )
            for index, write in enumerate(writers):
                write(activation, lanes, values[:, index].view(dtype))
            if ordering:
                _look(activation, lanes)

        return load

    readers = [operands.read(name, type) for name in names]
    unsigned = UNSIGNED[width]

    def store(activation: Activation, lanes: Lanes) -> None:
        values = np.empty((activation.count(lanes), len(names)), unsigned)
        for index, read in enumerate(readers):
            values[:, index] = read(activation, lanes).view(unsigned)
        if ordering:
            fence(activation, lanes)
            _publish(activation, lanes)
        activation.chunk.store(space, address(activation, lanes), values, lanes, strong)

    return store


def _parameter(instruction: Instruction, operands: Operands, names: list[str], where: str) -> Step:
    """Parameters of a kernel are the same for all threads, those of a call are each thread's."""
    type = instruction.type
    dtype, width = dtype_of(type), SIZES[type]
    name, _, offset = where.strip("[] ").replace(" ", "").partition("+")
    first = int(offset or 0)
    if instruction.opcode == "ld":
        writers = [operands.write(register, type) for register in names]

        def load(activation: Activation, lanes: Lanes) -> None:
            held = activation.parameters[name]
            chosen = held if len(held) == 1 else held[lanes]
            for index, write in enumerate(writers):
                start = first + index * width
                values = np.ascontiguousarray(chosen[:, start : start + width]).view(dtype)
                write(activation, lanes, values[:, 0])

        return load

    readers = [operands.read(register, type) for register in names]

    def store(activation: Activation, lanes: Lanes) -> None:
        held = activation.parameters[name]
        for index, read in enumerate(readers):
            start = first + index * width
            values = np.broadcast_to(read(activation, lanes), (activation.count(lanes),))
            held[lanes, start : start + width] = (
                np.ascontiguousarray(values).view(np.uint8).reshape(-1, width)
            )

    return store


def fence(activation: Activation, lanes: Lanes) -> None:
    """Orders what the threads did before it, for whoever meets them in an atomic."""
    chunk = activation.chunk
    if chunk.launch.races is not None:
        chunk.launch.races.fence(chunk.grid_lane[lanes])


def _look(activation: Activation, lanes: Lanes) -> None:
    chunk = activation.chunk
    if chunk.launch.races is not None:
        chunk.launch.races.look(chunk.grid_lane[lanes])


def _publish(activation: Activation, lanes: Lanes) -> None:
    chunk = activation.chunk
    if chunk.launch.races is not None:
        chunk.launch.races.publish(chunk.grid_lane[lanes])


def convert_address(instruction: Instruction, operands: Operands) -> Step:
    """cvta: between a space's own addresses and generic ones; global addresses are the same."""
    type = instruction.type
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space_of(instruction), 0)
    offset = -window if "to" in instruction.modifiers else window
    read = operands.read(instruction.operands[1], type)
    write = operands.write(instruction.operands[0], type)
    shift = np.array(offset).astype(dtype_of(type))

    def convert(activation: Activation, lanes: Lanes) -> None:
        write(activation, lanes, read(activation, lanes) + shift)

    return convert


UPDATES: dict[str, Any] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": lambda old, limit: np.where(old >= limit, 0, old + 1).astype(old.dtype),
    "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - 1).astype(
        old.dtype
    ),
}


def atomic(instruction: Instruction, operands: Operands) -> Step:
    """Atom and red: threads take effect one after another, in the launch's order."""
    _check_modifiers(instruction, {*UPDATES, "cas", "relaxed", "acquire", "release", "acq_rel"})
    space, type = space_of(instruction), instruction.type
    dtype, width = dtype_of(type), SIZES[type]
    operation = next(name for name in instruction.modifiers if name in UPDATES or name == "cas")
    returning = instruction.opcode == "atom"
    first = 1 if returning else 0
    address = operands.address(instruction.operands[first])
    readers = [operands.read(name, type) for name in instruction.operands[first + 1 :]]
    result = operands.write(instruction.operands[0], type) if returning else None
    fencing = any(name in instruction.modifiers for name in ("acq_rel", "release"))
    update = _float_update(operation, type) or UPDATES.get(operation)

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk, count = activation.chunk, activation.count(lanes)
        lanes = chunk.arranged(lanes)
        values = [np.broadcast_to(read(activation, lanes), (count,)) for read in readers]
        if fencing:
            fence(activation, lanes)
        _look(activation, lanes)
        old = np.empty(count, dtype)
        for store, row, chosen in chunk.places(space, address(activation, lanes), width, lanes):
            part = slice(None) if chosen is None else chosen
            _check_atomic(chunk, store, row, width, chunk.grid_lane[lanes][part])
            mine = [value[part] for value in values]
            memory = store.rows(width, 1)[:, 0].view(dtype)
            old[part] = _apply(memory, row, mine, update, returning)
        _publish(activation, lanes)
        if result is not None:
            result(activation, lanes, old)

    return step


def _check_atomic(chunk: Chunk, store: Store, row: Array, width: int, lane: Array) -> None:
    store.load(row, width, 1, lane)
    races, shadow = chunk.launch.races, store.shadow
    if races is not None and shadow is not None:
        races.write(shadow, row, width, lane, True, np.zeros(len(row), bool), False)


def _float_update(operation: str, type: str) -> Any:
    """Sums of narrow types, rounded once."""
    if type in ("f16x2", "bf16x2") and operation == "add":
        half = type[:-2]

        def packed(old: Array, value: Array) -> Array:
            parts = [
                floats.widen(np.ascontiguousarray(x).view(dtype_of(half)), half)
                for x in (old, value)
            ]
            return np.ascontiguousarray(floats.add(parts[0], parts[1], half)).view(np.uint32)

        return packed
    if type in ("f16", "bf16") and operation == "add":
        return lambda old, value: floats.add(
            floats.widen(old, type), floats.widen(value, type), type
        )
    if type in ("f16", "bf16", "f16x2", "bf16x2") and operation in ("min", "max"):
        raise Fault("unsupported", f"atomic {operation}.{type}")
    return None


def _apply(memory: Array, row: Array, values: list[Array], update: Any, returning: bool) -> Array:
    """Updates memory[row] in order; returns what each thread found."""
    if isinstance(update, np.ufunc) and not returning:
        update.at(memory, row, values[0])
        return values[0]
    old = np.empty(len(row), memory.dtype)
    # The first thread of every address together, then the second of each, and so on.
    by_row = np.argsort(row, kind="stable")
    rows = row[by_row]
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    turn = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    by_turn = by_row[np.argsort(turn, kind="stable")]
    ends = np.cumsum(np.bincount(turn))
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        now = by_turn[begin:end]
        found = memory[row[now]]
        old[now] = found
        if len(values) == 2:  # compare and swap
            memory[row[now]] = np.where(found == values[0][now], values[1][now], found)
        else:
            memory[row[now]] = update(found, values[0][now])
    return old


def copy_async(instruction: Instruction, operands: Operands) -> Step:
    """cp.async: the source is read now, the destination written when the copy is waited for.

    So a thread that forgets to wait reads what was there before, and another thread needs a
    barrier after the wait; a destination that others still read is found only at the wait.
    """
    modifiers = instruction.modifiers
    if "commit_group" in modifiers:
        return _commit
    if "wait_group" in modifiers or "wait_all" in modifiers:
        keep = 0 if "wait_all" in modifiers else int(instruction.operands[0])
        return lambda activation, lanes: _wait(activation, lanes, keep, "wait_all" in modifiers)
    if (
        modifiers[1:2] != ("shared",)
        and modifiers[1:3] != ("shared::cta",)
        and (not {"ca", "cg"} & set(modifiers) or "bulk" in modifiers)
    ):
        raise Fault("unsupported", instruction.text)
    size = int(instruction.operands[2])
    width = min(size, 8)
    to, source = (operands.address(text) for text in instruction.operands[:2])
    filled = (
        operands.read(instruction.operands[3], "u32") if len(instruction.operands) > 3 else None
    )

    def copy(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        position = chunk.positions(lanes)
        address = np.broadcast_to(source(activation, lanes), position.shape)
        values = np.zeros((len(position), size // width), UNSIGNED[width])
        reading = np.ones(len(position), bool)
        if filled is not None:
            taken = np.broadcast_to(filled(activation, lanes), position.shape)
            if not np.isin(taken, (0, size)).all():
                raise Fault("unsupported", f"{instruction.text} of a part")
            reading = taken == size
        if reading.any():
            values[reading] = chunk.load(
                "global", address[reading], width, size // width, position[reading]
            )
        chunk.copies.append(
            PendingCopy(position, chunk.copy_groups[position], to(activation, lanes), values)
        )

    return copy


def _commit(activation: Activation, lanes: Lanes) -> None:
    activation.chunk.copy_groups[lanes] += 1


def _wait(activation: Activation, lanes: Lanes, keep: int, uncommitted: bool) -> None:
    chunk = activation.chunk
    waiting = np.zeros(chunk.count, bool)
    waiting[lanes] = True
    remaining = []
    for copy in chunk.copies:
        done = waiting[copy.position] & (
            copy.group < chunk.copy_groups[copy.position] - keep + (1 if uncommitted else 0)
        )
        if done.any():
            chunk.store("shared", copy.address[done], copy.values[done], copy.position[done])
        if not done.all():
            rest = ~done
            remaining.append(
                PendingCopy(
                    copy.position[rest], copy.group[rest], copy.address[rest], copy.values[rest]
                )
            )
    chunk.copies = remaining
