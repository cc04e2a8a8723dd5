"""Which ways of branches were gone."""

import numpy as np
import pytest
from cuda_bench import Coverage, Device, parse

# Threads below `limit` go one way. Of the two branches of line 3 one is taken by none, one by all.
# Line 4 is a loop.
KERNEL = parse("""
.version 8.0
.target sm_80
.address_size 64
.file 1 "some.cu"
.visible .entry below(.param .u32 limit)
{
.reg .pred %p;
.reg .b32 %r<3>;
ld.param.u32 %r1, [limit];
mov.u32 %r2, %tid.x;
.loc 1 2 0
setp.lt.u32 %p, %r2, %r1;
@%p bra $below;
mov.u32 %r2, 5;
ret;
$below:
mov.u32 %r2, 6;
ret;
}
.visible .entry copies()
{
.reg .pred %p;
.reg .b32 %r;
.loc 1 3 0
mov.u32 %r, 7;
setp.eq.u32 %p, %r, 8;
@%p bra $end;
setp.eq.u32 %p, %r, 7;
@%p bra $end;
mov.u32 %r, 5;
$end:
ret;
}
.visible .entry turns(.param .u32 count)
{
.reg .pred %p;
.reg .b32 %r<3>;
ld.param.u32 %r1, [count];
mov.u32 %r2, 0;
.loc 1 4 0
setp.eq.u32 %p, %r1, 0;
@%p bra $end;
$loop:
add.u32 %r2, %r2, 1;
setp.lt.u32 %p, %r2, %r1;
@%p bra $loop;
$end:
ret;
}
""")


def covered(*limits):
    coverage = Coverage()
    for limit in limits:
        Device(coverage=coverage).launch(KERNEL, "below", 1, 32, [np.uint32(limit)])
    return coverage


@pytest.mark.parametrize(
    ("limits", "often", "missed"),
    [
        ([0], "never", "mov.u32 %r2, 6"),
        ([32], "always", "mov.u32 %r2, 5"),
        ([32, 40], "always", "mov.u32 %r2, 5"),
    ],
)
def test_one_way(limits, often, missed):
    coverage = covered(*limits)
    [branch] = coverage.one_way()
    assert str(branch) == f"some.cu:2: @%p bra $below is {often} taken in below"
    assert branch.missed.text == missed
    assert coverage.launched() == {"below"}


@pytest.mark.parametrize("limits", [[8], [0, 32], [32, 0]])
def test_both_ways_in_one_launch_or_in_several(limits):
    assert not list(covered(*limits).one_way())


def test_copies_of_a_branch_count_as_one():
    coverage = Coverage()
    Device(coverage=coverage).launch(KERNEL, "copies", 1, 32, [])
    assert not list(coverage.one_way())


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0], ["some.cu:4: @%p bra $end is always taken in turns"]),
        (
            [1],
            [f"some.cu:4: @%p bra ${label} is never taken in turns" for label in ("end", "loop")],
        ),
        ([0, 1], ["some.cu:4: @%p bra $loop is never taken in turns"]),
        ([2], []),
    ],
)
def test_a_loop_needs_a_second_turn(counts, expected):
    coverage = Coverage()
    for count in counts:
        Device(coverage=coverage).launch(KERNEL, "turns", 1, 32, [np.uint32(count)])
    assert list(map(str, coverage.one_way())) == expected
