"""Every kind of fault provoked and caught, and the correct twin of each kernel let through."""

import re

import numpy as np
import pytest
from cuda_bench import Device, Fault
from samples import kernels, needs_nvcc

pytestmark = needs_nvcc

THREADS = 64


class Bench:
    """Builds arguments on a device; `grid` blocks of 64 threads."""

    def __init__(self, grid=1, **options):
        self.grid = grid
        self.device = Device(**options)

    def run(self, name, *arguments, shared=0):
        self.device.launch(kernels("faults.cu"), name, self.grid, THREADS, arguments, shared=shared)

    def floats(self, count=None, offset=0):
        return self.device.array(np.arange(count or self.count, dtype=np.float32), offset=offset)

    def empty(self, count=None, dtype=np.float32):
        return self.device.empty(count or self.count, dtype)

    def zeros(self, count=1, dtype=np.int32):
        return self.device.array(np.zeros(count, dtype))

    @property
    def count(self):
        return self.grid * THREADS


# name of the test: (kind of fault, part of its message, blocks, what to run)
FAULTS = {
    "store past the end": ("out of bounds", "0 bytes|252 bytes after", 1,
        lambda b: b.run("store_out_of_bounds", b.empty(63), 63)),
    "load before the start": ("out of bounds", "4 bytes before the start", 1,
        lambda b: b.run("load_before_the_start", b.floats(), b.empty())),
    "vector across the end": ("out of bounds", "of an array of 248 bytes", 1,
        lambda b: b.run("load_across_the_end", b.floats(62), b.empty())),
    "null pointer": ("out of bounds", "load|bytes", 1,
        lambda b: b.run("copy", 0, b.empty())),
    "misaligned vector": ("misaligned", "16 bytes at", 1,
        lambda b: b.run("load_misaligned", b.floats(), b.empty())),
    "vector of an unaligned array": ("misaligned", "16 bytes at", 1,
        lambda b: b.run("load_across_the_end", b.floats(64, offset=1), b.empty())),
    "uninitialised global": ("uninitialised", "nothing wrote", 1,
        lambda b: b.run("copy", b.empty(), b.empty())),
    "uninitialised shared": ("uninitialised", "thread 63", 1,
        lambda b: b.run("shared_uninitialised", b.empty())),
    "shared past the end": ("out of bounds", "4 bytes at 252 of 252 bytes of shared", 1,
        lambda b: b.run("shared_out_of_bounds", b.empty(), shared=63 * 4)),
    "shared without a barrier": ("race", "reads what thread 6[0-9] of block 0 wrote", 1,
        lambda b: b.run("shared_reversed", b.empty(), False)),
    "shared reused too early": ("race", "writes what thread .* read", 1,
        lambda b: b.run("shared_reused", b.empty(), False)),
    "warp without a barrier": ("race", "reads what thread 1 of block 0 wrote", 1,
        lambda b: b.run("shared_within_a_warp", b.empty(), False)),
    "warp barrier between warps": ("race", "reads what thread 32 of block 0 wrote", 1,
        lambda b: b.run("shared_across_warps", b.empty())),
    "two values in one place": ("race", "another value", 1,
        lambda b: b.run("shared_same_place", b.empty(), False)),
    "one value in one place": ("race", "the same value", 1,
        lambda b: b.run("shared_same_place", b.empty(), True)),
    "plain shared count": ("race", "count|read|same bytes", 1,
        lambda b: b.run("shared_plain_count", b.empty(dtype=np.int32))),
    "shared count read too early": ("race", "reads what thread .* wrote", 1,
        lambda b: b.run("shared_atomic_count", b.empty(dtype=np.int32), False)),
    "global without a barrier": ("race", "reads what thread 1 of block 0 wrote", 2,
        lambda b: b.run("neighbour_in_block", b.empty(), b.empty(), False)),
    "another block's result": ("race|uninitialised", "thread 0 of block 1|nothing wrote", 2,
        lambda b: b.run("neighbour_block", b.empty(), b.empty())),
    "written while another block reads": ("race", "thread .* of block", 2,
        lambda b: b.run("shift_in_place", b.floats())),
    "two blocks write two values": ("race", "another value", 2,
        lambda b: b.run("every_block_writes", b.empty(64), False)),
    "two blocks write one value": ("race", "the same value", 2,
        lambda b: b.run("every_block_writes", b.empty(64), True)),
    "plain add for an atomic": ("race", "global_count|same bytes|read", 2,
        lambda b: b.run("global_count", b.zeros(), False)),
    "global count read too early": ("race", "reads what thread", 2,
        lambda b: b.run("count_then_read", b.zeros(), b.empty(dtype=np.int32))),
    "read-only cache": ("race", "read-only cache", 1,
        lambda b: b.run("read_only_cache", b.empty(), b.empty())),
    "last block without a fence": ("race", "reads what thread 0 of block", 4,
        lambda b: b.run("last_block", b.empty(4), b.zeros(), b.empty(1), False, 3)),
    "last block but one": ("race|uninitialised", "block 3|nothing wrote", 4,
        lambda b: b.run("last_block", b.empty(4), b.zeros(), b.empty(1), True, 2)),
    "barrier in a branch": ("barrier", "32 of 64 threads reach it; .* 32 have returned", 1,
        lambda b: b.run("barrier_in_a_branch", b.empty())),
    "barrier after a return": ("barrier", "40 of 64 threads reach it; .* 24 have", 1,
        lambda b: b.run("barrier_after_a_return", b.empty(), 40)),
    "barrier after some have left a loop": ("barrier", "51 have returned", 1,
        lambda b: b.run("barrier_after_a_loop_with_a_way_out",
            b.device.array(np.arange(5, dtype=np.int32)), b.empty(), 1)),
    "shuffle after some have left a loop": ("warp", "which takes no part|elsewhere", 1,
        lambda b: b.run("shuffle_after_a_loop_with_a_way_out",
            b.device.array(np.arange(5, dtype=np.int32)), b.empty(), 1)),
    "shuffle in a branch": ("warp", "names lane 31, which is elsewhere", 1,
        lambda b: b.run("shuffle_in_a_branch", b.empty(), 0xFFFFFFFF)),
    "shuffle from outside the mask": ("warp", "reads lane 16, which takes no part", 1,
        lambda b: b.run("shuffle_from_outside", b.empty())),
    "mask without the lane itself": ("warp", "leaves out", 1,
        lambda b: b.run("mask_without_itself", b.empty())),
    "warp barrier in a branch": ("warp", "names lane 30, which is elsewhere", 1,
        lambda b: b.run("warp_barrier_in_a_branch", b.empty())),
    "trap": ("trap", "thread 3", 1,
        lambda b: b.run("gives_up", b.empty())),
    "assertion": ("trap", r"faults.cu:\d+: assertion x\[threadIdx.x\] >= 0 failed", 1,
        lambda b: b.run("asserts", b.device.array(np.full(64, -1, np.int32)), b.empty())),
    "endless loop": ("runaway", "more than", 1,
        lambda b: b.run("never_ends", b.floats())),
    "local memory": ("local memory", "256 bytes a thread", 1,
        lambda b: b.run("local_memory", b.zeros(64), b.empty())),
    "too many threads": ("launch", "2048", 1,
        lambda b: b.device.launch(kernels("faults.cu"), "copy", 1, 2048, [b.floats(), b.empty()])),
    "an empty grid": ("launch", "a grid of", 1,
        lambda b: b.device.launch(kernels("faults.cu"), "copy", 0, 64, [b.floats(), b.empty()])),
    "too much shared memory": ("launch", "bytes of shared memory", 1,
        lambda b: b.run("shared_out_of_bounds", b.empty(), shared=48 * 1024 + 4)),
    "too few arguments": ("launch", "takes 2 arguments, not 1", 1,
        lambda b: b.run("copy", b.empty())),
}  # fmt: skip


