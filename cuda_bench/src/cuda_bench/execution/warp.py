"""What threads do together: barriers, shuffles, votes, matches and warp reductions.

machine.py sees to it that the lanes that a mask names are all here. Those that had returned before
are excused, but nothing can be read from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from ..ptx.parser import Instruction
from ..ptx.types import dtype_of
from .chunk import Activation, Chunk
from .operands import Lanes, Operands, Reader, Step

Array = NDArray[Any]


def bits(chunk: Chunk, lanes: Lanes, chosen: Array | None = None) -> Array:
    """For each warp of the chunk, the mask of the given lanes (that are chosen)."""
    if isinstance(lanes, slice) and (chosen is None or chosen.all()):
        return chunk.full_warps
    weights = np.ldexp(1.0, chunk.lane_in_warp[lanes])
    if chosen is not None:
        weights = np.where(chosen, weights, 0)
    warps = len(chunk.blocks) * chunk.warps_per_block
    return np.bincount(chunk.warp[lanes], weights, warps).astype(np.int64)


def _members(activation: Activation, lanes: Lanes, read_mask: Reader) -> Array:
    """The mask of every lane."""
    chunk = activation.chunk
    mask = np.broadcast_to(
        read_mask(activation, lanes).astype(np.int64), (activation.count(lanes),)
    )
    outside = mask >> chunk.lane_in_warp[lanes] & 1 == 0
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise Fault(
            "warp",
            f"a lane that its mask {int(mask[first]):#010x} leaves out",
            lane=chunk.grid_lane[lanes][first],
        )
    return mask


def shuffle(instruction: Instruction, operands: Operands) -> Step:
    """shfl.sync: up, down, bfly and idx, in segments of a power of two lanes."""
    mode = instruction.modifiers[1]
    target, _, valid = instruction.operands[0].partition("|")
    write, write_valid = operands.write(target, "b32"), operands.write(valid or "_", "pred")
    value = operands.read(instruction.operands[1], "b32")
    by, limits, mask = (operands.read(text, "u32") for text in instruction.operands[2:5])

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        members = _members(activation, lanes, mask)
        lane = chunk.lane_in_warp[lanes]
        distance = by(activation, lanes).astype(np.int64) & 31
        bounds = limits(activation, lanes).astype(np.int64)
        segment, clamp = bounds >> 8 & 31, bounds & 31
        last, first = (lane & segment) | (clamp & ~segment), lane & segment
        if mode == "up":
            source = lane - distance
            inside = source >= last
        elif mode == "down":
            source = lane + distance
            inside = source <= last
        elif mode == "bfly":
            source = lane ^ distance
            inside = source <= last
        else:
            source = first | (distance & ~segment)
            inside = source <= last
        source = np.where(inside, source, lane)
        position = chunk.positions(lanes)
        origin = position + source - lane
        active = np.zeros(chunk.count + 32, bool)
        active[lanes if not isinstance(lanes, slice) else slice(chunk.count)] = True
        exists = (chunk.thread[lanes] + source - lane) < chunk.launch.threads
        readable = (members >> source & 1 == 1) & exists & active[origin]
        if not readable.all():
            bad = int(np.flatnonzero(~readable)[0])
            raise Fault(
                "warp",
                f"reads lane {int(source[bad])}, which takes no part",
                lane=chunk.grid_lane[lanes][bad],
            )
        held = np.broadcast_to(value(activation, slice(None)), (chunk.count,))
        write(activation, lanes, held[origin])
        write_valid(activation, lanes, inside)

    return step


def vote(instruction: Instruction, operands: Operands) -> Step:
    """vote.sync: all, any, uni and ballot."""
    mode, type = instruction.modifiers[1], instruction.type
    write = operands.write(instruction.operands[0], type)
    predicate = operands.read(instruction.operands[1], "pred")
    mask = operands.read(instruction.operands[2], "u32")

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        members = _members(activation, lanes, mask)
        here = bits(chunk, lanes)[chunk.warp[lanes]] & members
        holds = np.broadcast_to(predicate(activation, lanes), members.shape)
        for_it = bits(chunk, lanes, holds)[chunk.warp[lanes]] & members
        if mode == "ballot":
            write(activation, lanes, for_it.astype(np.uint32))
        elif mode == "any":
            write(activation, lanes, for_it != 0)
        elif mode == "all":
            write(activation, lanes, for_it == here)
        else:
            write(activation, lanes, (for_it == here) | (for_it == 0))

    return step


def active_mask(instruction: Instruction, operands: Operands) -> Step:
    """activemask: the lanes of the warp that are here."""
    write = operands.write(instruction.operands[0], "b32")

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        write(activation, lanes, bits(chunk, lanes)[chunk.warp[lanes]].astype(np.uint32))

    return step


def match(instruction: Instruction, operands: Operands) -> Step:
    """match.sync: the lanes with this lane's value (any), or whether all have one value (all)."""
    everyone = "all" in instruction.modifiers
    target, _, valid = instruction.operands[0].partition("|")
    write, write_valid = operands.write(target, "b32"), operands.write(valid or "_", "pred")
    value = operands.read(instruction.operands[1], instruction.type)
    mask = operands.read(instruction.operands[2], "u32")

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        members = _members(activation, lanes, mask)
        values = np.broadcast_to(value(activation, lanes), members.shape)
        here = bits(chunk, lanes)[chunk.warp[lanes]] & members
        _, group = np.unique(
            np.stack([chunk.warp[lanes].astype(np.uint64), members, values.astype(np.uint64)]),
            axis=1,
            return_inverse=True,
        )
        group = group.reshape(-1)
        same = np.bincount(group, np.ldexp(1.0, chunk.lane_in_warp[lanes])).astype(np.int64)[group]
        if everyone:
            write(activation, lanes, np.where(same == here, here, 0).astype(np.uint32))
            write_valid(activation, lanes, same == here)
        else:
            write(activation, lanes, same.astype(np.uint32))

    return step


REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def reduce(instruction: Instruction, operands: Operands) -> Step:
    """redux.sync of 32-bit integers."""
    type = instruction.type
    combine = next((REDUCTIONS[name] for name in instruction.modifiers if name in REDUCTIONS), None)
    if combine is None or type not in ("s32", "u32", "b32"):
        raise Fault("unsupported", instruction.text)
    write = operands.write(instruction.operands[0], type)
    value = operands.read(instruction.operands[1], type)
    mask = operands.read(instruction.operands[2], "u32")

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        members = _members(activation, lanes, mask)
        values = np.broadcast_to(value(activation, lanes), members.shape)
        keys = chunk.warp[lanes].astype(np.int64) << 32 | members
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        result = values[first].copy()
        rest = np.ones(len(values), bool)
        rest[first] = False
        combine.at(result, group[rest], values[rest])
        write(activation, lanes, result[group].astype(dtype_of(type)))

    return step


def barrier(instruction: Instruction, operands: Operands) -> Step:
    """bar.sync, barrier.sync, bar.red and bar.warp.sync."""
    modifiers = instruction.modifiers
    if "warp" in modifiers:
        mask = operands.read(instruction.operands[0], "u32")

        def warp_barrier(activation: Activation, lanes: Lanes) -> None:
            _members(activation, lanes, mask)
            chunk = activation.chunk
            if chunk.launch.races is not None:
                chunk.launch.races.pass_warp_barrier(chunk.grid_lane[lanes])

        return warp_barrier
    if "red" in modifiers:
        return _barrier_reduction(instruction, operands)
    if not {"sync"} & set(modifiers) or "cluster" in modifiers:
        raise Fault("unsupported", instruction.text)
    count = operands.read(instruction.operands[1], "u32") if len(instruction.operands) > 1 else None

    def step(activation: Activation, lanes: Lanes) -> None:
        if (
            count is not None
            and (count(activation, lanes) != activation.chunk.launch.threads).any()
        ):
            raise Fault("unsupported", f"{instruction.text}: a barrier of a part of the block")
        _pass(activation.chunk, lanes)

    return step


def _pass(chunk: Chunk, lanes: Lanes) -> None:
    blocks = chunk.whole_blocks(lanes)
    if chunk.launch.races is not None:
        chunk.launch.races.pass_barrier(chunk.blocks[blocks])


def _barrier_reduction(instruction: Instruction, operands: Operands) -> Step:
    """__syncthreads_count, _and and _or."""
    mode, type = instruction.modifiers[1], instruction.type
    write = operands.write(instruction.operands[0], type)
    predicate = operands.read(instruction.operands[-1], "pred")

    def step(activation: Activation, lanes: Lanes) -> None:
        chunk = activation.chunk
        _pass(chunk, lanes)
        holds = np.broadcast_to(predicate(activation, lanes), (activation.count(lanes),))
        block = chunk.block[lanes]
        number = np.bincount(block, holds, len(chunk.blocks)).astype(np.int64)[block]
        if mode == "popc":
            write(activation, lanes, number.astype(np.uint32))
        else:
            write(
                activation, lanes, number == chunk.launch.threads if mode == "and" else number > 0
            )

    return step
