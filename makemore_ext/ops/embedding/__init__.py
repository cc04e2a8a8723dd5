"""Embedding look-up with its gradient as one scatter-add: the Function and its functional form.

How the gradient is summed stands in embedding.cpp and embedding.cuh, below csrc/cpu and csrc/cuda.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from makemore_ext._native import operators
from makemore_ext.ops.autograd import applier, is_eager
from makemore_ext.ops.tensors import (
    FLOATING,
    check_floating,
    check_indices,
    checks_cuda_indices,
)

__all__ = ["EmbeddingFunction", "embedding"]


class EmbeddingFunction(torch.autograd.Function):
    """apply(input, weight) -> weight[input], see `embedding`."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(input, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        input, weight = inputs
        ctx.save_for_backward(input)
        ctx.num_embeddings, ctx.embedding_dim = weight.shape

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        (input,) = ctx.saved_tensors
        grad_output = grad_outputs[0].reshape(input.numel(), ctx.embedding_dim)
        return None, _apply_backward(grad_output, input.reshape(-1), ctx.num_embeddings)


_apply = applier(EmbeddingFunction)


class _EmbeddingBackward(torch.autograd.Function):
    """The scatter-add. It is linear in grad_output, so its own backward is the look-up again."""

    @staticmethod
    def forward(grad_output: Tensor, indices: Tensor, num_embeddings: int) -> Tensor:
        return operators.embedding_backward.default(grad_output, indices, num_embeddings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        return EmbeddingFunction.apply(indices, grad_outputs[0]), None, None


_apply_backward = applier(_EmbeddingBackward)


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """Looks up rows of a table, as `torch.nn.functional.embedding` without its options.

    Args:
        input: indices of any shape, int64, in [0, V).
        weight: the table [V, D], float32 or float64, and on a CUDA device float16 or bfloat16 too.

    Returns:
        [*input.shape, D], of the dtype of `weight`.

    Raises:
        IndexError: an index is outside [0, V). On a CUDA device that is an error of the device,
            unless the environment variable MAKEMORE_EXT_CHECK is 1.
        NotImplementedError: a dtype or device is not supported.
        ValueError: `weight` has another number of dimensions than 2.
    """
    check_floating("weight", weight, cuda_dtypes=FLOATING)
    if weight.dim() != 2:
        raise ValueError(f"weight must have 2 dimensions [V, D], got shape {list(weight.shape)}")
    if not isinstance(input, Tensor) or input.dtype != torch.int64:
        kind = input.dtype if isinstance(input, Tensor) else type(input).__name__
        raise NotImplementedError(f"input must be an int64 Tensor, got {kind}")
    if input.is_cuda and is_eager() and checks_cuda_indices():
        check_indices("input", input, weight.shape[0])
    return _apply(input, weight)


@torch.library.register_fake("makemore_ext::embedding_backward")
def _(grad_output: Tensor, indices: Tensor, num_embeddings: int) -> Tensor:
    return grad_output.new_empty(num_embeddings, grad_output.shape[1])
