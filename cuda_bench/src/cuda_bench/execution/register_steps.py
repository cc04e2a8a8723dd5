"""What works on registers alone: the functions of integers.py and its like, moves, predicates."""

from __future__ import annotations

import numpy as np

from ..arithmetic import convert, integers
from ..faults import Fault
from ..ptx.parser import Instruction, split
from ..ptx.types import SIZES, UNSIGNED, dtype_of
from .chunk import Activation
from .operands import Lanes, Operands, Step


def compute(operation: integers.Operation, instruction: Instruction, operands: Operands) -> Step:
    """Reads the sources, applies the function, writes the result."""
    types, result, function = operation
    names = instruction.operands[1:]
    if len(names) != len(types):
        raise Fault("unsupported", instruction.text)
    write = operands.write(instruction.operands[0], result)
    readers = [operands.read(name, type) for name, type in zip(names, types, strict=True)]
    if len(readers) == 2:
        first, second = readers

        def binary(activation: Activation, lanes: Lanes) -> None:
            write(activation, lanes, function(first(activation, lanes), second(activation, lanes)))

        return binary

    def step(activation: Activation, lanes: Lanes) -> None:
        write(activation, lanes, function(*[read(activation, lanes) for read in readers]))

    return step


def move(instruction: Instruction, operands: Operands) -> Step:
    """mov, also between a register and a vector of its parts."""
    type = instruction.type
    target, source = instruction.operands
    if target.startswith("{") or source.startswith("{"):
        whole, parts = (source, target) if target.startswith("{") else (target, source)
        names = split(parts.strip("{}"))
        narrow = f"b{8 * SIZES[type] // len(names)}"
        dtype = UNSIGNED[SIZES[narrow]]
        if target.startswith("{"):
            read = operands.read(whole, type)
            writers = [operands.write(name, narrow) for name in names]

            def unpack(activation: Activation, lanes: Lanes) -> None:
                values = np.ascontiguousarray(read(activation, lanes))
                columns = values.view(dtype).reshape(-1, len(names)).copy()
                for index, write in enumerate(writers):
                    write(activation, lanes, columns[:, index])

            return unpack
        readers = [operands.read(name, narrow) for name in names]
        write_whole = operands.write(whole, type)

        def pack(activation: Activation, lanes: Lanes) -> None:
            values = np.empty((activation.count(lanes), len(readers)), dtype)
            for index, read in enumerate(readers):
                values[:, index] = read(activation, lanes)
            write_whole(activation, lanes, values.view(dtype_of(type))[:, 0])

        return pack
    read, write = operands.read(source, type), operands.write(target, type)
    return lambda activation, lanes: write(activation, lanes, read(activation, lanes))


def set_predicate(instruction: Instruction, operands: Operands) -> Step:
    """setp: a comparison, combined with a predicate where it names one."""
    type, compare, combine = convert.comparison(instruction)
    target, _, complement = instruction.operands[0].partition("|")
    write, write_complement = (
        operands.write(target, "pred"),
        operands.write(complement or "_", "pred"),
    )
    first, second = (operands.read(text, type) for text in instruction.operands[1:3])
    third = operands.read(instruction.operands[3], "pred") if combine is not None else None

    def step(activation: Activation, lanes: Lanes) -> None:
        holds = compare(first(activation, lanes), second(activation, lanes))
        other = ~holds
        if combine is not None and third is not None:
            extra = third(activation, lanes)
            holds, other = combine(holds, extra), combine(other, extra)
        write(activation, lanes, holds)
        write_complement(activation, lanes, other)

    return step


def carrying(instruction: Instruction, operands: Operands) -> Step:
    """add.cc, addc, sub.cc, subc, mad.cc and madc on 32 and 64 bits."""
    opcode, modifiers, type = instruction.opcode, instruction.modifiers, instruction.type
    dtype = dtype_of(type)
    unsigned = UNSIGNED[dtype.itemsize]
    readers = [operands.read(text, type) for text in instruction.operands[1:]]
    write = operands.write(instruction.operands[0], type)
    subtract = opcode.startswith("sub")

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk, count = activation.chunk, activation.count(lanes)
        values = [np.broadcast_to(read(activation, lanes), (count,)) for read in readers]
        if opcode.startswith("mad"):
            product = (
                integers.high_product(*values[:2]) if "hi" in modifiers else values[0] * values[1]
            )
            values = [product, values[2]]
        a, b = (np.ascontiguousarray(value).view(unsigned) for value in values)
        if activation.carry is None:
            activation.carry = np.zeros(chunk.count, bool)
        carry = activation.carry[lanes] if opcode.endswith("c") else np.zeros(count, bool)
        partial = a - b if subtract else a + b
        total = partial - carry.astype(unsigned) if subtract else partial + carry.astype(unsigned)
        if "cc" in modifiers:
            first = a < b if subtract else partial < a
            second = partial < total if subtract else total < partial
            activation.carry[lanes] = first | second
        write(activation, lanes, total.view(dtype))

    return step


def trap(activation: Activation, lanes: Lanes) -> None:
    """A fault of the first thread that comes here."""
    raise Fault("trap", "the kernel gave up", lane=activation.chunk.grid_lane[lanes][0])
