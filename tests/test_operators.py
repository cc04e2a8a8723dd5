"""Every operator refuses what its kernel cannot take, by name, before it changes anything."""

import math

import pytest
import torch
from operator_calls import (
    CALLS,
    CROSS_ENTROPY_BACKWARD,
    GENERATOR,
    TARGET,
    C,
    N,
    X,
    complete,
)
from torch import Tensor

from makemore_ext._native import operators


def test_every_operator_is_here():
    registered = {
        schema.name.removeprefix("makemore_ext::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("makemore_ext::")
    }
    assert set(CALLS) == registered


@pytest.mark.parametrize("name", CALLS)
def test_takes_its_call(name):
    getattr(operators, name)(**complete(name, {}))


# A tensor that does not fit the others, in each place that there is for one


def one_longer(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor[-1:]])


DAMAGES = {
    "complex": lambda tensor: tensor.to(torch.complex64),
    "int32": lambda tensor: tensor.int(),
    "other width": lambda tensor: tensor.to(
        torch.float32 if tensor.dtype == torch.float64 else torch.float64
    ),
    "one dimension more": lambda tensor: tensor.unsqueeze(0),
    "one longer": lambda tensor: one_longer(tensor) if tensor.dim() else tensor.unsqueeze(0),
    "one class more": lambda tensor: one_longer(tensor.T).T if tensor.dim() == 2 else tensor[None],
    "empty": lambda tensor: tensor.new_empty(0),
}
# What is right after all: elementwise operators take any shape, and these the other width.
FITS = {
    *((name, "input") for name in CALLS if name.startswith("_")),
    ("_narrow", "like"),
    ("batch_norm_forward", "input", "one longer"),
    ("batch_norm_forward_and_update", "input", "one longer"),
    ("batch_norm_forward", "running_mean", "other width"),
    ("batch_norm_forward", "running_var", "other width"),
    ("batch_norm_forward_and_update", "running_mean", "other width"),
    ("batch_norm_forward_and_update", "running_var", "other width"),
    ("embedding_backward", "grad_output", "other width"),
    ("embedding_backward", "grad_output", "one class more"),
    ("cross_entropy_scale_", "gradient", "one dimension more"),
    ("cross_entropy_scale_", "gradient", "one longer"),
    ("cross_entropy_scale_", "gradient", "one class more"),
    ("cross_entropy_scale_", "gradient", "empty"),
}
DAMAGED = [
    (name, argument, damage)
    for name, arguments in CALLS.items()
    for argument, value in arguments.items()
    for damage in DAMAGES
    if isinstance(value, Tensor)
    and (name, argument) not in FITS
    and (name, argument, damage) not in FITS
]


def check_refused(name: str, changes: dict[str, object], message: str) -> None:
    """Raises AssertionError unless the call does, in one line, and leaves its tensors alone."""
    arguments = complete(name, changes)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    with pytest.raises((RuntimeError, IndexError), match=message) as caught:
        getattr(operators, name)(**arguments)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(tensors, before, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "argument", "damage"), DAMAGED)
def test_refuses_a_tensor_that_does_not_fit(name, argument, damage):
    others_may_be_named = argument in ("input", "gradient", "grad_output")
    message = " must " if others_may_be_named else f"{argument} must "
    damaged = DAMAGES[damage](CALLS[name][argument].clone())
    check_refused(name, {argument: damaged}, message)


# Values, layouts and memory that a kernel cannot take

LOSSES = [name for name in CALLS if name.startswith("cross_entropy") and "scale" not in name]
NORMS = [name for name in CALLS if name.startswith("batch_norm")]
FORWARD_NORMS = NORMS[:2]
IN_PLACE, SCALE, UPDATE = (
    "cross_entropy_backward_",
    "cross_entropy_scale_",
    "batch_norm_forward_and_update",
)
NAN, INF = math.nan, math.inf
WIDE = torch.randn(N, C, dtype=torch.float64, generator=GENERATOR)
IN_FLOAT64 = {
    key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
    for key, value in CROSS_ENTROPY_BACKWARD.items()
}
SCATTERED = torch.ones([2] * 11).permute(0, 10, 2, 4, 6, 8, 1, 3, 5, 7, 9)

