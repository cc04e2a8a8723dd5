"""The operators of cross entropy refuse what their kernels cannot take."""

import math

import pytest
import torch
from operator_calls import TARGET, C, N, Refusal, X, operator_tests
from torch import Tensor

from makemore_ext._native import operators

LOSS = {
    "target": TARGET,
    "weight": torch.ones(C),
    "reduction": 1,
    "ignore_index": -100,
    "label_smoothing": 0.1,
    "lse_square_scale": 0.01,
}
BACKWARD = {
    "grad_output": torch.ones(()),
    "grad_lse": torch.ones(N),
    "input": X,
    "statistics": torch.ones(3, N, dtype=torch.float64),
    "total_weight": torch.ones((), dtype=torch.float64),
    **LOSS,
}
CALLS = {
    "cross_entropy_forward": {"input": X, **LOSS},
    "cross_entropy_forward_with_gradient": {"input": X, **LOSS},
    "cross_entropy_backward": BACKWARD,
    "cross_entropy_backward_": BACKWARD,
    "cross_entropy_scale_": {
        "gradient": X,
        "factor": torch.tensor(0.5),
        "target": TARGET,
        "ignore_index": -100,
    },
}
FITS = {("cross_entropy_scale_", "gradient", "one class more")}

*LOSSES, SCALE = CALLS
IN_PLACE = "cross_entropy_backward_"
BACKWARDS = ["cross_entropy_backward", IN_PLACE]
NAN, INF = math.nan, math.inf
WIDE = X.double()
IN_FLOAT64 = {
    key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
    for key, value in BACKWARD.items()
}
SCATTERED = torch.ones([2] * 11).permute(0, 10, 2, 4, 6, 8, 1, 3, 5, 7, 9)

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
    "grad_output of every row": (
        BACKWARDS,
        {"grad_output": torch.ones(N)},
        "grad_output must have 0 dimensions, got 1",
    ),
    "grad_output of the mean": (
        BACKWARDS,
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
        "input must have at most 8 dimensions that cannot be joined, got 10",
    ),
    **{
        f"written to, in the memory of {name}": (
            [IN_PLACE],
            {
                "input": X,
                name: X.view(-1)[: max(1, BACKWARD[name].numel())].view_as(BACKWARD[name]),
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
    "scaled, in the memory of target": (
        [SCALE],
        {"gradient": X, "target": X},
        "gradient must not share memory with target",
    ),
    "scaled, too many dimensions": (
        [SCALE],
        {"gradient": SCATTERED, "target": torch.zeros([2] * 10, dtype=torch.int64)},
        "gradient must have at most 8 dimensions that cannot be joined, got 10",
    ),
    "scaled, overlapping itself": (
        [SCALE],
        {"gradient": torch.ones(1, C).expand(N, C)},
        "gradient must be dense",
    ),
}

(
    test_takes_its_call,
    test_passes_opcheck,
    test_refuses_a_tensor_that_does_not_fit,
    test_refuses,
    test_refuses_a_tensor_whose_memory_was_freed,
) = operator_tests(CALLS, FITS, REFUSED)


def test_refuses_more_memory_than_can_be_counted():
    """A row of 2^61 float64, all of them one element: their bytes are 0 modulo 2^64."""
    input = torch.zeros(1, 1, dtype=torch.float64).expand(1, 2**61)
    with pytest.raises(MemoryError):
        operators.cross_entropy_forward(input, TARGET[:1], None, 1, -100, 0.0, 0.0)
