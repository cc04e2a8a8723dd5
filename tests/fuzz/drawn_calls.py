"""Which calls hypothesis draws: options, shapes, layouts, dtypes, transforms, values, mistakes."""

from typing import Any

import torch
from drawn_call import TRANSFORMS, Call
from hypothesis import strategies as st
from support import LAYOUTS, ND_LAYOUTS
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NOT_NORMAL = (torch.nan, torch.inf, -torch.inf, 0.0)
EXTREME = (1e30, -1e30, 1e-30)  # one of them: float64 is truth enough for narrower types
SIZES = st.sampled_from((0, 1, 1, 2, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65))
# Of other transforms torch's own results there differ from one formula to another.
AT_SPECIAL_VALUES = ("value", "backward")


@st.composite
def shapes(draw: Any, least: int, most: int) -> tuple[int, ...]:
    dims = draw(st.integers(least, most))
    sizes = [draw(SIZES) for _ in range(dims)]
    while torch.Size(sizes).numel() > 4000:
        sizes[sizes.index(max(sizes))] //= 2
    return tuple(sizes)


@st.composite
def values(draw: Any, shape: tuple[int, ...], dtype: torch.dtype, special: bool) -> Tensor:
    """Normal numbers of some scale and offset; `special`: with some that are not."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale, offset = draw(st.sampled_from((1, 1, 3, 0.01))), draw(st.sampled_from((0, 0, 0, 5, 100)))
    result = torch.randn(shape, dtype=torch.float64, generator=generator) * scale + offset
    if special and result.numel():
        for is_first in (True, False, False)[: draw(st.integers(1, 3))]:
            at = draw(st.integers(0, result.numel() - 1))
            may_be_extreme = is_first and dtype != torch.float64
            choice = NOT_NORMAL + EXTREME if may_be_extreme else NOT_NORMAL
            result.view(-1)[at] = draw(st.sampled_from(choice))
    return laid_out(draw, result.to(dtype))


def laid_out(draw: Any, tensor: Tensor) -> Tensor:
    if tensor.dim() < 2 or tensor.numel() == 0:
        return tensor
    table = LAYOUTS if tensor.dim() == 2 else ND_LAYOUTS
    return table[draw(st.sampled_from(sorted(table)))](tensor)


@st.composite
def vectors(draw: Any, size: int, dtype: torch.dtype, least: float) -> Tensor | None:
    if draw(st.booleans()):
        return None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return (torch.rand(size, dtype=torch.float64, generator=generator) + least).to(dtype)


@st.composite
def cross_entropy_calls(draw: Any) -> Call:
    shape = draw(shapes(1, 4))
    dtype = draw(st.sampled_from(DTYPES))
    transform = draw(st.sampled_from(sorted(TRANSFORMS)))
    special = transform in AT_SPECIAL_VALUES and draw(st.booleans())
    input = draw(values(shape, dtype, special))
    classes = shape[0] if len(shape) == 1 else shape[1]
    rows = () if len(shape) == 1 else (shape[0], *shape[2:])
    options: dict[str, Any] = {
        "reduction": draw(st.sampled_from(("mean", "sum", "none"))),
        "label_smoothing": draw(st.sampled_from((0.0, 0.0, 0.1, 1.0))),
    }
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if draw(st.integers(0, 3)) == 0:
        target = torch.rand(shape, dtype=torch.float64, generator=generator).to(dtype)
        target = laid_out(draw, target)
    else:
        options["ignore_index"] = draw(st.sampled_from((-100, -100, 0, 1, 255)))
        target = torch.randint(0, max(1, classes), rows, generator=generator)
        target = target.to(draw(st.sampled_from((torch.int64, torch.uint8))))
        if draw(st.booleans()) and target.numel() and target.dtype == torch.int64:
            target.view(-1)[0] = options["ignore_index"]
    weight = draw(vectors(classes, dtype, 0.0))
    operands = {"target": target, "weight": weight}
    call = Call(mx.cross_entropy, F.cross_entropy, input, operands, options, transform)
    return mistaken(draw, call) if draw(st.integers(0, 9)) == 0 else call


@st.composite
def batch_norm_calls(draw: Any) -> Call:
    shape = draw(shapes(2, 5))
    dtype = draw(st.sampled_from(DTYPES))
    transform = draw(st.sampled_from(sorted(TRANSFORMS)))
    special = transform in AT_SPECIAL_VALUES and draw(st.booleans())
    training = draw(st.booleans())
    parameters = draw(st.sampled_from((dtype, torch.float32 if dtype.itemsize == 2 else dtype)))
    has_running = (not training or draw(st.booleans())) and "vmap" not in transform
    operands: dict[str, Any] = {
        "running_mean": torch.linspace(-1, 1, shape[1], dtype=parameters) if has_running else None,
        "running_var": torch.linspace(0.5, 2, shape[1], dtype=parameters) if has_running else None,
        "weight": draw(vectors(shape[1], parameters, 0.5)),
        "bias": draw(vectors(shape[1], parameters, -0.5)),
    }
    options = {
        "training": training,
        "momentum": draw(st.sampled_from((0.0, 0.1, 1.0))),
        "eps": draw(st.sampled_from((1e-5, 1e-3, 1.0))),
    }
    call = Call(
        mx.batch_norm,
        F.batch_norm,
        draw(values(shape, dtype, special)),
        operands,
        options,
        transform,
        differentiated=("weight", "bias"),
        buffers=("running_mean", "running_var"),
    )
    return mistaken(draw, call) if draw(st.integers(0, 9)) == 0 else call


@st.composite
def embedding_calls(draw: Any) -> Call:
    """The table is what is differentiated, and so `input` here."""
    rows, features = draw(st.integers(1, 40)), draw(SIZES)
    dtype = draw(st.sampled_from(DTYPES))
    transform = draw(st.sampled_from(sorted(TRANSFORMS)))
    table = draw(values((rows, features), dtype, transform == "value" and draw(st.booleans())))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    indices = torch.randint(0, rows, draw(shapes(0, 3)), generator=generator)
    indices = indices.to(draw(st.sampled_from((torch.int64, torch.int32))))
    options = {"padding_idx": draw(st.sampled_from((None, None, 0, -1)))}

    def looked_up(function: Any) -> Any:
        return lambda weight, indices, **options: function(indices, weight, **options)

    if options["padding_idx"] is not None and "grad" in transform:
        transform = "backward"  # torch's own forgets padding_idx under torch.func.grad
    functions = looked_up(mx.embedding), looked_up(F.embedding)
    call = Call(*functions, table, {"indices": indices}, options, transform)
    return mistaken(draw, call) if draw(st.integers(0, 9)) == 0 else call


def mistaken(draw: Any, call: Call) -> Call:
    """The call with one thing wrong, or unusual."""
    call.is_mistaken = True
    what = draw(st.sampled_from(("dtype", "size", "option", "index", "integers")))
    if what == "integers":
        call.input = torch.zeros(call.input.shape, dtype=torch.int64)
        call.transform = "value"
    elif what == "option":
        name = draw(st.sampled_from(sorted(call.options)))
        call.options[name] = draw(st.sampled_from((-1, 2, 1.5, "sums", None)))
    else:
        name = draw(st.sampled_from(sorted(call.operands)))
        value = call.operands[name]
        if isinstance(value, Tensor) and what == "dtype":
            call.operands[name] = value.to(draw(st.sampled_from((*DTYPES, torch.int16))))
        elif isinstance(value, Tensor) and what == "size":
            call.operands[name] = (
                torch.stack([value] * 2) if value.dim() == 0 else torch.cat([value] * 2)
            )
        elif isinstance(value, Tensor) and value.numel() and not value.is_floating_point():
            value.view(-1)[-1] = draw(st.sampled_from((99, 120)))
    return call
