from types import NotImplementedType

from torch import Tensor

def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    inplace_backward: bool,
    return_lse: bool,
    lse_square_scale: float,
    /,
) -> Tensor | tuple[Tensor, Tensor] | NotImplementedType: ...
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    correction: int,
    activation: str | None,
    num_batches_tracked: Tensor | None,
    /,
) -> Tensor | NotImplementedType: ...
def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None, /
) -> Tensor | NotImplementedType: ...
