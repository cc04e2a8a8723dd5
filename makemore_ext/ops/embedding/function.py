"""The autograd Functions around the operators, for where there is no native autograd."""

from typing import Any

import torch
from torch import Tensor

from makemore_ext._native import operators
from makemore_ext.ops.autograd import check_forward_mode, taken_whole


class EmbeddingFunction(torch.autograd.Function):
    """`apply(input, weight, padding_idx=-1)` -> weight[input], see `embedding`.

    `padding_idx` is not negative, or -1 for none.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor, padding_idx: int = -1) -> Tensor:
        return operators.embedding.default(input, weight, padding_idx)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, *padding_idx = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)
        ctx.num_embeddings = weight.shape[0]
        ctx.padding_idx = padding_idx[0] if padding_idx else -1

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        (input,) = ctx.saved_tensors
        arguments = (grad_outputs[0], input, ctx.num_embeddings, ctx.padding_idx)
        return None, EmbeddingBackwardFunction.apply(*arguments), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        check_forward_mode("embedding")
        (input,) = ctx.saved_tensors
        return apply(input, tangents[1], ctx.padding_idx)


class EmbeddingBackwardFunction(torch.autograd.Function):
    """The scatter-add. It is linear in grad_output, so its own backward is the look-up again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_output: Tensor, input: Tensor, num_embeddings: int, padding_idx: int
    ) -> Tensor:
        return operators.embedding_backward.default(grad_output, input, num_embeddings, padding_idx)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, input, ctx.num_embeddings, ctx.padding_idx = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (input,) = ctx.saved_tensors
        rows = apply(input, grad_outputs[0], -1)
        if ctx.padding_idx >= 0:
            rows = rows.masked_fill((input == ctx.padding_idx).unsqueeze(-1), 0)
        return rows, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        check_forward_mode("embedding")
        (input,) = ctx.saved_tensors
        return EmbeddingBackwardFunction.apply(
            tangents[0], input, ctx.num_embeddings, ctx.padding_idx
        )


@taken_whole
def apply(input: Tensor, weight: Tensor, padding_idx: int = -1) -> Tensor:
    """See `EmbeddingFunction`."""
    return EmbeddingFunction.apply(input, weight, padding_idx)
