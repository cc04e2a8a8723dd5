"""The model of what is sent is what is sent, and its table is the one on the page."""

from pathlib import Path

import costs
import pytest
from cost_calls import of_batch_norm, of_cross_entropy, of_train
from ranks import ranks_fixture

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"


ranks = ranks_fixture({"two": [1] * 2})


@pytest.mark.parametrize("channels", [1, 256, 2048, 2100])
def test_batch_norm(ranks, channels):
    expected = tuple(list(messages.reduced) for messages in costs.sync_batch_norm(channels))
    assert ranks.results(of_batch_norm, channels) == [expected] * 2


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("rows", [1, 4096, 5000])
def test_cross_entropy(ranks, rows, smoothing):
    model = costs.parallel_cross_entropy(rows, 2, smoothing)
    expected = tuple(list(messages.reduced) for messages in model)
    assert ranks.results(of_cross_entropy, rows, smoothing) == [expected] * 2


def test_a_step_of_training(ranks):
    for sizes, parameters in ranks.results(of_train, 200):
        assert sizes == list(costs.train(parameters, 200).reduced)


def test_the_page_has_the_table():
    assert "\n".join(costs.lines()) in PAGE.read_text(encoding="utf-8")
