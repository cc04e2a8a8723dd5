"""Shapes and batching, for torch.compile, export and torch.func."""

from typing import Any

import torch
from torch import Tensor

from makemore_ext.ops.batching import register_vmap
from makemore_ext.ops.tensors import batch_first


@torch.library.register_fake("makemore_ext::embedding")
def _(input: Tensor, weight: Tensor, padding_idx: int = -1) -> Tensor:
    return weight.new_empty((*input.shape, weight.shape[1]))


@torch.library.register_fake("makemore_ext::embedding_backward")
def _(grad_output: Tensor, input: Tensor, num_embeddings: int, padding_idx: int = -1) -> Tensor:
    return grad_output.new_empty((num_embeddings, grad_output.shape[-1]))


# ---- batching, for torch.func.vmap: the tables of a batch become one, its indices count in it ----


def _in_one_table(input: Tensor, rows: int) -> Tensor:
    """Indices [B, ...] into the rows of B tables below each other."""
    first = torch.arange(input.shape[0], device=input.device) * rows
    return input + first.view(-1, *[1] * (input.dim() - 1))


@register_vmap("embedding")
def _(
    info: Any, in_dims: tuple, input: Tensor, weight: Tensor, padding_idx: int = -1
) -> tuple[Tensor, int]:
    operator = torch.ops.makemore_ext.embedding.default
    if in_dims[1] is None:
        return operator(input.movedim(in_dims[0], 0), weight, padding_idx), 0
    tables = weight.movedim(in_dims[1], 0)
    rows = tables.shape[1]
    if padding_idx >= 0:  # one row of each table, where the operator knows one alone
        is_padding = torch.arange(rows, device=weight.device) == padding_idx
        tables = torch.where(is_padding[:, None], tables.detach(), tables)
    indices = _in_one_table(batch_first(input, in_dims[0], info.batch_size), rows)
    return operator(indices, tables.flatten(0, 1), -1), 0


@register_vmap("embedding_backward")
def _(
    info: Any,
    in_dims: tuple,
    grad_output: Tensor,
    input: Tensor,
    num_embeddings: int,
    padding_idx: int = -1,
) -> tuple[Tensor, int]:
    size = info.batch_size
    indices = batch_first(input, in_dims[1], size)
    grads = batch_first(grad_output, in_dims[0], size)
    if padding_idx >= 0:
        grads = grads.masked_fill((indices == padding_idx).unsqueeze(-1), 0)
    tables = torch.ops.makemore_ext.embedding_backward.default(
        grads, _in_one_table(indices, num_embeddings), size * num_embeddings, -1
    )
    return tables.unflatten(0, (size, num_embeddings)), 0
