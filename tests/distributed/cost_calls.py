"""What each rank sends."""

from unittest import mock

import torch
from torch import distributed as dist

import makemore_ext as mx
from makemore_ext.makemore import MLP, Dataset, Trainer
from makemore_ext.ops.ranks import ranks_of


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
