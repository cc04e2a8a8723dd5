"""What is used again, what may lie idle, what is given back."""

import os
import sys

import pytest
import torch
from results import normalized
from support import python

import makemore_ext as mx

KIB, MIB = 1 << 10, 1 << 20

of_the_process = pytest.mark.skipif(
    sys.platform != "linux" or "san.so" in os.environ.get("LD_PRELOAD", ""),
    reason="reads /proc, where a sanitizer's memory counts too",
)


def test_a_result_takes_what_another_gave_back():
    first = normalized()
    before = mx.cache_info()
    del first
    second = normalized()
    after = mx.cache_info()
    assert (after.reused, after.missed) == (before.reused + 1, before.missed)
    assert after.in_use == before.in_use
    assert 0 <= after.in_use - second.nbytes < 128 * KIB


def test_small_results_are_left_to_torch():
    before = mx.cache_info()
    small = normalized(1000)
    assert mx.cache_info() == before
    assert small.nbytes < MIB


def test_a_view_keeps_the_block():
    view = normalized()[5:]
    expected = view.clone()
    others = [normalized(3000 + i) for i in range(3)]
    assert view.data_ptr() not in [other.data_ptr() for other in others]
    assert torch.equal(view, expected)


def test_the_limit():
    mx.set_cache_limit(MIB)
    del (result := [normalized()])[:]
    assert result == []
    assert mx.cache_info().idle <= MIB
    mx.set_cache_limit(0)
    assert mx.cache_info().idle == 0
    before = mx.cache_info()
    normalized()
    assert mx.cache_info() == before
    mx.set_cache_limit(2**80)
    normalized()
    assert mx.cache_info().idle >= 2 * MIB
    mx.empty_cache()
    assert mx.cache_info().idle == 0


@pytest.mark.parametrize("limit", [-1, 0.5, "1"])
def test_no_limit_at_all(limit):
    with pytest.raises(ValueError, match=f"^limit must be an integer of at least 0, got {limit!r}"):
        mx.set_cache_limit(limit)


@pytest.mark.parametrize(("value", "limit"), [("", "None"), ("0", "0"), ("5000000", "5000000")])
def test_the_limit_of_the_environment(value, limit):
    code = "import makemore_ext as mx; print(mx.cache_info().limit)"
    assert python(code, MAKEMORE_EXT_CACHE_LIMIT=value).stdout.strip() == limit


@pytest.mark.parametrize("value", ["-1", "1e6", "all", " 1"])
def test_the_environment_says_no_limit(value):
    last = python("import makemore_ext", MAKEMORE_EXT_CACHE_LIMIT=value).stderr.splitlines()[-1]
    assert last == (
        f"ImportError: MAKEMORE_EXT_CACHE_LIMIT must be a number of bytes, 0 or more, got {value!r}"
    )


def test_without_native_autograd_torch_allocates():
    code = """
import torch, makemore_ext as mx
mx.set_cache_limit(10**9)
y = mx.batch_norm(torch.randn(3000, 200), None, None, training=True)
print(mx.cache_info())
"""
    expected = str(mx.CacheInfo(0, 0, 0, 0, 0, 0))
    assert python(code, MAKEMORE_EXT_AUTOGRAD="python").stdout.strip() == expected


SHORT_OF_MEMORY = """
import resource
import torch
import makemore_ext as mx

weight = torch.ones(1, 256)
def result(mebibytes):
    return mx.embedding(torch.zeros(mebibytes << 10, dtype=torch.int32), weight)

kept = [result(64), result(16), result(64)]
del kept[2], kept[0]
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (64 << 20), resource.RLIM_INFINITY))
before = mx.cache_info()
large = result(128)
after = mx.cache_info()
assert before.idle >= 128 << 20, before
assert after.missed == before.missed + 1 and after.in_use == 144 << 20, after
assert large.eq(1).all() and kept[0].eq(1).all()
try:
    result(512)
except RuntimeError:
    print("none left")
"""


@of_the_process
def test_blocks_are_given_back_before_an_allocation_fails():
    run = python(SHORT_OF_MEMORY)
    assert (run.returncode, run.stdout) == (0, "none left\n"), run.stderr


STEPS = """
import resource
import torch
import makemore_ext as mx

torch.set_num_threads(1)
logits, generator = torch.randn(400, 8000), torch.Generator().manual_seed(0)

def held():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize()

start, most = held(), 0
for rows in torch.randint(20, 400, (1000,), generator=generator).tolist():
    x = logits[:rows].detach().requires_grad_()
    mx.cross_entropy(x, torch.zeros(rows, dtype=torch.int64)).backward()
    most = max(most, held())
print(most - start, held() - start, mx.cache_info().reused)
"""


@of_the_process
def test_steps_of_changing_sizes_hold_no_more_than_the_peak_and_the_bound():
    def steps(limit: str) -> tuple[int, ...]:
        run = python(STEPS, MAKEMORE_EXT_CACHE_LIMIT=limit)
        return tuple(map(int, run.stdout.split()))

    peak = steps("0")[0]
    most, held, reused = steps(str(4 * MIB))
    assert held <= most <= peak + 4 * MIB
    assert reused > 0
    most, held, reused = steps("")
    assert held <= most <= 2 * peak
    assert reused > 900
