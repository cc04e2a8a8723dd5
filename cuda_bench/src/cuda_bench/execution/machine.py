"""Runs a chunk of blocks: all threads at one instruction together, parting and meeting again.

Threads that part at a branch meet at its immediate post-dominator. A stack holds who waits where,
as in a device's own divergence stack, but for all warps of the chunk at once. Threads that come to
a barrier or a warp operation without the others it takes are parked until those have come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from .calls import provided
from .chunk import Activation, Chunk
from .operands import Lanes
from .program import Code, DecodedFunction, Kind, Program, describe
from .warp import bits

Array = NDArray[Any]

ALL = slice(None)
NOWHERE = -1


@dataclass
class Frame:
    """Threads at an instruction, and where they will meet those of the frame below."""

    at: int
    meeting: int
    lanes: Lanes


@dataclass
class Parked:
    """Threads that wait for others at a barrier or a warp operation."""

    at: int
    lanes: Array
    needed: Array  # by each thread at a warp operation: lanes of its warp, as a mask


class Machine:
    """Runs the program for one chunk."""

    def __init__(self, program: Program, chunk: Chunk, limit: int) -> None:
        self.program = program
        self.chunk = chunk
        self.limit = limit
        self.steps = 0

    def run(self, parameters: dict[str, Array]) -> None:
        with np.errstate(all="ignore"):
            self._call(self.program.entry, parameters, ALL)

    def _call(self, function: DecodedFunction, parameters: dict[str, Array], lanes: Lanes) -> None:
        count = self.chunk.count
        activation = Activation(
            self.chunk,
            function,
            [np.zeros(count, dtype) for dtype in function.storage],
            {**self._own_parameters(function), **parameters},
            away=np.zeros(count, bool),
        )
        frames, parked = [Frame(0, NOWHERE, lanes)], list[Parked]()
        while frames:
            frame = frames[-1]
            frame.lanes = self._remaining(activation, frame.lanes)
            if frame.at == frame.meeting or self._size(frame.lanes) == 0:
                frames.pop()
            else:
                self._advance(activation, frames, parked)
            if not frames and parked:
                frames, parked = self._release(activation, parked)

    def _own_parameters(self, function: DecodedFunction) -> dict[str, Array]:
        """Space for the variables through which the function passes arguments on."""
        return {
            name: np.zeros((self.chunk.count, max(variable.size, 1)), np.uint8)
            for name, variable in function.function.variables.items()
            if variable.space == "param"
        }

    def _size(self, lanes: Lanes) -> int:
        return self.chunk.count if isinstance(lanes, slice) else len(lanes)

    def _remaining(self, activation: Activation, lanes: Lanes) -> Lanes:
        away = activation.away
        if not away.any():
            return lanes
        return np.flatnonzero(~away) if isinstance(lanes, slice) else lanes[~away[lanes]]

    def _advance(self, activation: Activation, frames: list[Frame], parked: list[Parked]) -> None:
        """Runs the top frame until its threads part, meet or return."""
        frame = frames[-1]
        code, launch = activation.function.code, self.chunk.launch
        at, lanes, meeting = frame.at, frame.lanes, frame.meeting
        races = launch.races
        ways = None
        if launch.coverage is not None:
            kernel, function = self.program.kernel.name, activation.function.function
            ways = launch.coverage.of(self.program.module, kernel, function)
        while at != meeting:
            if at >= len(code):
                raise Fault("end", f"ran off the end of {activation.function.function.name}")
            now = code[at]
            self.steps += 1
            if races is not None:
                races.time += 1
            if self.steps > self.limit:
                raise Fault("runaway", f"more than {self.limit} instructions").at(
                    describe(now.instruction), launch.threads
                )
            acting: Lanes | None = lanes
            if now.predicate is not None:
                acting = self._select(lanes, now.predicate(activation, lanes))
            if now.kind is Kind.PLAIN:
                if acting is not None:
                    if now.together and self._park(activation, parked, at, acting):
                        frame.at = at  # once more, without those
                        return
                    try:
                        now.step(activation, acting)  # type: ignore[misc]
                    except Fault as fault:
                        raise fault.at(describe(now.instruction), launch.threads) from None
                at += 1
                continue
            if now.kind is Kind.BRANCH:
                target = now.targets[0]
                if ways is not None and now.predicate is not None:
                    self._enter(ways.setdefault(at, set()), lanes, acting)
                if acting is None:
                    at += 1
                elif self._size(acting) == self._size(lanes):
                    at = target
                else:
                    paths = [(at + 1, self._without(lanes, acting)), (target, acting)]
                    self._part(activation, frames, now, paths)
                    return
                continue
            if acting is None:
                at += 1
                continue
            if now.kind is Kind.CALL:
                self._call_from(activation, now, acting)
                at += 1
                if activation.away[acting].any():
                    frame.at = at
                    return
                continue
            if now.kind is Kind.TABLE:
                self._part(activation, frames, now, self._table(activation, now, acting))
                return
            self._return(activation, now, acting)
            frame.at = at + 1
            return
        frame.at = at

    def _enter(self, gone: set[bool], lanes: Lanes, taken: Lanes | None) -> None:
        if taken is not None:
            gone.add(True)
        if taken is None or self._size(taken) < self._size(lanes):
            gone.add(False)

    def _return(self, activation: Activation, code: Code, lanes: Lanes) -> None:
        activation.away[lanes] = True
        if code.kind is Kind.EXIT or activation.function is self.program.entry:
            self.chunk.alive[lanes] = False

    def _park(self, activation: Activation, parked: list[Parked], at: int, lanes: Lanes) -> bool:
        """Parks those of the threads that must wait for others; whether there are any."""
        if isinstance(lanes, slice):
            return False
        code = activation.function.code[at]
        needed = np.zeros(len(lanes), np.int64)
        if code.mask is not None:
            alive = bits(self.chunk, ALL, self.chunk.alive)[self.chunk.warp[lanes]]
            needed = code.mask(activation, lanes).astype(np.int64) & alive
        waiting = ~self._complete(code, lanes, needed)
        if not waiting.any():
            return False
        parked.append(Parked(at, lanes[waiting], needed[waiting]))
        activation.away[lanes[waiting]] = True
        return True

    def _complete(self, code: Code, lanes: Array, needed: Array) -> Array:
        """Which of the threads have all they need among them."""
        chunk = self.chunk
        if code.together == "block":
            here = np.bincount(chunk.block[lanes], minlength=len(chunk.blocks))
            return here[chunk.block[lanes]] == chunk.launch.threads
        complete = np.ones(len(lanes), bool)
        while True:
            here = bits(chunk, lanes, complete)[chunk.warp[lanes]]
            still = complete & (needed & ~here == 0)
            if (still == complete).all():
                return complete
            complete = still

    def _release(
        self, activation: Activation, parked: list[Parked]
    ) -> tuple[list[Frame], list[Parked]]:
        """When nothing else can run: the threads that are complete go on, the others wait on."""
        frames, waiting = [], []
        for at in sorted({group.at for group in parked}):
            lanes = np.concatenate([group.lanes for group in parked if group.at == at])
            needed = np.concatenate([group.needed for group in parked if group.at == at])
            order = np.argsort(lanes)
            lanes, needed = lanes[order], needed[order]
            complete = self._complete(activation.function.code[at], lanes, needed)
            if complete.any():
                everyone = len(lanes) == self.chunk.count and complete.all()
                frames.append(Frame(at, NOWHERE, ALL if everyone else lanes[complete]))
                activation.away[lanes[complete]] = False
            if not complete.all():
                waiting.append(Parked(at, lanes[~complete], needed[~complete]))
        if not frames:
            self._report(activation, waiting[0])
        return frames, waiting

    def _report(self, activation: Activation, group: Parked) -> None:
        code, chunk = activation.function.code[group.at], self.chunk
        try:
            if code.together == "block":
                chunk.whole_blocks(group.lanes)
            absent = group.needed & ~bits(chunk, group.lanes)[chunk.warp[group.lanes]]
            first = int(np.flatnonzero(absent)[0])
            lane = int(absent[first]).bit_length() - 1
            raise Fault(
                "warp",
                f"the mask {int(group.needed[first]):#010x} names lane {lane}, which is elsewhere",
                lane=chunk.grid_lane[group.lanes[first]],
            )
        except Fault as fault:
            raise fault.at(describe(code.instruction), chunk.launch.threads) from None

    def _select(self, lanes: Lanes, holds: Array) -> Lanes | None:
        holds = np.broadcast_to(holds, (self._size(lanes),))
        number = int(np.count_nonzero(holds))
        if number == len(holds):
            return lanes
        if number == 0:
            return None
        return np.flatnonzero(holds) if isinstance(lanes, slice) else lanes[holds]

    def _without(self, lanes: Lanes, some: Lanes) -> Lanes:
        left = np.zeros(self.chunk.count, bool)
        left[lanes] = True
        left[some] = False
        return np.flatnonzero(left)

    def _table(self, activation: Activation, code: Code, lanes: Lanes) -> list[tuple[int, Lanes]]:
        assert code.selector is not None
        choice = np.broadcast_to(code.selector(activation, lanes), (self._size(lanes),))
        if (choice >= len(code.targets)).any():
            raise Fault("out of bounds", "a branch beyond its table").at(
                describe(code.instruction), self.chunk.launch.threads
            )
        position = self.chunk.positions(lanes)
        return [(code.targets[value], position[choice == value]) for value in np.unique(choice)]

    def _part(
        self,
        activation: Activation,
        frames: list[Frame],
        code: Code,
        paths: list[tuple[int, Lanes]],
    ) -> None:
        """The frame waits at the meeting point while each path runs in a frame of its own."""
        frame = frames[-1]
        end = len(activation.function.code)
        meeting = code.meeting if code.meeting < end else NOWHERE
        if meeting == frame.meeting or meeting == NOWHERE:
            frames.pop()  # what waits below, or nobody, is what these threads meet
            meeting = frame.meeting
        else:
            frame.at = meeting
        for target, lanes in paths:
            following = activation.function.code[target] if target < end else None
            if following and following.kind is Kind.RETURN and following.predicate is None:
                self._return(activation, following, lanes)
            elif target != meeting:
                frames.append(Frame(target, meeting, lanes))

    def _call_from(self, activation: Activation, code: Code, lanes: Lanes) -> None:
        call = code.call
        assert call is not None
        launch = self.chunk.launch
        if call.callee not in self.program.functions:
            try:
                provided(call, activation, lanes)
            except Fault as fault:
                raise fault.at(describe(code.instruction), launch.threads) from None
            return
        callee = self.program.functions[call.callee]
        own = callee.function
        names = [variable.name for variable in own.returns + own.parameters]
        held = [activation.parameters[name] for name in call.returns + call.arguments]
        self._call(callee, dict(zip(names, held, strict=True)), lanes)
        dead = ~self.chunk.alive
        if dead.any():
            activation.away |= dead
