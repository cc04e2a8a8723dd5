"""What each rank does with its part of a batch."""

import copy
import datetime
from collections import Counter
from typing import Any

import torch
from batch_norm_cases import Case
from loss_calls import counted
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import makemore_ext as mx


def part(tensor: Tensor, sizes: list[int]) -> Tensor:
    return tensor.split(sizes)[dist.get_rank()]


def of_part(case: Case, sizes: list[int], options: dict[str, Any]) -> dict[str, Any]:
    """Results by name, of this rank's rows, and the messages each way."""
    leaves = [t.detach() for t in (part(case.input, sizes), case.weight, case.bias)]
    for leaf in leaves:
        leaf.requires_grad_()
    input, *affine = leaves
    running: Any = [case.running_mean.clone(), case.running_var.clone()]
    sent = {"forward": Counter(), "backward": Counter()}
    with counted(sent["forward"]):
        output = mx.sync_batch_norm(input, *running, *affine, True, **options)
    with counted(sent["backward"]):
        gradients = torch.autograd.grad(output, leaves, part(case.grad_output, sizes))
    results = [output.detach(), *gradients, *running]
    names = ("output", "input", "weight", "bias", "running_mean", "running_var")
    return {**dict(zip(names, results, strict=True)), **sent}


def messages(case: Case, sizes: list[int], training: bool, differentiated: bool) -> list[Counter]:
    input = part(case.input, sizes).clone().requires_grad_(differentiated)
    weight = case.weight.clone().requires_grad_()
    forward, backward = Counter(), Counter()
    running = case.running_mean.clone(), case.running_var.clone()
    with counted(forward):
        output = mx.sync_batch_norm(input, *running, weight, case.bias, training)
    with counted(backward):
        output.sum().backward()
    return [forward, backward]


def call(inputs: list[Tensor], options: list[dict[str, Any]]) -> Tensor:
    """Rank by rank with other input and options."""
    rank = dist.get_rank()
    return mx.sync_batch_norm(inputs[rank], None, None, training=True, **options[rank])


def second_derivative(input: Tensor) -> None:
    leaf = input.clone().requires_grad_()
    output = mx.sync_batch_norm(leaf, None, None, training=True)
    torch.autograd.grad(output.square().sum(), leaf, create_graph=True)


def under_compile(input: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    def function(input: Tensor) -> Tensor:
        return 2 * mx.sync_batch_norm(3 * input, None, None, training=True)

    mine = part(input, sizes)
    return function(mine), torch.compile(function, backend="aot_eager")(mine)


def without_the_first() -> Tensor | None:
    """In a group of its own, which an error breaks: its timeout is two seconds."""
    group = dist.new_group(timeout=datetime.timedelta(seconds=2))
    if dist.get_rank() == 0:
        return None
    return mx.sync_batch_norm(torch.ones(4, 3), None, None, training=True, group=group)


def in_group_of(members: list[int], input: Tensor) -> Tensor:
    group = dist.new_group(members)
    return mx.sync_batch_norm(input, None, None, training=True, group=group)


def steps_of_layer(
    layer: nn.Module, batches: list[Tensor], sizes: list[int]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs of a layer in training and, the last, in evaluation; its state_dict."""
    layer = copy.deepcopy(layer)  # what is sent shares its memory
    outputs = [layer(part(batch, sizes)) for batch in batches[:-1]]
    layer.eval()
    outputs.append(layer(part(batches[-1], sizes)))
    return [output.detach() for output in outputs], layer.state_dict()


def ddp_steps(model: nn.Module, batches: list[Tensor], options: dict[str, Any]) -> dict[str, Any]:
    """Losses and parameters of a model that is trained data parallel, two batches to a step."""
    model = copy.deepcopy(model)
    mx.convert(model, process_group=dist.group.WORLD)
    ddp = DistributedDataParallel(model, **options)
    return trained(ddp, [batch.chunk(dist.get_world_size())[dist.get_rank()] for batch in batches])


def trained(model: nn.Module, batches: list[Tensor]) -> dict[str, Any]:
    """Gradients of two batches are accumulated, without messages for the first in DDP."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        optimizer.zero_grad()
        if isinstance(model, DistributedDataParallel):
            with model.no_sync():
                losses.append(loss_of(model, first))
        else:
            losses.append(loss_of(model, first))
        losses.append(loss_of(model, second))
        optimizer.step()
    state = model.module if isinstance(model, DistributedDataParallel) else model
    return {"losses": losses, "state": state.state_dict()}


def loss_of(model: nn.Module, batch: Tensor) -> float:
    loss = model(batch).square().mean()
    loss.backward()
    return loss.item()


def fsdp_steps(model: nn.Module, batches: list[Tensor]) -> dict[str, Any]:
    """The same of a model whose parameters are sharded."""
    model = copy.deepcopy(model)
    mx.convert(model, process_group=dist.group.WORLD)
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    result = trained(model, [b.chunk(dist.get_world_size())[dist.get_rank()] for b in batches])
    whole = {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in result["state"].items()
    }
    return {**result, "state": whole}


def under_autocast(model: nn.Module, batch: Tensor, sizes: list[int]) -> Tensor:
    model = copy.deepcopy(model)
    mx.convert(model, process_group=None)
    with torch.autocast("cpu", torch.bfloat16):
        return model(part(batch, sizes)).detach()


def copied_layer() -> Any:
    """The group of a layer's copy and of a converted one's."""
    layer = copy.deepcopy(mx.SyncBatchNorm(3, process_group=dist.group.WORLD))
    converted = copy.deepcopy(mx.convert(nn.BatchNorm1d(3), process_group=dist.group.WORLD))
    return layer.process_group or converted.process_group
