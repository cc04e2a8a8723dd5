"""The functional form."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from makemore_ext._arguments import as_integer
from makemore_ext._native import autograd, operators
from makemore_ext.ops.autograd import is_eager
from makemore_ext.ops.embedding.function import apply
from makemore_ext.ops.tensors import check_floating, check_indices, checks_cuda_indices


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Looks up rows of a table, the same call as `torch.nn.functional.embedding`.

    Args:
        input: indices of any shape, int64 or int32, in [0, V).
        weight: the table [V, D], float16, bfloat16, float32 or float64.
        padding_idx: the row of the table that gets no gradient; a negative one counts from the end.
        max_norm: None alone is supported, and of the next three what is torch's default.
        norm_type: without effect.
        scale_grad_by_freq: False.
        sparse: False.

    Returns:
        `[*input.shape, D]`, of the dtype of `weight`.

    Raises:
        IndexError: an index is outside [0, V). On a CUDA device that is an error of the device,
            unless the environment variable MAKEMORE_EXT_CHECK is 1.
        NotImplementedError: a dtype, device or option is not supported.
        TypeError: `padding_idx` is no integer.
        ValueError: `weight` has another number of dimensions than 2, or `padding_idx` is outside
            [-V, V).
    """
    compiling = torch.compiler.is_compiling()
    if max_norm is not None or scale_grad_by_freq or sparse:
        for name, value, allowed in (
            ("max_norm", max_norm, None),
            ("scale_grad_by_freq", scale_grad_by_freq, False),
            ("sparse", sparse, False),
        ):
            if value is not allowed:
                raise NotImplementedError(f"{name} must be {allowed}, got {value!r}")
    if autograd is not None and not compiling:
        output = autograd.embedding(input, weight, padding_idx)
        if output is not NotImplemented:
            return output
    if has_torch_function_variadic(input, weight):
        return handle_torch_function(embedding, (input, weight), input, weight, padding_idx)
    check_floating("weight", weight)
    if weight.dim() != 2:
        raise ValueError(f"weight must have 2 dimensions [V, D], got shape {list(weight.shape)}")
    if not isinstance(input, Tensor) or input.dtype not in (torch.int64, torch.int32):
        kind = input.dtype if isinstance(input, Tensor) else type(input).__name__
        raise NotImplementedError(f"input must be an int64 or int32 Tensor, got {kind}")
    rows, padding_idx = weight.shape[0], as_integer(padding_idx)
    if padding_idx is None:
        padding_idx = -1
    elif isinstance(padding_idx, bool) or not isinstance(padding_idx, (int, torch.SymInt)):
        raise TypeError(f"padding_idx must be an integer or None, got {padding_idx!r}")
    elif not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx must be in [-{rows}, {rows}), got {padding_idx}")
    else:
        padding_idx %= rows
    if input.is_cuda and is_eager() and checks_cuda_indices():
        check_indices("input", input, rows)
    if autograd is None:
        return apply(input, weight, padding_idx)
    return operators.embedding.default(input, weight, padding_idx)
