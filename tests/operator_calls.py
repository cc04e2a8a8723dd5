"""A call that each operator takes, on few and small tensors."""

import torch
from torch import Tensor

N, C = 6, 5
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, C, generator=GENERATOR)
TARGET = torch.arange(N) % C
CROSS_ENTROPY = {
    "target": TARGET,
    "weight": torch.ones(C),
    "reduction": 1,
    "ignore_index": -100,
    "label_smoothing": 0.1,
    "lse_square_scale": 0.01,
}
CROSS_ENTROPY_BACKWARD = {
    "grad_output": torch.ones(()),
    "grad_lse": torch.ones(N),
    "input": X,
    "statistics": torch.ones(3, N, dtype=torch.float64),
    "total_weight": torch.ones((), dtype=torch.float64),
    **CROSS_ENTROPY,
}
BATCH_NORM = {
    "input": X,
    "weight": torch.ones(C),
    "bias": torch.zeros(C),
    "running_mean": torch.zeros(C),
    "running_var": torch.ones(C),
    "correction": 0.0,
    "eps": 1e-5,
    "activation": 0,
}
# A call that each operator takes.
CALLS = {
    "cross_entropy_forward": {"input": X, **CROSS_ENTROPY},
    "cross_entropy_forward_with_gradient": {"input": X, **CROSS_ENTROPY},
    "cross_entropy_backward": CROSS_ENTROPY_BACKWARD,
    "cross_entropy_backward_": CROSS_ENTROPY_BACKWARD,
    "cross_entropy_scale_": {"gradient": X, "factor": torch.ones(())},
    "batch_norm_forward": {**BATCH_NORM, "training": False},
    "batch_norm_forward_and_update": {**BATCH_NORM, "momentum": 0.1},
    "batch_norm_backward": {
        "grad_output": X,
        "input": X,
        "weight": torch.ones(C),
        "output": X,
        "statistics": torch.ones(3, C, dtype=torch.float64),
        "training": True,
        "correction": 1.0,
        "activation": 1,
        "needs_grad_input": True,
        "needs_grad_parameters": True,
    },
    "embedding_backward": {"grad_output": X, "indices": TARGET, "num_embeddings": C},
    "_exp": {"input": X},
    "_exp_nonpositive": {"input": X},
    "_log": {"input": X},
    "_tanh": {"input": X},
    "_widen": {"input": X.half()},
    "_narrow": {"input": X, "like": X.half()},
}


def complete(name: str, changes: dict[str, object]) -> dict[str, object]:
    """The arguments of an operator's call, some of them changed, the others copied."""
    copies = {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in CALLS[name].items()
    }
    return {**copies, **changes}
