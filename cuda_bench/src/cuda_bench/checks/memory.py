"""Global, shared and local memory: bounds, alignment, initialisation; races.py does the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from ..ptx.types import UNSIGNED
from .races import Races, Shadow

Array = NDArray[Any]

POISON = 0xFF  # what uninitialised bytes hold: NaN in every floating-point type
LINE = 256  # allocations start at multiples of this, as cudaMalloc's do
FIRST_ADDRESS = 0x7000_0000_0000
SHARED_WINDOW = 0x6000_0000_0000  # where generic addresses find shared memory
LOCAL_WINDOW = 0x5000_0000_0000
PARAMETER_WINDOW = 0x4000_0000_0000  # for __grid_constant__ parameters whose address is taken
WINDOW = 1 << 32


class Store:
    """Bytes, which of them have been written, and the records of who did."""

    def __init__(self, size: int, shadow: Shadow | None) -> None:
        padded = -(-max(size, 1) // 32) * 32
        self.bytes = np.full(padded, POISON, np.uint8)
        self.written: Array | None = np.zeros(padded, np.uint8)  # None: all of them
        self.shadow = shadow
        self._views: dict[tuple[int, int], Array] = {}

    def rows(self, width: int, count: int) -> Array:
        """The bytes as rows of `count` values of `width` bytes."""
        if (width, count) not in self._views:
            self._views[width, count] = self.bytes.view(UNSIGNED[width]).reshape(-1, count)
        return self._views[width, count]

    def load(self, row: Array, width: int, count: int, lane: Array) -> Array:
        """[lanes, count] values; `row` counts accesses of width · count bytes."""
        if self.written is not None:
            self._require_written(row, width * count, lane)
        return self.rows(width, count)[row]

    def store(self, row: Array, values: Array) -> None:
        width, count = values.dtype.itemsize, values.shape[1]
        self.rows(width, count)[row] = values
        if self.written is not None:
            size = width * count
            if size <= 8:
                self.written.view(UNSIGNED[size])[row] = _ones(size)
            else:
                self.written.reshape(-1, size)[row] = 1

    def _require_written(self, row: Array, size: int, lane: Array) -> None:
        assert self.written is not None
        if size <= 8:
            missing = self.written.view(UNSIGNED[size])[row] != _ones(size)
        else:
            words = self.written.view(np.uint64).reshape(-1, size // 8)
            missing = (words[row] != _ones(8)).any(axis=1)
        if missing.any():
            raise Fault("uninitialised", "reads bytes that nothing wrote", lane=lane[missing][0])


def _ones(size: int) -> Any:
    return UNSIGNED[size](int.from_bytes(b"\1" * size, "little"))


class Buffer:
    """An array in global memory: what cudaMalloc would give, seen as shape and dtype."""

    def __init__(self, store: Store, base: int, offset: int, shape: tuple[int, ...], dtype: Any):
        self.store = store
        self.base = base
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.first = base + offset
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def address(self) -> int:
        """The pointer that a kernel takes."""
        return self.first

    @property
    def _span(self) -> slice:
        return slice(self.first - self.base, self.first - self.base + self.nbytes)

    def numpy(self, allow_unwritten: bool = False) -> Array:
        """A copy of the contents. Bytes that nothing has written are an error."""
        written = self.store.written
        if written is not None and not allow_unwritten and not written[self._span].all():
            element = int(np.flatnonzero(written[self._span] == 0)[0]) // self.dtype.itemsize
            place = tuple(map(int, np.unravel_index(element, self.shape)))
            raise Fault("uninitialised", f"element {place} of a result was never written")
        return self.store.bytes[self._span].copy().view(self.dtype).reshape(self.shape)

    def fill(self, values: Any) -> None:
        """Writes the whole array from the host."""
        array = np.ascontiguousarray(np.broadcast_to(np.asarray(values, self.dtype), self.shape))
        self.store.bytes[self._span] = array.reshape(-1).view(np.uint8)
        if self.store.written is not None:
            self.store.written[self._span] = 1


class GlobalMemory:
    """Every allocation, `gap` bytes apart: far enough that no small overrun reaches the next."""

    def __init__(self, gap: int) -> None:
        self._gap = gap
        self._buffers: list[Buffer] = []
        self._starts = np.zeros(0, np.int64)
        self._next = FIRST_ADDRESS

    def allocate(self, shape: tuple[int, ...], dtype: Any, offset: int) -> Buffer:
        """`offset` elements lie between the aligned start and the first element."""
        start = offset * np.dtype(dtype).itemsize
        size = start + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        buffer = Buffer(Store(size, None), self._next, start, shape, dtype)
        self._buffers.append(buffer)
        self._starts = np.append(self._starts, buffer.base)
        self._next += (size // LINE + 2) * LINE + self._gap
        return buffer

    def begin_launch(self, granule: int) -> None:
        """Forgets who touched what: launches on a stream are ordered."""
        for buffer in self._buffers:
            buffer.store.shadow = Shadow(len(buffer.store.bytes), granule)

    def locate(self, address: Array, size: int, lane: Array) -> list[tuple[Buffer, Array | None]]:
        """The allocations that accesses of `size` bytes fall in, with the accesses of each."""
        if not self._buffers:
            where = f"{size} bytes at {int(address[0]):#x}, where there are no arrays at all"
            raise Fault("out of bounds", where, lane=lane[0])
        lowest, highest = int(address.min()), int(address.max())
        index = int(np.searchsorted(self._starts, lowest, side="right")) - 1
        if index >= 0:
            buffer = self._buffers[index]
            if buffer.first <= lowest and highest + size <= buffer.first + buffer.nbytes:
                return [(buffer, None)]
        owner = np.searchsorted(self._starts, address, side="right") - 1
        found: list[tuple[Buffer, Array | None]] = []
        for index in np.unique(owner):
            chosen = np.flatnonzero(owner == index)
            buffer = self._buffers[max(index, 0)]
            outside = (address[chosen] < buffer.first) | (
                address[chosen] + size > buffer.first + buffer.nbytes
            )
            if index < 0 or outside.any():
                first = chosen[outside.argmax()]
                raise Fault(
                    "out of bounds", _describe(buffer, int(address[first]), size), lane=lane[first]
                )
            found.append((buffer, chosen))
        return found

    def span(self, address: int, size: int) -> tuple[Store, slice]:
        """Bytes for the host's cudaMemset and cudaMemcpy."""
        [(buffer, _)] = self.locate(np.array([address]), size, np.zeros(1, np.int64))
        return buffer.store, slice(address - buffer.base, address - buffer.base + size)


