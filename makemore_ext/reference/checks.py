"""What may be given to the functions of the reference; the rest raises as their docstrings say."""

import torch
from torch import Tensor

from makemore_ext.reference.parameters import Parameters


def check_network(parameters: Parameters, x: Tensor, y: Tensor) -> None:
    """For `forward` and `backward`."""
    check_dimensions("x", x, "[n, context]")
    check_dimensions("C", parameters.C, "[V, D]")
    n, context = x.shape
    V, D = parameters.C.shape
    H = parameters.b1.numel()
    shapes = ([V, D], [context * D, H], [H], [H, V], [V], [H], [H])
    for name, parameter, shape in zip(Parameters._fields, parameters, shapes, strict=True):
        _check_shape(name, parameter, shape)
    _check_shape("y", y, [n])
    _check_batch_size("x", n)
    _check_indices("x", x, V)
    _check_indices("y", y, V)


def check_cross_entropy(logits: Tensor, target: Tensor) -> None:
    """For both forms of exercise 2."""
    check_dimensions("logits", logits, "[n, V]")
    n, V = logits.shape
    _check_shape("target", target, [n])
    _check_indices("target", target, V)


def check_batch_norm(
    hprebn: Tensor, bngain: Tensor, *, bnbias: Tensor | None = None, dhpreact: Tensor | None = None
) -> None:
    """For the functions of exercise 3."""
    check_dimensions("hprebn", hprebn, "[n, H]")
    n, H = hprebn.shape
    _check_shape("bngain", bngain, [H])
    if bnbias is not None:
        _check_shape("bnbias", bnbias, [H])
    if dhpreact is not None:
        _check_shape("dhpreact", dhpreact, [n, H])
    _check_batch_size("hprebn", n)


def check_embedding(demb: Tensor, x: Tensor, vocabulary_size: int) -> None:
    """For both gradients of an embedding."""
    if demb.dim() == 0 or demb.shape[:-1] != x.shape:
        raise ValueError(
            f"demb must be of x's shape {[*x.shape]} and one more dimension, got {[*demb.shape]}"
        )
    _check_indices("x", x, vocabulary_size)


def check_dimensions(name: str, tensor: Tensor, dimensions: str) -> None:
    """Raises ValueError unless `tensor` is a matrix; `dimensions` says of what."""
    if tensor.dim() != 2:
        raise ValueError(f"{name} must be of shape {dimensions}, got {[*tensor.shape]}")


def _check_shape(name: str, tensor: Tensor, shape: list[int]) -> None:
    if [*tensor.shape] != shape:
        raise ValueError(f"{name} must be of shape {shape}, got {[*tensor.shape]}")


def _check_batch_size(name: str, n: int) -> None:
    if n < 2:
        raise ValueError(f"{name} must have at least 2 rows for an unbiased variance, got {n}")


def _check_indices(name: str, indices: Tensor, size: int) -> None:
    if indices.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {indices.dtype}")
    outside = indices[(indices < 0) | (indices >= size)]
    if len(outside):
        raise IndexError(f"{name} must hold 0 to {size - 1}, got {outside[0]}")
