from collections.abc import Iterator

import pytest
from torch.nn import functional as F

import makemore_ext as mx

NAMES = ("cross_entropy", "batch_norm", "embedding")


@pytest.fixture(autouse=True)
def _torchs_functions_afterwards() -> Iterator[None]:
    """Whatever a test puts into torch.nn.functional."""
    functions = {name: getattr(F, name) for name in NAMES}
    yield
    mx.unpatch()
    for name, function in functions.items():
        setattr(F, name, function)
