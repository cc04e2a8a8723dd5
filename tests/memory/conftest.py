import pytest

import makemore_ext as mx


@pytest.fixture(autouse=True)
def cache():
    if mx.build_info()["autograd"] != "native":
        pytest.skip("torch allocates where autograd is Python's")
    mx.set_cache_limit(None)
    mx.empty_cache()
    yield
    mx.set_cache_limit(None)
    mx.empty_cache()
