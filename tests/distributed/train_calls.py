"""Training as each rank does it."""

import torch
from torch import distributed as dist

from makemore_ext.makemore import MLP, Dataset, Trainer
from makemore_ext.ops.ranks import ranks_of


def trained(backend, dtype, steps):
    """The losses, by all processes of a group or by this one."""
    dataset, generator = Dataset.load(), torch.Generator().manual_seed(1)
    model = MLP.init(hidden=32, dtype=dtype, generator=generator)
    ranks = ranks_of(None) if dist.is_initialized() else None
    trainer = Trainer(model, dataset.train, generator, backend=backend, ranks=ranks)
    trainer.train(steps)
    return trainer.losses
