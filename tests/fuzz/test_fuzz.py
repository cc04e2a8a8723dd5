"""Calls of every kind against torch's in float64; `make fuzz` draws 200,000."""

import warnings

import pytest
from drawn_call import check
from drawn_calls import batch_norm_calls, cross_entropy_calls, embedding_calls
from hypothesis import HealthCheck, given, settings

CALLS = {
    "batch_norm": batch_norm_calls(),
    "cross_entropy": cross_entropy_calls(),
    "embedding": embedding_calls(),
}


@pytest.mark.long
@pytest.mark.parametrize("operation", CALLS)
def test_any_call(operation, request):
    examples = request.config.getoption("--examples")

    @settings(
        max_examples=examples or 400,
        derandomize=examples is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(CALLS[operation])
    def every(call):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(call)

    every()
