"""The search for races against its definition: vector clocks, one for every thread."""

import numpy as np
from cuda_bench import Fault
from cuda_bench.checks.races import Races, Shadow
from hypothesis import example, given, settings
from hypothesis import strategies as st

BLOCKS, THREADS = 2, 64
LANES = [0, 1, 2, 33, 34, 64, 65, 97]  # of two warps of one block, and of both of another
BYTES = 4

OPERATION = st.tuples(
    st.sampled_from(["read", "write", "atomic", "atomic", "fence", "barrier", "warp barrier"]),
    st.sampled_from(LANES),
    st.integers(0, BYTES - 1),
)


def conflicting(kind, before):
    """Two accesses are harmless only if both read, or both are atomic."""
    return kind != before or kind == "write"


class Clocks:
    """Happens-before by its definition: what each thread knows of every other one's time."""

    def __init__(self):
        self.known = {lane: dict.fromkeys(LANES, 0) for lane in LANES}
        self.fenced = {lane: dict.fromkeys(LANES, 0) for lane in LANES}  # known at the last fence
        self.published = dict.fromkeys(LANES, 0)  # by atomics after fences
        self.last_atomic = dict.fromkeys(LANES, -1)  # by the thread, or before a barrier
        self.accesses = []

    def join(self, tables):
        return {lane: max(table[lane] for table in tables) for lane in LANES}

    def share(self, group, *tables):
        for table in tables:
            joined = self.join([table[member] for member in group])
            table.update({member: dict(joined) for member in group})

    def barrier(self, lane):
        group = [other for other in LANES if other // THREADS == lane // THREADS]
        self.share(group, self.known, self.fenced)
        self.share_last_atomic(group)

    def warp_barrier(self, lane):
        group = [other for other in LANES if other // 32 == lane // 32]
        self.share(group, self.known)
        self.share_last_atomic(group)

    def share_last_atomic(self, group):
        latest = max(self.last_atomic[member] for member in group)
        self.last_atomic.update(dict.fromkeys(group, latest))

    def fence(self, lane):
        self.fenced[lane] = dict(self.known[lane])

    def access(self, kind, lane, byte):
        """Whether the access races with an earlier one."""
        if kind == "atomic":
            self.known[lane] = self.join([self.known[lane], self.published])
        self.known[lane][lane] += 1
        racing = any(
            place == byte
            and other != lane
            and conflicting(kind, before)
            and self.known[lane][other] < time
            and not (before == "atomic" and index <= self.last_atomic[lane])
            for index, (before, other, place, time) in enumerate(self.accesses)
        )
        self.accesses.append((kind, lane, byte, self.known[lane][lane]))
        if kind == "atomic":
            self.last_atomic[lane] = len(self.accesses) - 1
            self.published = self.join([self.published, self.fenced[lane]])
        return racing


def first_race(operations):
    """The index of the first access that races, by vector clocks."""
    clocks = Clocks()
    for index, (kind, lane, byte) in enumerate(operations):
        if kind in ("barrier", "fence"):
            getattr(clocks, kind)(lane)
        elif kind == "warp barrier":
            clocks.warp_barrier(lane)
        elif clocks.access(kind, lane, byte):
            return index
    return None


def first_found(operations):
    """The same, by the bench."""
    races, shadow = Races(BLOCKS, THREADS, track_fences=True), Shadow(BYTES, 1)
    for index, (kind, lane, byte) in enumerate(operations):
        races.time += 1
        lanes, row = np.array([lane]), np.array([byte])
        try:
            if kind == "barrier":
                races.pass_barrier(np.array([lane // THREADS]))
            elif kind == "warp barrier":
                races.pass_warp_barrier(lanes)
            elif kind == "fence":
                races.fence(lanes)
            elif kind == "read":
                races.read(shadow, row, 1, lanes, strong=False)
            elif kind == "write":
                races.write(shadow, row, 1, lanes, False, np.zeros(1, bool), False)
            else:
                races.look(lanes)
                races.write(shadow, row, 1, lanes, True, np.zeros(1, bool), False)
                races.publish(lanes)
        except Fault:
            return index
    return None


OPERATIONS = st.lists(OPERATION, max_size=18)


@settings(max_examples=1000, deadline=None)
@given(OPERATIONS)
def test_misses_no_race(operations):
    first = first_race(operations)
    assert first is None or first_found(operations) in range(first + 1)


@settings(max_examples=2000, deadline=None)
@given(OPERATIONS)
@example(  # the fence of one thread, between two barriers, is published by another one's atomic
    [
        ("read", 2, 2),
        ("barrier", 2, 0),
        ("fence", 1, 0),
        ("barrier", 2, 0),
        ("atomic", 2, 0),
        ("atomic", 64, 2),
    ]
)
@example(  # a thread's fence is for all that its warp did before a barrier
    [("read", 0, 0), ("warp barrier", 0, 0), ("fence", 1, 0), ("atomic", 1, 0), ("atomic", 33, 0)]
)
@example(  # what an atomic has seen a barrier of the warp passes on
    [
        ("write", 64, 1),
        ("fence", 64, 0),
        ("atomic", 64, 0),
        ("atomic", 0, 0),
        ("warp barrier", 0, 0),
        ("read", 1, 1),
    ]
)
def test_finds_the_first_race(operations):
    """Nothing else is taken for one, where each byte has one reader: of several who read it since
    the last write the record keeps one, and takes them for ordered only once all are."""
    reader = dict(enumerate(LANES))
    operations = [
        (kind, reader[byte] if kind == "read" else lane, byte) for kind, lane, byte in operations
    ]
    assert first_found(operations) == first_race(operations)
