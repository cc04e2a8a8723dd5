"""The network's parameters: which shapes fit together, and where training begins."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from makemore_ext._arguments import require
from makemore_ext.reference import Parameters

SEED = 2147483647


class Sizes(NamedTuple):
    """V, K, D and H: the numbers of characters, of them in a context, of dimensions and units."""

    vocabulary: int
    context: int
    embedding: int
    hidden: int


def shapes(sizes: Sizes) -> Mapping[str, tuple[int, ...]]:
    """The shape of every parameter, by its name."""
    V, K, D, H = sizes
    return {
        "C": (V, D),
        "W1": (K * D, H),
        "b1": (H,),
        "W2": (H, V),
        "b2": (V,),
        "bngain": (H,),
        "bnbias": (H,),
    }


def sizes_of(parameters: Parameters) -> Sizes:
    """The sizes that the shapes of a network's parameters say.

    Raises:
        ValueError: the shapes do not fit together, or the dtypes are not all float32 or all
            float64.
    """
    C, W1 = parameters.C.shape, parameters.W1.shape
    if len(C) != 2 or len(W1) != 2 or 0 in (*C, *W1) or W1[0] % C[1]:
        raise ValueError(f"C and W1 must be of shapes [V, D] and [K·D, H], got {[*C]} and {[*W1]}")
    sizes = Sizes(C[0], W1[0] // C[1], C[1], W1[1])
    for (name, shape), parameter in zip(shapes(sizes).items(), parameters, strict=True):
        check_shape(name, parameter, shape)
    dtypes = {parameter.dtype for parameter in parameters}
    require(
        dtypes in ({torch.float32}, {torch.float64}), "dtypes", dtypes, "all float32 or all float64"
    )
    return sizes


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `tensor` is one of that shape."""
    if tensor is None or tensor.shape != shape:
        got = None if tensor is None else [*tensor.shape]
        raise ValueError(f"{name} must be of shape {[*shape]}, got {got}")


def initialize(
    sizes: Mapping[str, int],
    dtype: torch.dtype,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
) -> Parameters:
    """The parameters of a new network, drawn as `makemore.MLP.init` says.

    Args:
        sizes: V, K, D and H, by the names that errors call them.
        dtype: float32 or float64.
        generator: on the CPU; None makes one seeded with `SEED`.
        device: where the parameters go.

    Returns:
        Tensors that require grad.

    Raises:
        ValueError: a size is below 1, or the dtype is another.
    """
    for name, size in sizes.items():
        require(size >= 1, name, size, "at least 1")
    require(dtype in (torch.float32, torch.float64), "dtype", dtype, "float32 or float64")
    generator = torch.Generator().manual_seed(SEED) if generator is None else generator

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        shape = (rows, columns)
        drawn = torch.randn(shape, dtype=torch.float32, generator=generator, device="cpu")
        return (drawn * scale).to(device, dtype).requires_grad_()

    def constant(size: int, value: float) -> Tensor:
        return torch.full((size,), value, dtype=dtype, device=device, requires_grad=True)

    V, K, D, H = sizes.values()
    return Parameters(
        C=normal(V, D, 1.0),
        W1=normal(K * D, H, 5 / 3 / math.sqrt(K * D)),
        b1=constant(H, 0.0),
        W2=normal(H, V, 0.01 / math.sqrt(H)),
        b2=constant(V, 0.0),
        bngain=constant(H, 1.0),
        bnbias=constant(H, 0.0),
    )
