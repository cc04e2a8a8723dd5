"""DistributedDataParallel with batch norm that is synchronised over the ranks, on CPUs too.

    torchrun --nproc-per-node 2 examples/ddp.py

Each rank has a shard of every batch. Rank 0 prints the loss of all of them, and beside it the loss
of one process that has the whole batch: they agree to rounding. In the last column batch norm is
not synchronised, each rank normalises with the statistics of its own shard, and they do not.
"""

import copy
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import makemore_ext as mx

STEPS, ROWS, CLASSES = 8, 8, 10  # rows of each rank


def network() -> nn.Module:
    """The same parameters on every rank."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * 16, CLASSES),
    )


def stepper(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """A function that takes a training step and returns its loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = mx.cross_entropy(model(x), y)
        loss.backward()  # where DistributedDataParallel averages gradients over the ranks
        optimizer.step()
        return loss.detach()

    return step


def mean_over_ranks(loss: Tensor) -> float:
    """The loss of the whole batch, of which all ranks have as many rows."""
    dist.all_reduce(loss)
    return loss.item() / dist.get_world_size()


def main() -> None:
    """What each process runs."""
    if "LOCAL_RANK" not in os.environ:
        raise SystemExit("start it with: torchrun --nproc-per-node 2 ddp.py")
    local_rank = int(os.environ["LOCAL_RANK"])
    # A device for each process of this machine, or all of them on CPUs.
    is_cuda = (
        torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        and mx.build_info()["cuda_architectures"] is not None
    )
    device = torch.device("cuda", local_rank) if is_cuda else torch.device("cpu")
    if is_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_cuda else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()

    # Each draws the whole batch and takes its shard; a DistributedSampler would do so with a data
    # set. The shards differ in mean and scale, as those of sorted data do.
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(size, ROWS, 3, 16, 16, generator=generator)
    batch *= 1 + torch.arange(size).view(-1, 1, 1, 1, 1)
    targets = torch.randint(CLASSES, (size, ROWS), generator=generator)
    batch, targets = batch.to(device), targets.to(device)

    model = network().to(device)
    alone, unsynchronised = copy.deepcopy(model), copy.deepcopy(model)
    # None: the group of all ranks. Before DistributedDataParallel, as one converts to torch's own
    # SyncBatchNorm; without process_group each rank's batch norm would be of its own rows.
    mx.convert(model, process_group=None, fuse_activations=True)
    mx.convert(unsynchronised, fuse_activations=True)
    shard = batch[rank], targets[rank]
    step = stepper(DistributedDataParallel(model), *shard)
    step_unsynchronised = stepper(DistributedDataParallel(unsynchronised), *shard)
    step_alone = stepper(alone, batch.flatten(0, 1), targets.flatten())

    if rank == 0:
        print(f"{size} ranks of {ROWS} rows, {dist.get_backend()}, {device.type}")
        print("step  synchronised  one process  not synchronised")
    for index in range(STEPS):
        # Every rank takes every step of the first and third: their messages wait for all.
        of_all = mean_over_ranks(step())
        of_each = mean_over_ranks(step_unsynchronised())
        if rank == 0:
            print(f"{index:4}  {of_all:12.6f}  {step_alone().item():11.6f}  {of_each:16.6f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
