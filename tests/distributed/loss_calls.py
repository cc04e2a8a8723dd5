"""What each rank does with its shard of the logits."""

import datetime
from collections import Counter
from typing import Any
from unittest import mock

import torch
from cross_entropy_cases import doubled
from support import upstream
from torch import Tensor
from torch import distributed as dist

import makemore_ext as mx

SENDING = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "barrier")


def shard(tensor: Tensor, sizes: list[int], dim: int) -> Tensor:
    return tensor.split(sizes, dim)[dist.get_rank()]


def truth(input: Tensor, target: Tensor, options: dict[str, Any]) -> list[Tensor]:
    """Loss, gradient and, where it is asked for, lse: in one process and float64, of the values."""
    leaf = input.double().requires_grad_()
    result = mx.cross_entropy(leaf * 1, target, **doubled(options))
    loss, *lse = result if isinstance(result, tuple) else (result,)
    torch.autograd.backward([loss, *lse], [upstream(loss), *map(upstream, lse)])
    assert leaf.grad is not None
    return [loss.detach(), leaf.grad, *[value.detach() for value in lse]]


def loss_and_gradient(
    input: Tensor, target: Tensor, sizes: list[int], options: dict[str, Any]
) -> dict[str, Any]:
    """Loss, gradient of the shard, lse where it is asked for, and the messages each way."""
    dim = 0 if input.dim() == 1 else 1
    leaf = shard(input, sizes, dim).clone().requires_grad_()
    if isinstance(options.get("weight"), Tensor):
        options = {**options, "weight": shard(options["weight"], sizes, 0)}
    sent = {"forward": Counter(), "backward": Counter()}
    with counted(sent["forward"]):
        result = mx.parallel_cross_entropy(leaf * 1, target, **options)
    loss, *lse = result if isinstance(result, tuple) else (result,)
    with counted(sent["backward"]):
        torch.autograd.backward([loss, *lse], [upstream(loss), *map(upstream, lse)])
    return {"loss": loss.detach(), "grad": leaf.grad, "lse": [v.detach() for v in lse], **sent}


def counted(counts: Counter) -> Any:
    """In its context every call that sends is counted, by name."""
    counting = {name: _counting(getattr(dist, name), name, counts) for name in SENDING}
    return mock.patch.multiple(dist, **counting)


def _counting(function: Any, name: str, counts: Counter) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        counts[name] += 1
        return function(*arguments, **options)

    return call


def call(options: list[dict[str, Any]], sizes: list[int]) -> Tensor:
    """The loss of zeros, rank by rank with other options and sizes."""
    rank = dist.get_rank()
    rows, shift = (options[rank].pop(name, usual) for name, usual in (("rows", 4), ("shift", 0)))
    input, target = torch.zeros(rows, sizes[rank]), torch.arange(rows).clamp(max=3)
    return mx.parallel_cross_entropy(input, target.roll(shift), **options[rank])


def second_derivative() -> None:
    leaf = torch.zeros(4, 3, requires_grad=True)
    loss = mx.parallel_cross_entropy(leaf, torch.zeros(4, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    gradient.sum().backward()


def of_probabilities() -> Tensor:
    return mx.parallel_cross_entropy(torch.zeros(2, 3), torch.full((2, 3), 1 / 6))


def under_compile() -> tuple[Tensor, Tensor]:
    def loss(input: Tensor) -> Tensor:
        return 2 * mx.parallel_cross_entropy(3 * input, torch.tensor([0, 2]))

    input = torch.tensor([[1.0, 2.0], [0.0, 5.0]]) * (dist.get_rank() + 1)
    return loss(input), torch.compile(loss, backend="aot_eager")(input)


def without_the_first() -> Tensor | None:
    """In a group of its own, which an error breaks: its timeout is two seconds."""
    group = dist.new_group(timeout=datetime.timedelta(seconds=2))
    if dist.get_rank() == 0:
        return None
    return mx.parallel_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 2]), group=group)


def in_group_of(members: list[int]) -> Tensor:
    group = dist.new_group(members)
    return mx.parallel_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 2]), group=group)
