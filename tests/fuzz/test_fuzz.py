"""Calls of every kind against torch's in float64; `make fuzz` draws 200,000, keeps figures."""

import json
import warnings
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from drawn_call import check
from drawn_calls import batch_norm_calls, cross_entropy_calls, embedding_calls
from hypothesis import HealthCheck, given, settings

from makemore_ext._environment import environment

CALLS = {
    "batch_norm": batch_norm_calls(),
    "cross_entropy": cross_entropy_calls(),
    "embedding": embedding_calls(),
}
FIGURES = Path(__file__).parent / "figures"


@pytest.mark.long
@pytest.mark.parametrize("operation", CALLS)
def test_any_call(operation, request):
    examples = request.config.getoption("--examples")
    outcomes = Counter()

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
            outcomes[f"{call.transform}: {check(call)}"] += 1

    every()
    assert any(outcome.endswith("compared") for outcome in outcomes)
    if examples is not None:
        keep(operation, outcomes)


def keep(operation: str, outcomes: Counter) -> None:
    """Writes how many calls there were, and what became of them, to figures/<operation>.json."""
    record = {
        "calls": outcomes.total(),
        "outcomes": dict(sorted(outcomes.items())),
        "date": date.today().isoformat(),
        "environment": environment(),
    }
    FIGURES.mkdir(exist_ok=True)
    text = json.dumps(record, indent=1) + "\n"
    (FIGURES / f"{operation}.json").write_text(text, encoding="utf-8")
