"""The model of what is sent is what is sent, and its table is the one on the page."""

from pathlib import Path
from unittest import mock

import costs
import pytest
import torch
from ranks import Ranks
from torch import distributed as dist

import makemore_ext as mx
from makemore_ext.makemore import MLP, Dataset, Trainer
from makemore_ext.ops.ranks import ranks_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


class Sent:
    """The bytes of every all_reduce in a context."""

    def __init__(self):
        self.sizes = []
        self._all_reduce = dist.all_reduce
        self._patch = mock.patch.object(dist, "all_reduce", self._count)

    def _count(self, tensor, *arguments):
        self.sizes.append(tensor.numel() * tensor.element_size())
        return self._all_reduce(tensor, *arguments)

    def __enter__(self):
        self._patch.start()
        return self

    def __exit__(self, *_):
        self._patch.stop()


def of_batch_norm(channels):
    input = torch.randn(3, channels, requires_grad=True)
    with Sent() as forward:
        output = mx.sync_batch_norm(input, None, None, training=True)
    with Sent() as backward:
        output.sum().backward()
    return forward.sizes, backward.sizes


def of_cross_entropy(rows, smoothing):
    input = torch.randn(rows, 3, requires_grad=True)
    target = torch.arange(rows) % 6
    with Sent() as forward:
        loss = mx.parallel_cross_entropy(input, target, label_smoothing=0.1 * smoothing)
    with Sent() as backward:
        loss.backward()
    return forward.sizes, backward.sizes


def of_train(hidden):
    generator = torch.Generator().manual_seed(0)
    model = MLP.init(hidden=hidden, generator=generator)
    windows = Dataset.load().train
    trainer = Trainer(model, windows, generator, backend="fused", ranks=ranks_of(None))
    with Sent() as step:
        trainer.train(1)
    return step.sizes, model.parameter_count


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
