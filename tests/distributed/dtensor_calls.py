"""What each rank does with a DTensor of the logits."""

from typing import Any

import torch
from support import upstream
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

import makemore_ext as mx


def loss_and_gradient(
    mesh_shape: tuple[int, ...],
    placements: list[Any],
    input: Tensor,
    target: Tensor,
    options: dict[str, Any],
    are_dtensors: bool,
) -> list[Tensor]:
    """The whole loss, the whole gradient, and lse where it is asked for."""
    mesh = init_device_mesh("cpu", mesh_shape)
    leaf = distribute_tensor(input, mesh, placements).detach().requires_grad_()
    if are_dtensors:
        everywhere = [Replicate()] * mesh.ndim
        target = distribute_tensor(target, mesh, everywhere)
        if options.get("weight") is not None:
            weight = distribute_tensor(options["weight"], mesh, everywhere)
            options = {**options, "weight": weight}
    result = mx.cross_entropy(leaf * 1, target, **options)
    loss, *lse = result if isinstance(result, tuple) else (result,)
    assert all(isinstance(value, DTensor) for value in (loss, *lse))
    gradients = [
        distribute_tensor(upstream(value.full_tensor().detach()), mesh, value.placements)
        for value in (loss, *lse)
    ]
    torch.autograd.backward([loss, *lse], gradients)
    assert leaf.grad.placements == leaf.placements
    return [value.full_tensor().detach() for value in (loss, leaf.grad, *lse)]


def refused(mesh_shape: tuple[int, ...], placements: list[Any], input: Tensor) -> None:
    mesh = init_device_mesh("cpu", mesh_shape)
    logits = DTensor.from_local(input, mesh, placements, run_check=False)
    mx.cross_entropy(logits, torch.zeros(len(input), dtype=torch.int64))
