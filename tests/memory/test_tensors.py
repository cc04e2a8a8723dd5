"""To torch, results in memory that is used again are tensors like any other."""

import copy
import io
import threading

import pytest
import torch
from results import normalized
from support import python
from torch import Tensor

import makemore_ext as mx


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
    in_use = mx.cache_info().in_use
    results = [normalized() for _ in range(4)]
    assert mx.cache_info().in_use > in_use
    thread = threading.Thread(target=results.clear)
    thread.start()
    thread.join()
    assert mx.cache_info().in_use == in_use


PROGRAM_OF_TWO_PROCESSES = """
import torch
import makemore_ext as mx

def read(tensor, answer):
    answer.copy_(tensor.double().abs().mean())

torch.set_num_threads(1)
result = mx.batch_norm(torch.randn(3000, 200), None, None, training=True)
assert mx.cache_info().in_use > 0
expected, answer = result.double().abs().mean(), torch.zeros((), dtype=torch.float64)
result.share_memory_(), answer.share_memory_()
assert mx.cache_info().in_use == 0
context = torch.multiprocessing.get_context("fork")
process = context.Process(target=read, args=(result, answer), daemon=True)
process.start()
process.join(60)
assert process.exitcode == 0
assert torch.equal(answer, expected)
"""


def test_another_process_reads():
    ended = python(PROGRAM_OF_TWO_PROCESSES)
    assert ended.returncode == 0, ended.stderr


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
