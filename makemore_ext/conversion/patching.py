"""`patch` and `unpatch`: this package's functions in the place of torch.nn.functional's.

What stands in torch.nn.functional then are the three functions at the end. They serve what the
kernels can and leave everything else to torch's, so that a program that was right before stays so.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._jit_internal import is_scripting
from torch.nn import functional as F
from torch.overrides import has_torch_function

from makemore_ext._native import autograd, cuda_architectures
from makemore_ext.ops import batch_norm as ops_batch_norm
from makemore_ext.ops import cross_entropy as ops_cross_entropy
from makemore_ext.ops import embedding as ops_embedding
from makemore_ext.ops.autograd import is_eager
from makemore_ext.ops.batch_norm.checks import is_valid as is_valid_batch_norm
from makemore_ext.ops.cross_entropy.checks import is_valid as is_valid_cross_entropy
from makemore_ext.ops.tensors import FLOATING

torch_batch_norm, torch_cross_entropy, torch_embedding = F.batch_norm, F.cross_entropy, F.embedding

_replaced: dict[str, Callable[..., Any]] = {}  # what was in torch.nn.functional, while patched


def patch() -> "Patch":
    """Puts cross_entropy, batch_norm and embedding in the place of torch.nn.functional's.

    Then whatever calls these of torch.nn.functional, torch's own layers too, calls this package's.
    Calls that have no kernel here (another dtype, device or layout, a subclass of Tensor, a sparse
    gradient, max_norm), and wrong ones, are torch's as before. A function that was imported by its
    name before, as with `from torch.nn.functional import cross_entropy`, is not reached.

    It holds for the whole process until `unpatch()`, or in a `with` block until its end, which puts
    back what was there before the call. Calling it again changes nothing.

    Returns:
        What `with` takes.
    """
    return Patch()


def unpatch() -> None:
    """Puts back what was in torch.nn.functional before `patch()`; changes nothing without one.

    A function that another library has put there in the meantime stays.
    """
    for name, function in _replaced.items():
        if getattr(F, name) is OURS[name]:
            setattr(F, name, function)
    _replaced.clear()


class Patch:
    """Of `patch`: a context manager that puts back what was there before."""

    def __init__(self) -> None:
        self._was_patched = bool(_replaced)
        self.__enter__()

    def __enter__(self) -> "Patch":
        for name, ours in OURS.items():
            if name not in _replaced:
                _replaced[name] = getattr(F, name)
                setattr(F, name, ours)
        return self

    def __exit__(self, *_: object) -> None:
        if self._was_patched:
            self.__enter__()
        else:
            unpatch()


def _are_served(*tensors: Any) -> bool:
    """Whether these are None or plain tensors, on a device that there are kernels for.

    What overrides torch's functions gets to see torch's own.
    """
    if has_torch_function(tensors):
        return False
    if autograd is None and not (torch.compiler.is_compiling() or is_eager()):
        return False  # Python's autograd Functions may refuse what is at work
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return False
        device = tensor.device.type
        if device not in ("cpu", "meta") and (device != "cuda" or cuda_architectures is None):
            return False
    return True


# ---- ours, or NotImplemented: native autograd is asked first, as it is the fastest to tell ----


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    size_average: bool | None,
    ignore_index: int,
    reduce: bool | None,
    reduction: str,
    label_smoothing: float,
) -> Any:
    arguments = input, target, weight, ignore_index, reduction, label_smoothing
    if not _replaced or size_average is not None or reduce is not None:
        return NotImplemented
    if autograd is not None and not torch.compiler.is_compiling():
        output = autograd.cross_entropy(*arguments, False, False, 0.0)
        if output is not NotImplemented:
            return output
    if not _are_served(input, target, weight) or not is_valid_cross_entropy(*arguments):
        return NotImplemented
    return ops_cross_entropy.cross_entropy(
        input, target, weight, None, ignore_index, None, reduction, label_smoothing
    )


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    tensors = input, running_mean, running_var, weight, bias
    arguments = *tensors, training, momentum, eps
    if not _replaced:
        return NotImplemented
    if autograd is not None and not torch.compiler.is_compiling():
        output = autograd.batch_norm(*arguments, 0, None, None)
        if output is not NotImplemented:
            return output
    if not _are_served(*tensors) or not is_valid_batch_norm(*arguments):
        return NotImplemented
    return ops_batch_norm.batch_norm(*arguments)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None,
    max_norm: float | None,
    scale_grad_by_freq: bool,
    sparse: bool,
) -> Any:
    if not _replaced or max_norm is not None or scale_grad_by_freq or sparse:
        return NotImplemented
    if autograd is not None and not torch.compiler.is_compiling():
        output = autograd.embedding(input, weight, padding_idx)
        if output is not NotImplemented:
            return output
    if not _are_served(input, weight) or not _is_valid_embedding(input, weight, padding_idx):
        return NotImplemented
    return ops_embedding.embedding(input, weight, padding_idx)


def _is_valid_embedding(input: Tensor, weight: Tensor, padding_idx: int | None) -> bool:
    if weight.dim() != 2 or weight.dtype not in FLOATING or weight.device != input.device:
        return False
    if input.dtype not in (torch.int64, torch.int32):
        return False
    if input.layout != torch.strided or weight.layout != torch.strided:
        return False
    rows = weight.shape[0]
    return padding_idx is None or (isinstance(padding_idx, int) and -rows <= padding_idx < rows)


# ---- what stands in torch.nn.functional, and torch.jit.script compiles without ours ----


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """See `patch`."""
    if not is_scripting():
        loss = _cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
        if loss is not NotImplemented:
            return loss
    return torch_cross_entropy(
        input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
    )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """See `patch`."""
    if not is_scripting():
        output = _batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
        if output is not NotImplemented:
            return output
    return torch_batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """See `patch`."""
    if not is_scripting():
        output = _embedding(input, weight, padding_idx, max_norm, scale_grad_by_freq, sparse)
        if output is not NotImplemented:
            return output
    return torch_embedding(
        input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
    )


OURS: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy,
    "batch_norm": batch_norm,
    "embedding": embedding,
}
for _function in OURS.values():
    _function.__module__ = F.__name__  # so that what refers to it, as pickle does, means torch's
