"""The operators of batch norm refuse what their kernels cannot take."""

import math

import torch
from operator_calls import C, N, Refusal, X, changed, operator_tests

from makemore_ext._native import operators

FORWARD = {
    "input": X,
    "weight": torch.ones(C),
    "bias": torch.zeros(C),
    "running_mean": torch.zeros(C),
    "running_var": torch.ones(C),
    "correction": 0.0,
    "eps": 1e-5,
    "activation": 0,
}
BACKWARD = {
    "grad_output": X,
    "input": X,
    "output": X,
    "statistics": torch.ones(3, C, dtype=torch.float64),
}
CALLS = {
    "batch_norm_forward": {**FORWARD, "training": False},
    "batch_norm_forward_and_update": {**FORWARD, "momentum": 0.1},
    "batch_norm_backward": {
        **BACKWARD,
        "weight": torch.ones(C),
        "training": True,
        "correction": 1.0,
        "activation": 1,
        "needs_grad_input": True,
        "needs_grad_parameters": True,
    },
    "batch_norm_statistics": {"input": X},
    "batch_norm_gradient_sums": {**BACKWARD, "activation": 1},
    "batch_norm_input_gradient": {
        **BACKWARD,
        "weight": torch.ones(C),
        "shares": torch.ones(2, C, dtype=torch.float64),
        "activation": 1,
    },
}
FORWARD_NORMS = ["batch_norm_forward", "batch_norm_forward_and_update"]
ALONE = ("other width", "one dimension more", "one longer", "one class more")
FITS = {
    (name, argument, damage)
    for name in FORWARD_NORMS
    for argument, damage in (
        ("input", "one longer"),
        ("running_mean", "other width"),
        ("running_var", "other width"),
    )
} | {("batch_norm_statistics", "input", damage) for damage in ALONE}

NORMS = [*FORWARD_NORMS, "batch_norm_backward"]
OF_PARTS = {"batch_norm_statistics", "batch_norm_gradient_sums", "batch_norm_input_gradient"}
BACKWARD_NORMS = ["batch_norm_backward", "batch_norm_gradient_sums", "batch_norm_input_gradient"]
UPDATE = "batch_norm_forward_and_update"
NAN, INF = math.nan, math.inf
REFUSED: dict[str, Refusal] = {
    "activation": (
        [*FORWARD_NORMS, *BACKWARD_NORMS],
        {"activation": 3},
        "activation must be 0, 1 or 2, got 3",
    ),
    "activation negative": (NORMS, {"activation": -1}, "activation must be"),
    "correction": (NORMS, {"correction": 2.0}, "correction must be 0 or 1, got 2"),
    "correction nan": (NORMS, {"correction": NAN}, "correction must be 0 or 1, got nan"),
    "eps negative": (FORWARD_NORMS, {"eps": -1e-9}, "eps must be at least 0, got -1e-09"),
    "eps nan": (FORWARD_NORMS, {"eps": NAN}, "eps must be at least 0, got nan"),
    "no channels": (list(CALLS), {"input": torch.ones(N)}, "input must have at least 2 dimensions"),
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
        BACKWARD_NORMS,
        {"output": None},
        "output must be given if and only if activation is not 0",
    ),
    "output without activation": (
        BACKWARD_NORMS,
        {"activation": 0},
        "output must be given if and only if activation is not 0",
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
}

(
    test_takes_its_call,
    test_passes_opcheck,
    test_refuses_a_tensor_that_does_not_fit,
    test_refuses,
    test_refuses_a_tensor_whose_memory_was_freed,
) = operator_tests(CALLS, FITS, REFUSED, OF_PARTS)


def test_no_gradient_is_wanted():
    wanted = {"needs_grad_input": False, "needs_grad_parameters": False}
    results = operators.batch_norm_backward(**changed(CALLS["batch_norm_backward"], wanted))
    assert [(*result.shape,) for result in results] == [(0,)] * 3
