"""The threads that run together: some blocks of a launch, and the memory that they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..checks.coverage import Coverage
from ..checks.memory import (
    LOCAL_WINDOW,
    PARAMETER_WINDOW,
    SHARED_WINDOW,
    WINDOW,
    Access,
    GlobalMemory,
    Store,
    check_alignment,
)
from ..checks.races import Races, Shadow
from ..faults import Fault
from .operands import Lanes

if TYPE_CHECKING:
    from .program import DecodedFunction

Array = NDArray[Any]
AXES = "xyz"


@dataclass
class Launch:
    """What all chunks of one launch share."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_size: int  # of one block, static and dynamic
    dynamic_size: int
    local_size: int  # of one thread
    parameters: Store  # the kernel's, one after another
    shared_granule: int  # the kernel's narrowest access to shared memory, in bytes
    memory: GlobalMemory
    access: Access
    races: Races | None
    reverse: bool  # the order in which the threads of one atomic instruction take effect
    random: np.random.Generator | None
    printed: list[str]
    coverage: Coverage | None

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]


class Chunk:
    """Whole blocks, thread after thread; arrays below have one element a thread."""

    def __init__(self, launch: Launch, blocks: Array) -> None:
        threads = launch.threads
        self.launch = launch
        self.blocks = blocks  # their numbers in the grid
        self.count = len(blocks) * threads
        self.alive = np.ones(self.count, bool)
        self.thread = np.tile(np.arange(threads), len(blocks))  # within the block
        self.block = np.repeat(np.arange(len(blocks)), threads)  # within the chunk
        self.grid_lane = blocks[self.block] * threads + self.thread
        self.warps_per_block = -(-threads // 32)
        self.warp = self.block * self.warps_per_block + self.thread // 32
        self.lane_in_warp = self.thread % 32
        width = np.full(self.warps_per_block, 32)
        width[-1] = threads - 32 * (self.warps_per_block - 1)
        self.full_warps = np.tile((np.int64(1) << width) - 1, len(blocks))  # masks of their lanes
        self._special: dict[str, Array] = {}
        size = -(-max(launch.shared_size, 1) // 32) * 32
        self.shared_stride = size
        shadow = Shadow(size * len(blocks), launch.shared_granule) if launch.races else None
        self.shared = Store(size * len(blocks), shadow)
        self.local_stride = -(-max(launch.local_size, 1) // 32) * 32
        self.local = Store(self.local_stride * self.count if launch.local_size else 0, None)
        self.copies: list[PendingCopy] = []
        self.copy_groups = np.zeros(self.count, np.int64)

    def special(self, name: str) -> Array:
        """A special register, %tid.x and its like."""
        if name not in self._special:
            self._special[name] = self._compute_special(name)
        return self._special[name]

    def _compute_special(self, name: str) -> Array:
        launch = self.launch
        family, _, axis = name[1:].partition(".")
        if family in ("tid", "ntid", "ctaid", "nctaid") and axis in AXES:
            extent = launch.block if "n" not in family[:1] and family == "tid" else launch.grid
            position = AXES.index(axis)
            if family == "ntid":
                return np.full(self.count, launch.block[position], np.uint32)
            if family == "nctaid":
                return np.full(self.count, launch.grid[position], np.uint32)
            number = self.thread if family == "tid" else self.blocks[self.block]
            below = int(np.prod(extent[:position], dtype=np.int64))
            return (number // below % extent[position]).astype(np.uint32)
        lane = self.lane_in_warp.astype(np.uint64)
        one = np.uint64(1)
        known: dict[str, Array] = {
            "laneid": lane,
            "warpid": (self.thread // 32).astype(np.uint64),
            "nwarpid": np.full(self.count, self.warps_per_block, np.uint64),
            "lanemask_eq": one << lane,
            "lanemask_lt": (one << lane) - one,
            "lanemask_le": (one << lane + one) - one,
            "lanemask_gt": ~((one << lane + one) - one),
            "lanemask_ge": ~((one << lane) - one),
            "dynamic_smem_size": np.full(self.count, launch.dynamic_size, np.uint64),
            "total_smem_size": np.full(self.count, launch.shared_size, np.uint64),
            "smid": np.zeros(self.count, np.uint64),
            "clock": np.zeros(self.count, np.uint64),
            "clock64": np.zeros(self.count, np.uint64),
            "globaltimer": np.zeros(self.count, np.uint64),
        }
        if name[1:] not in known:
            raise Fault("unsupported", f"special register {name}")
        bits = np.uint64 if name[1:] in ("clock64", "globaltimer") else np.uint32
        return known[name[1:]].astype(bits)

    def positions(self, lanes: Lanes) -> Array:
        return np.arange(self.count) if isinstance(lanes, slice) else lanes

    def places(
        self, space: str, address: Array, size: int, lanes: Lanes
    ) -> list[tuple[Store, Array, Array | None]]:
        """Where accesses fall: a store, the rows in it, and which of the accesses (None: all)."""
        lane = self.grid_lane[lanes]
        check_alignment(address, size, lane)
        if space == "generic":
            return self._generic_places(address, size, lanes)
        if space == "shared":
            self._check_window(address, size, self.launch.shared_size, "shared memory", lane)
            return [(self.shared, (self.block[lanes] * self.shared_stride + address) // size, None)]
        if space == "parameter":
            size_of_all = len(self.launch.parameters.bytes)
            self._check_window(address, size, size_of_all, "parameters", lane)
            return [(self.launch.parameters, address // size, None)]
        if space == "local":
            self._check_window(address, size, self.launch.local_size, "local memory", lane)
            position = self.positions(lanes)
            return [(self.local, (position * self.local_stride + address) // size, None)]
        found = self.launch.memory.locate(address, size, lane)
        return [
            (
                buffer.store,
                ((address if chosen is None else address[chosen]) - buffer.base) // size,
                chosen,
            )
            for buffer, chosen in found
        ]

    def _check_window(self, address: Array, size: int, limit: int, what: str, lane: Array) -> None:
        outside = (address < 0) | (address + size > limit)
        if outside.any():
            first = int(outside.argmax())
            place = f"{size} bytes at {int(address[first])} of {limit} bytes of {what}"
            raise Fault("out of bounds", place, lane=lane[first])

    def _generic_places(
        self, address: Array, size: int, lanes: Lanes
    ) -> list[tuple[Store, Array, Array | None]]:
        position = self.positions(lanes)
        places: list[tuple[Store, Array, Array | None]] = []
        windows = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "parameter": PARAMETER_WINDOW}
        elsewhere = np.ones(len(address), bool)
        for space, base in (*windows.items(), ("global", 0)):
            inside = elsewhere & (address >= base)
            if base:
                inside &= address < base + WINDOW
            elsewhere &= ~inside
            if not inside.any():
                continue
            subset = np.flatnonzero(inside)
            for store, row, chosen in self.places(
                space, address[subset] - base, size, position[subset]
            ):
                places.append((store, row, subset if chosen is None else subset[chosen]))
        return places

    def load(
        self,
        space: str,
        address: Array,
        width: int,
        count: int,
        lanes: Lanes,
        strong: bool = False,
        read_only: bool = False,
    ) -> Array:
        """[lanes, count] values of `width` bytes."""
        lane = self.grid_lane[lanes]
        access = self.launch.access
        values = np.zeros((0, count), np.uint8)
        for store, row, chosen in self.places(space, address, width * count, lanes):
            if chosen is None:
                return access.load(store, row, width, count, lane, strong, read_only)
            part = access.load(store, row, width, count, lane[chosen], strong, read_only)
            if len(values) == 0:
                values = np.zeros((len(lane), count), part.dtype)
            values[chosen] = part
        return values

    def store(
        self, space: str, address: Array, values: Array, lanes: Lanes, strong: bool = False
    ) -> None:
        lane = self.grid_lane[lanes]
        size = values.dtype.itemsize * values.shape[1]
        for store, row, chosen in self.places(space, address, size, lanes):
            if chosen is None:
                self.launch.access.store(store, row, values, lane, strong)
            else:
                self.launch.access.store(store, row, values[chosen], lane[chosen], strong)

    def whole_blocks(self, lanes: Lanes) -> Array:
        """The blocks (in the chunk) of lanes at a barrier; all of their threads must be here."""
        if isinstance(lanes, slice) and self.alive.all():
            return np.arange(len(self.blocks))
        here = np.bincount(self.block[lanes], minlength=len(self.blocks))
        partial = (here > 0) & (here < self.launch.threads)
        if partial.any():
            block = int(partial.argmax())
            present = np.zeros(self.count, bool)
            present[lanes] = True
            missing = np.flatnonzero((self.block == block) & ~present)
            gone = int((~self.alive[missing]).sum())
            raise Fault(
                "barrier",
                f"{here[block]} of {self.launch.threads} threads reach it; of the others {gone} "
                f"have returned and {len(missing) - gone} are elsewhere, the first is thread "
                f"{self.thread[missing[0]]}",
                lane=self.grid_lane[self.positions(lanes)[self.block[lanes] == block][0]],
            )
        return np.flatnonzero(here)

    def arranged(self, lanes: Lanes) -> Lanes:
        """The lanes in the order in which their atomics take effect."""
        if self.launch.random is not None:
            return self.launch.random.permutation(self.positions(lanes))
        return self.positions(lanes)[::-1] if self.launch.reverse else lanes


@dataclass
class PendingCopy:
    """A cp.async that has read its source and is not yet waited for."""

    position: Array
    group: Array
    address: Array
    values: Array


@dataclass
class Activation:
    """One call of one function by some threads of a chunk."""

    chunk: Chunk
    function: DecodedFunction
    registers: list[Array]
    parameters: dict[str, Array]  # [lanes or 1, bytes]
    away: Array  # which threads have returned, or wait at a barrier for others
    carry: Array | None = None

    def count(self, lanes: Lanes) -> int:
        return self.chunk.count if isinstance(lanes, slice) else len(lanes)