def _describe(buffer: Buffer, address: int, size: int) -> str:
    if address >= buffer.first:
        place = f"{address - buffer.first} bytes after the start"
    else:
        place = f"{buffer.first - address} bytes before the start"
    return f"{size} bytes {place} of an array of {buffer.nbytes} bytes {buffer.shape}"


def check_alignment(address: Array, size: int, lane: Array) -> None:
    """Every address is a multiple of the access's size."""
    wrong = (address & (size - 1)) != 0
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise Fault("misaligned", f"{size} bytes at {int(address[first]):#x}", lane=lane[first])


class Access:
    """Loads and stores that are checked in every way, for one launch."""

    def __init__(self, races: Races | None, allow_equal_writes: bool) -> None:
        self.races = races
        self.allow_equal_writes = allow_equal_writes

    def load(
        self,
        store: Store,
        row: Array,
        width: int,
        count: int,
        lane: Array,
        strong: bool = False,
        read_only: bool = False,
    ) -> Array:
        values = store.load(row, width, count, lane)
        if self.races is not None and store.shadow is not None:
            if read_only:
                self.races.read_only(store.shadow, row, width * count, lane)
            else:
                self.races.read(store.shadow, row, width * count, lane, strong)
        return values

    def store(
        self, store: Store, row: Array, values: Array, lane: Array, strong: bool = False
    ) -> None:
        races, shadow = self.races, store.shadow
        if races is None or shadow is None:
            store.store(row, values)
            return
        width, count = values.dtype.itemsize, values.shape[1]
        same = (store.rows(width, count)[row] == values).all(axis=1)
        races.write(shadow, row, width * count, lane, strong, same, self.allow_equal_writes)
        store.store(row, values)
        if strong:
            return
        replaced = races.collisions(shadow, row, width * count, lane)
        if len(replaced):
            lost = (store.rows(width, count)[row[replaced]] != values[replaced]).any(axis=1)
            if lost.any() or not self.allow_equal_writes:
                first = replaced[lost.argmax()]
                value = "another value" if lost.any() else "the same value"
                raise Fault(
                    "race",
                    f"two threads write the same bytes in one instruction, {value}",
                    lane=lane[first],
                )