@pytest.mark.parametrize("concurrent_blocks", [None, 1])
@pytest.mark.parametrize(("kind", "message", "grid", "run"), FAULTS.values(), ids=FAULTS)
def test_fault(kind, message, grid, run, concurrent_blocks):
    bench = Bench(grid, concurrent_blocks=concurrent_blocks, instruction_limit=20_000)
    with pytest.raises(Fault) as caught:
        run(bench)
    assert re.fullmatch(kind, caught.value.kind)
    assert re.search(message, str(caught.value))


CORRECT = {
    "store in bounds": (1, lambda b: b.run("store_in_bounds", b.empty(63), 63)),
    "barrier after shared": (1, lambda b: b.run("shared_reversed", b.empty(), True)),
    "barrier before reuse": (1, lambda b: b.run("shared_reused", b.empty(), True)),
    "warp barrier": (1, lambda b: b.run("shared_within_a_warp", b.empty(), True)),
    "halves of a word": (1, lambda b: b.run("shared_halves", b.empty(dtype=np.float16))),
    "shared count": (1, lambda b: b.run("shared_atomic_count", b.empty(dtype=np.int32), True)),
    "global count": (3, lambda b: b.run("global_count", b.zeros(), True)),
    "barrier after global": (2, lambda b: b.run("neighbour_in_block", b.empty(), b.empty(), True)),
    "shift of one block": (1, lambda b: b.run("shift_in_place", b.floats())),
    "last block": (4, lambda b: b.run("last_block", b.empty(4), b.zeros(), b.empty(1), True, 3)),
    "last block, fence before barrier": (4, lambda b: b.run(
        "last_block_fence_before_barrier", b.empty(), b.zeros(), b.empty(1))),
    "as many barriers as the block's number": (5, lambda b: b.run("barriers_by_block", b.empty())),
    "barrier after a loop that none has left": (1, lambda b: b.run(
        "barrier_after_a_loop_with_a_way_out", b.zeros(5), b.empty(), 1)),
    "shuffle after a loop that none has left": (1, lambda b: b.run(
        "shuffle_after_a_loop_with_a_way_out", b.zeros(5), b.empty(), 1)),
    "shuffle of half a warp": (1, lambda b: b.run("shuffle_in_a_branch", b.empty(), 0xFFFF)),
    "assertion that holds": (1, lambda b: b.run("asserts", b.zeros(64), b.empty())),
}  # fmt: skip


