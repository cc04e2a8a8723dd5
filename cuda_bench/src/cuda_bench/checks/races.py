"""Who touched which bytes, and whether a barrier, a fence or an atomic orders two accesses.

A granule is as many bytes as the kernel's narrowest access to that kind of memory, so halves of a
word that two threads write are no race. For each granule there are three records: of the last plain
write, of the reads since, and of the strong accesses (atomics, volatile or relaxed stores). A
record is `time << 32 | scope << 28 | lane`: time counts executed instructions, a lane is a thread's
number in the grid, and scope says how far apart the threads are that the record stands for.

Two accesses to a granule by two threads race if one is a write, not both are strong, and nothing
orders them. They are ordered if, between them,
- the threads' block passes __syncthreads(), or their warp __syncwarp(); or
- the first thread executes a fence and then an atomic, and later the second thread executes an
  atomic; or other threads do so for them, with which barriers of the block or the warp connect
  them.
Of several threads that have read a granule since it was written there is one record, which is taken
for ordered only once all of them are: no race is missed, but one may be seen where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault

Array = NDArray[Any]

NEVER = np.int64(-1)
LANE = np.int64((1 << 28) - 1)
SCOPE = np.int64(28)
ONE_THREAD, ONE_WARP, ONE_BLOCK, GRID = (np.int64(scope) for scope in range(4))
MAXIMUM_LANES = 1 << 28


class Shadow:
    """The records of one allocation, or of the shared memory of all blocks of a chunk."""

    def __init__(self, size: int, granule: int) -> None:
        self.granule = granule
        self._count = -(-size // 32) * 32 // granule
        self.written = False  # until something is, nothing can race, and there are no records
        self.writes = self.reads = self.strong = np.zeros(0, np.int64)
        self._early_reads: list[tuple[Array, int, Array, int]] = []

    def rows(self, records: Array, size: int) -> Array:
        return records.reshape(-1, max(size // self.granule, 1))

    def start_writing(self, races: Races, strong: bool) -> None:
        """At the first write: makes the records and enters the reads that came before it."""
        if strong and len(self.strong) == 0:
            self.strong = np.full(self._count, NEVER)
        if self.written:
            return
        self.written = True
        self.writes = np.full(self._count, NEVER)
        self.reads = np.full(self._count, NEVER)
        for row, size, lane, time in self._early_reads:
            races.enter(self.rows(self.reads, size), row, lane, time)
        self._early_reads = []

    def remember_read(self, row: Array, size: int, lane: Array, time: int) -> None:
        self._early_reads.append((row, size, lane, time))


class Races:
    """The order of one launch's accesses."""

    def __init__(self, blocks: int, threads: int, track_fences: bool) -> None:
        self.time = 1
        self.threads = threads
        self.warps = -(-threads // 32)
        self.barrier = np.zeros(blocks, np.int64)  # when a block last passed one
        self.warp_barrier = np.zeros(blocks * self.warps, np.int64)
        self.fences = _Fences(blocks, threads) if track_fences else None

    def read(self, shadow: Shadow, row: Array, size: int, lane: Array, strong: bool) -> None:
        if not shadow.written:
            shadow.remember_read(row, size, lane, self.time)
            return
        self._check_writes(shadow, row, size, lane, strong, "reads what thread {} wrote")
        if not strong:
            self.enter(shadow.rows(shadow.reads, size), row, lane, self.time)

    def read_only(self, shadow: Shadow, row: Array, size: int, lane: Array) -> None:
        """ld.global.nc: through a cache that does not see writes of the same launch."""
        if not shadow.written:
            shadow.remember_read(row, size, lane, self.time)
            return
        written = (shadow.rows(shadow.writes, size)[row] != NEVER).any(axis=1)
        if len(shadow.strong):
            written |= (shadow.rows(shadow.strong, size)[row] != NEVER).any(axis=1)
        if written.any():
            what = "reads through the read-only cache what this launch wrote"
            raise Fault("race", what, lane=lane[written][0])

    def write(
        self,
        shadow: Shadow,
        row: Array,
        size: int,
        lane: Array,
        strong: bool,
        same: Array,
        allow_same: bool,
    ) -> None:
        """`same` marks the lanes that write what is there already."""
        shadow.start_writing(self, strong)
        what = "writes what thread {} wrote"
        self._check_writes(shadow, row, size, lane, strong, what, same, allow_same)
        reads = shadow.rows(shadow.reads, size)
        earlier = reads[row]
        if (earlier != NEVER).any():
            self._check(earlier, lane, "writes what thread {} read")
            if not strong:  # what races with these reads then races with this write as well
                reads[row] = NEVER
        # Atomics of one instruction happen one after another; the record stands for the last.
        time = self.time + (len(lane) - 1 if strong and self.fences is not None else 0)
        records = shadow.strong if strong else shadow.writes
        self.enter(shadow.rows(records, size), row, lane, time)

    def _check_writes(
        self,
        shadow: Shadow,
        row: Array,
        size: int,
        lane: Array,
        strong: bool,
        what: str,
        same: Array | None = None,
        allow_same: bool = False,
    ) -> None:
        self._check(shadow.rows(shadow.writes, size)[row], lane, what, same, allow_same)
        if not strong and len(shadow.strong):
            records = shadow.rows(shadow.strong, size)[row]
            self._check(records, lane, what, same, allow_same, atomic=True)

    def collisions(self, shadow: Shadow, row: Array, size: int, lane: Array) -> Array:
        """Of the lanes that have just written together, those whose write another one replaced."""
        record = shadow.rows(shadow.writes, size)[row, 0]
        return np.flatnonzero((record & LANE) != lane)

    def enter(self, records: Array, row: Array, lane: Array, time: int) -> None:
        """Records accesses; a record's scope grows until something orders what it holds."""
        before = records[row]
        mine = np.int64(time) << 32 | lane.astype(np.int64)
        merged = np.broadcast_to(mine[:, None], before.shape)
        known = before != NEVER
        if known.any():
            merged = merged.copy()
            at, _ = np.nonzero(known)
            old, new = before[known], lane[at]
            scope = np.maximum(old >> SCOPE & 3, self._distance(old & LANE, new))
            merged[known] |= np.where(self._ordered(old, new), 0, scope) << SCOPE
        records[row] = merged
        # Lanes that share a granule in this very instruction.
        after = records[row]
        shared = (after & LANE) != lane[:, None]
        if shared.any():
            at, granule = np.nonzero(shared)
            winner = after[shared]
            scope = np.maximum(winner >> SCOPE & 3, self._distance(winner & LANE, lane[at]))
            widened = winner & ~(np.int64(3) << SCOPE) | scope << SCOPE
            np.maximum.at(records, (row[at], granule), widened)

    def _distance(self, a: Array, b: Array) -> Array:
        same_block = a // self.threads == b // self.threads
        same_warp = same_block & (a % self.threads // 32 == b % self.threads // 32)
        return np.where(
            a == b,
            ONE_THREAD,
            np.where(same_warp, ONE_WARP, np.where(same_block, ONE_BLOCK, GRID)),
        )

    def _check(
        self,
        records: Array,
        lane: Array,
        what: str,
        same: Array | None = None,
        allow_same: bool = False,
        atomic: bool = False,
    ) -> None:
        foreign = (records != NEVER) & (
            ((records & LANE) != lane[:, None]) | (records >> SCOPE & 3 > 0)
        )
        if not foreign.any():
            return
        at, _ = np.nonzero(foreign)
        record = records[foreign]
        unordered = ~self._ordered(record, lane[at], atomic)
        if same is not None and allow_same:
            unordered &= ~same[at]
        if not unordered.any():
            return
        first = int(np.flatnonzero(unordered)[0])
        other = int(record[first] & LANE)
        detail = what.format(f"{other % self.threads} of block {other // self.threads}")
        if same is not None:
            detail += ", the same value" if same[at[first]] else ", another value"
        raise Fault("race", detail + ", and nothing orders the two", lane=int(lane[at[first]]))

    def _ordered(self, record: Array, lane: Array, atomic: bool = False) -> Array:
        first, time = record & LANE, record >> 32
        scope = record >> SCOPE & 3
        block, first_block = lane // self.threads, first // self.threads
        same_block = (block == first_block) & (scope < GRID)
        ordered = same_block & (time < self.barrier[block])
        warp = self._warp(lane)
        same_warp = same_block & (scope <= ONE_WARP) & (warp == self._warp(first))
        ordered |= same_warp & (time < self.warp_barrier[warp])
        if self.fences is not None:
            ordered |= self.fences.ordered(record, lane, atomic)
        return ordered

    def pass_barrier(self, blocks: Array) -> None:
        self.barrier[blocks] = self.time
        if self.fences is not None:
            self.fences.pass_barrier(blocks)

    def pass_warp_barrier(self, lane: Array) -> None:
        warps = np.unique(self._warp(lane))
        self.warp_barrier[warps] = self.time
        if self.fences is not None:
            self.fences.pass_warp_barrier(warps // self.warps, warps % self.warps)

    def _warp(self, lane: Array) -> Array:
        return lane // self.threads * self.warps + lane % self.threads // 32

    def fence(self, lane: Array) -> None:
        if self.fences is not None:
            barrier = self.barrier[lane // self.threads]
            self.fences.fence(lane, self.time, barrier, self.warp_barrier[self._warp(lane)])

    def look(self, lane: Array) -> None:
        """Before an atomic, or at an acquiring load: shows the lanes what others published."""
        if self.fences is not None:
            self.fences.look(lane, self.time)

    def publish(self, lane: Array) -> None:
        """After an atomic, or at a releasing store: publishes what the lanes fenced."""
        if self.fences is not None:
            self.fences.publish(lane, self.time, self.barrier)
            self.time += len(lane)  # each lane had a time of its own


class _Fences:
    """What each thread has published to other blocks, and when each thread last looked."""

    def __init__(self, blocks: int, threads: int) -> None:
        self.threads = threads
        self.fenced = np.zeros((blocks, threads), np.int64)  # time of the last fence
        self.block_fenced = np.zeros((blocks, threads), np.int64)  # the barrier before that fence,
        self.warp_fenced = np.zeros((blocks, threads), np.int64)  # and that of the warp
        self.published = np.zeros((blocks, threads), np.int64)  # writes before this are visible
        self.published_at = np.zeros((blocks, threads), np.int64)
        self.looked = np.zeros((blocks, threads), np.int64)

    def fence(self, lane: Array, time: int, barrier: Array, warp_barrier: Array) -> None:
        self.fenced.reshape(-1)[lane] = time
        self.block_fenced.reshape(-1)[lane] = barrier
        self.warp_fenced.reshape(-1)[lane] = warp_barrier

    def look(self, lane: Array, time: int) -> None:
        self.looked.reshape(-1)[lane] = time + np.arange(len(lane))

    def publish(self, lane: Array, time: int, barrier: Array) -> None:
        rank = time + np.arange(len(lane), dtype=np.int64)
        blocks, first = np.unique(lane // self.threads, return_index=True)
        acting = np.zeros_like(self.fenced, bool)
        acting.reshape(-1)[lane] = True
        # A barrier shares the fences before it with all threads of the block.
        known = acting[blocks] | (self.fenced[blocks] < barrier[blocks, None])
        fenced, of_warp, of_block = (
            np.where(known, times[blocks], 0)
            for times in (self.fenced, self.warp_fenced, self.block_fenced)
        )
        of_warp = np.maximum.reduceat(of_warp, np.arange(0, self.threads, 32), axis=1)
        of_warp = np.repeat(of_warp, 32, axis=1)[:, : self.threads]
        published = np.maximum(np.maximum(fenced, of_warp), of_block.max(axis=1, keepdims=True))
        more = published > self.published[blocks]
        self.published[blocks] = np.where(more, published, self.published[blocks])
        self.published_at[blocks] = np.where(more, rank[first][:, None], self.published_at[blocks])

    def pass_barrier(self, blocks: Array) -> None:
        self.looked[blocks] = self.looked[blocks].max(axis=1, keepdims=True)

    def pass_warp_barrier(self, blocks: Array, warps: Array) -> None:
        for block, warp in zip(blocks, warps, strict=True):
            looked = self.looked[block, warp * 32 : warp * 32 + 32]
            looked[:] = looked.max()

    def ordered(self, record: Array, lane: Array, atomic: bool) -> Array:
        first, time, scope = record & LANE, record >> 32, record >> SCOPE & 3
        looked = self.looked.reshape(-1)[lane]
        published = (time < self.published.reshape(-1)[first]) & (
            self.published_at.reshape(-1)[first] <= looked
        )
        # Atomics: this thread's own atomic came after all of them.
        return (published & (scope < GRID)) | (atomic & (time <= looked))