Refusal = tuple[list[str], dict[str, object], str]
REFUSED: dict[str, Refusal] = {
    "reduction too large": (LOSSES, {"reduction": 3}, "reduction must be"),
    "reduction negative": (LOSSES, {"reduction": -1}, "reduction must be"),
    "not reduced": (
        ["cross_entropy_forward_with_gradient"],
        {"reduction": 0},
        "reduction must be 1 or 2, got 0",
    ),
    "smoothing": (
        LOSSES,
        {"label_smoothing": 1.1},
        r"label_smoothing must be in \[0, 1\], got 1.1",
    ),
    "smoothing negative": (LOSSES, {"label_smoothing": -0.1}, "label_smoothing must be"),
    "smoothing nan": (LOSSES, {"label_smoothing": NAN}, "label_smoothing must be"),
    "z-loss nan": (LOSSES, {"lse_square_scale": NAN}, "lse_square_scale must be finite, got nan"),
    "z-loss infinite": (LOSSES, {"lse_square_scale": -INF}, "lse_square_scale must be finite"),
    "target": (LOSSES, {"target": TARGET + 1}, "Target 5 is out of bounds"),
    "target negative": (LOSSES, {"target": TARGET - 1}, "Target -1 is out of bounds"),
    "target uint8": (LOSSES, {"target": (TARGET - 1).byte()}, "Target 255 is out of bounds"),
    "probabilities": (LOSSES, {"target": torch.ones(N, C + 1)}, "target must have size 5"),
    "probabilities of another dtype": (
        LOSSES,
        {"target": torch.ones(N, C).half()},
        "target must be float32, got float16",
    ),
    "statistics with gaps": (
        ["cross_entropy_backward", IN_PLACE],
        {"statistics": torch.ones(3, 2 * N, dtype=torch.float64)[:, ::2]},
        "statistics must be contiguous",
    ),
    "grad_output of every row": (
        ["cross_entropy_backward", IN_PLACE],
        {"grad_output": torch.ones(N)},
        "grad_output must have 0 dimensions, got 1",
    ),
    "grad_output of the mean": (
        ["cross_entropy_backward", IN_PLACE],
        {"reduction": 0},
        "grad_output must have 1 dimensions, got 0",
    ),
    "written to, overlapping itself": (
        [IN_PLACE],
        {"input": torch.ones(1, C).expand(N, C)},
        "input must not overlap itself",
    ),
    "written to, too many dimensions": (
        [IN_PLACE],
        {
            "input": SCATTERED,
            "target": torch.zeros([2] * 10, dtype=torch.int64),
            "weight": None,
        },
        "input has too many dimensions",
    ),
    **{
        f"written to, in the memory of {name}": (
            [IN_PLACE],
            {
                "input": X,
                name: X.view(-1)[: max(1, CROSS_ENTROPY_BACKWARD[name].numel())].view_as(
                    CROSS_ENTROPY_BACKWARD[name]
                ),
            },
            f"input must not share memory with {name}",
        )
        for name in ("grad_output", "grad_lse", "weight")
    },
    "written to, in the memory of target": (
        [IN_PLACE],
        {"input": X, "target": X},
        "input must not share memory with target",
    ),
    **{
        f"written to, in the memory of {name}": (
            [IN_PLACE],
            {
                **IN_FLOAT64,
                "input": WIDE,
                name: WIDE.view(-1)[: IN_FLOAT64[name].numel()].view_as(IN_FLOAT64[name]),
            },
            f"input must not share memory with {name}",
        )
        for name in ("statistics", "total_weight")
    },
    "scaled by itself": (
        [SCALE],
        {"gradient": X, "factor": X[2, 3]},
        "gradient must not share memory with factor",
    ),
    "scaled, overlapping itself": (
        [SCALE],
        {"gradient": torch.ones(1, C).expand(N, C)},
        "gradient must be dense",
    ),
    "activation": (NORMS, {"activation": 3}, "activation must be 0, 1 or 2, got 3"),
    "activation negative": (NORMS, {"activation": -1}, "activation must be"),
    "correction": (NORMS, {"correction": 2.0}, "correction must be 0 or 1, got 2"),
    "correction nan": (NORMS, {"correction": NAN}, "correction must be 0 or 1, got nan"),
    "eps negative": (FORWARD_NORMS, {"eps": -1e-9}, "eps must be at least 0, got -1e-09"),
    "eps nan": (FORWARD_NORMS, {"eps": NAN}, "eps must be at least 0, got nan"),
    "no channels": (NORMS, {"input": torch.ones(N)}, "input must have at least 2 dimensions"),
    "one value per channel": (
        ["batch_norm_backward", UPDATE],
        {"input": X[:1], "grad_output": X[:1], "output": X[:1]},
        "input must have more than 1 value per channel",
    ),
    "one value per channel, no running statistics": (
        ["batch_norm_forward"],
        {"training": True, "running_mean": None, "running_var": None, "input": X[:1]},
        "input must have more than 1 value per channel",
    ),
    "evaluation without running_mean": (
        ["batch_norm_forward"],
        {"running_mean": None},
        "running_mean and running_var must be given in evaluation",
    ),
    "evaluation without running_var": (
        ["batch_norm_forward"],
        {"running_var": None},
        "running_mean and running_var must be given in evaluation",
    ),
    "momentum nan": ([UPDATE], {"momentum": NAN}, "momentum must be finite, got nan"),
    "momentum infinite": ([UPDATE], {"momentum": INF}, "momentum must be finite, got inf"),
    "updated, overlapping itself": (
        [UPDATE],
        {"running_var": torch.ones(1).expand(C)},
        "running_var must not overlap itself",
    ),
    **{
        f"updated, in the memory of {name}": (
            [UPDATE],
            {"running_var": X[1], name: X[1] if name != "input" else X},
            f"running_var must not share memory with {name}",
        )
        for name in ("input", "weight", "bias")
    },
    "activation without output": (
        ["batch_norm_backward"],
        {"output": None},
        "output must be given exactly when there is an activation",
    ),
    "output without activation": (
        ["batch_norm_backward"],
        {"activation": 0},
        "output must be given exactly when there is an activation",
    ),
    "no gradient of integers": (
        ["batch_norm_backward"],
        {
            **{name: X.int() for name in ("input", "grad_output", "output")},
            "needs_grad_input": False,
            "needs_grad_parameters": False,
        },
        "input must be float16, bfloat16, float32 or float64, got int32",
    ),
    "index": (["embedding_backward"], {"indices": TARGET + 1}, "index 5 is out of bounds for 5"),
    "index negative": (["embedding_backward"], {"indices": TARGET - 1}, "index -1 is out of"),
    "index into nothing": (
        ["embedding_backward"],
        {"grad_output": X[:, :0], "num_embeddings": 4},
        "index 4 is out of bounds for 4",
    ),
    "negative size": (
        ["embedding_backward"],
        {"num_embeddings": -1},
        "must not be negative, got -1",
    ),
    "narrow gradient": (
        ["embedding_backward"],
        {"grad_output": X.half()},
        "grad_output must be float32 or float64, got float16",
    ),
    "narrow argument": (
        ["_exp", "_exp_nonpositive", "_log", "_tanh"],
        {"input": X.bfloat16()},
        "input must be float32 or float64, got bfloat16",
    ),
    **{
        f"widened {dtype}": (
            ["_widen"],
            {"input": X.to(dtype)},
            "input must be float16 or bfloat16",
        )
        for dtype in (torch.float32, torch.float64, torch.int32, torch.complex64)
    },
    **{
        f"narrowed {dtype}": (["_narrow"], {"input": X.to(dtype)}, "input must be float32, got")
        for dtype in (torch.float16, torch.float64, torch.int32, torch.complex64)
    },
    **{
        f"narrowed to {dtype}": (["_narrow"], {"like": X.to(dtype)}, "like must be float16 or")
        for dtype in (torch.float32, torch.float64, torch.int32, torch.complex64)
    },
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for case, (names, *_) in REFUSED.items() for name in names]
)
def test_refuses(name, case):
    _, changes, message = REFUSED[case]
    accepted = {key: value for key, value in changes.items() if key in CALLS[name]}
    check_refused(name, accepted, message)


@pytest.mark.parametrize(
    "name", [name for name, arguments in CALLS.items() if "input" in arguments and name[0] != "_"]
)
def test_refuses_a_tensor_whose_memory_was_freed(name):
    freed = torch.ones(N, C)
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="a tensor of 30 elements has no memory"):
        getattr(operators, name)(**complete(name, {"input": freed}))


def test_refuses_more_memory_than_can_be_counted():
    """A row of 2^61 float64, all of them one element: their bytes are 0 modulo 2^64."""
    input = torch.zeros(1, 1, dtype=torch.float64).expand(1, 2**61)
    with pytest.raises(MemoryError):
        operators.cross_entropy_forward(input, TARGET[:1], None, 1, -100, 0.0, 0.0)


def test_a_table_without_features_may_be_of_any_length():
    result = operators.embedding_backward(torch.ones(2, 0), torch.tensor([0, 2**60]), 2**61)
    assert result.shape == (2**61, 0)


def test_no_gradient_is_wanted():
    wanted = {"needs_grad_input": False, "needs_grad_parameters": False}
    results = operators.batch_norm_backward(**complete("batch_norm_backward", wanted))
    assert [(*result.shape,) for result in results] == [(0,)] * 3