@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
@pytest.mark.parametrize("concurrent_blocks", [None, 1])
@pytest.mark.parametrize(("grid", "run"), CORRECT.values(), ids=CORRECT)
def test_correct_twin(grid, run, order, concurrent_blocks):
    run(Bench(grid, order=order, concurrent_blocks=concurrent_blocks))


def test_equal_writes_and_local_memory_can_be_allowed():
    bench = Bench(2, allow_equal_writes=True, allow_local_memory=True)
    bench.run("every_block_writes", bench.empty(64), True)
    with pytest.raises(Fault, match="another value"):
        bench.run("every_block_writes", bench.empty(64), False)
    single = Bench(1, allow_local_memory=True)
    result = single.empty()
    single.run("local_memory", single.device.array(np.arange(64, dtype=np.int32)[::-1]), result)
    assert result.numpy().tolist() == list(range(63, -1, -1))


def test_a_result_that_is_not_written_is_a_fault():
    bench = Bench()
    result = bench.empty((8, 8))
    bench.run("store_in_bounds", result, 20)
    with pytest.raises(Fault, match=r"element \(2, 4\) of a result"):
        result.numpy()


def test_a_fault_names_source_block_and_thread():
    bench = Bench(2)
    with pytest.raises(Fault, match=r"faults.cu:\d+: st.global.u32 .* in block 0, thread 63"):
        bench.run("store_out_of_bounds", bench.empty(63), 63)


def test_launches_are_ordered():
    bench = Bench()
    x = bench.floats()
    bench.run("neighbour_in_block", x, bench.empty(), True)
    bench.run("shared_reversed", x, True)
    bench.run("copy", x, bench.empty())


def test_without_the_search_for_races_they_pass():
    bench = Bench(1, races=False)
    result = bench.empty()
    bench.run("shared_reversed", result, False)
    assert result.numpy()[0] == 63


def test_null_pointer_where_there_is_no_array():
    with pytest.raises(Fault, match="no arrays at all"):
        Device().launch(kernels("softmax.cu"), "log_sum_exp", 1, 128, [0, 0, 1])
