"""nvcc works ahead, on the cores that the tests leave idle.

A module whose tests need much compiled has a function compile_ahead() that gives the calls which do
it, and its tests use the fixture compiled_ahead, which waits for them.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from cuda_bench import toolkit

pool = ThreadPoolExecutor(os.cpu_count())
started: dict[str, list[Future]] = {}


def pytest_collection_finish(session):
    if toolkit.missing() is None and not session.config.option.collectonly:
        for module in dict.fromkeys(
            item.module for item in session.items if hasattr(item, "module")
        ):
            calls = getattr(module, "compile_ahead", list)()
            started[module.__name__] = [pool.submit(call) for call in calls]


def pytest_sessionfinish():
    pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def compiled_ahead(request):
    return [future.result() for future in started[request.module.__name__]]
