"""Memory of large results: what is used again, what torch can do with it, what is given back."""

import copy
import io
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch
from support import seeded
from torch import Tensor

import makemore_ext as mx

KIB, MIB = 1 << 10, 1 << 20
NATIVE = mx.build_info()["autograd"] == "native"

pytestmark = pytest.mark.skipif(not NATIVE, reason="torch allocates where autograd is Python's")


@pytest.fixture(autouse=True)
def cache():
    mx.set_cache_limit(None)
    mx.empty_cache()
    yield
    mx.set_cache_limit(None)
    mx.empty_cache()


def normalized(rows: int = 3000, dtype: torch.dtype = torch.float32) -> Tensor:
    """A result of rows * 200 elements: 2.3 MiB."""
    x = torch.randn(rows, 200, generator=seeded(), dtype=torch.float64).to(dtype)
    return mx.batch_norm(x, None, None, training=True)


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
    assert mx.cache_info()[:2] == (0, 0)
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


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


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


# ---- to torch, tensors like any other ----


def saved_and_loaded(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


def set_elsewhere(tensor: Tensor) -> Tensor:
    return torch.empty(0).set_(tensor)


def resized(tensor: Tensor) -> Tensor:
    shape, rows = tensor.shape, 2 * len(tensor)
    assert tensor.untyped_storage().resizable()
    tensor.resize_(rows, shape[1])
    tensor[len(tensor) // 2 :] = 7
    return tensor[: rows // 2]


SAME = {
    "deepcopy": copy.deepcopy,
    "save": saved_and_loaded,
    "numpy": lambda tensor: torch.from_numpy(tensor.numpy()),
    "DLPack": lambda tensor: torch.from_dlpack(tensor),
    "set_": set_elsewhere,
    "resize_": resized,
    "share_memory_": lambda tensor: tensor.share_memory_(),
    "storage": lambda tensor: (
        torch.tensor(tensor.untyped_storage().tolist(), dtype=torch.uint8)
        .view(tensor.dtype)
        .view(tensor.shape)
    ),
}


@pytest.mark.parametrize("through", SAME.values(), ids=SAME)
def test_the_values_are_the_same(through):
    mx.set_cache_limit(0)
    expected = normalized()
    mx.set_cache_limit(None)
    in_use = mx.cache_info().in_use
    actual = through(normalized())
    normalized()  # would take the memory, were it given back too early
    assert torch.equal(actual, expected)
    del actual
    assert mx.cache_info().in_use == in_use


def test_a_storage_that_is_emptied_gives_its_block_back():
    result = normalized()
    idle = mx.cache_info().idle
    result.untyped_storage().resize_(0)
    assert mx.cache_info().idle > idle


def test_another_thread_frees():
    results = [normalized() for _ in range(4)]
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert mx.cache_info().in_use == 0


def _mean_of(queue, answer):
    answer.put(queue.get().double().abs().mean().item())


def test_another_process_reads():
    context = multiprocessing.get_context("spawn")
    queue, answer = torch.multiprocessing.get_context("spawn").Queue(), context.Queue()
    process = context.Process(target=_mean_of, args=(queue, answer))
    process.start()
    result = normalized()
    queue.put(result)
    assert answer.get() == pytest.approx(result.double().abs().mean().item())
    process.join()


def test_the_profiler_sees_them():
    with torch.profiler.profile(profile_memory=True) as profile:
        del (result := [normalized()])[:]
    assert result == []
    changes = [e.cpu_memory_usage for e in profile.events() if e.name == "[memory]"]
    assert sum(1 for change in changes if abs(change) == 3000 * 200 * 4) >= 2


def test_results_that_outlive_the_module():
    code = """
import builtins, torch, makemore_ext as mx
builtins.kept = mx.batch_norm(torch.randn(3000, 200), None, None, training=True)
print("end")
"""
    run = python(code)
    assert (run.returncode, run.stdout, run.stderr) == (0, "end\n", "")


# ---- exactness ----


def gradients(output: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    upstream = torch.randn(output.shape, generator=seeded(1)).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, leaves, upstream)


def leaf(*shape: int, dtype: torch.dtype, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=seeded(seed)).to(dtype).requires_grad_()


def batch_norm_of(*shape: int, activation: str | None = None):
    def call(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, weight = leaf(*shape, dtype=dtype), leaf(shape[1], dtype=dtype, seed=3)
        y = mx.batch_norm(x, None, None, weight, training=True, activation=activation)
        return gradients(y, x, weight)

    return call


def cross_entropy_of(rows: int, classes: int, **options):
    def call(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = leaf(rows, classes, dtype=dtype)
        target = torch.randint(classes, (rows,), generator=seeded(4))
        target[::7] = -100
        return gradients(mx.cross_entropy(x, target, **options), x)

    return call


def embedding_of(tokens: int, vocabulary: int, features: int):
    def call(dtype: torch.dtype) -> tuple[Tensor, ...]:
        weight = leaf(vocabulary, features, dtype=dtype)
        indices = torch.randint(vocabulary, (tokens,), generator=seeded(5))
        return gradients(mx.embedding(indices, weight, padding_idx=1), weight)

    return call


CALLS = {
    "batch norm, rows": batch_norm_of(4000, 150, activation="tanh"),
    "batch norm, images": batch_norm_of(8, 33, 65, 41, activation="relu"),
    "cross entropy, mean": cross_entropy_of(70, 10007),
    "cross entropy, of each row": cross_entropy_of(70, 10007, reduction="none"),
    "cross entropy, few classes": cross_entropy_of(30001, 27, label_smoothing=0.1),
    "embedding": embedding_of(5000, 2000, 300),
}


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bits_do_not_depend_on_reuse(call, dtype):
    mx.set_cache_limit(0)
    expected = call(dtype)
    mx.set_cache_limit(None)
    poisoned = [tensor for _ in range(3) for tensor in call(dtype)]
    for tensor in poisoned:
        tensor.fill_(torch.nan)
    del poisoned, tensor
    before = mx.cache_info()
    actual = call(dtype)
    after = mx.cache_info()
    assert after.reused > before.reused
    assert after.missed == before.missed
    for tensor, other in zip(actual, expected, strict=True):
        assert torch.equal(bits(tensor), bits(other))
