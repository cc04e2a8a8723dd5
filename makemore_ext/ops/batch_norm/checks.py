"""What batch_norm refuses before any kernel starts, in torch's words where torch has them."""

import torch
from torch import Tensor
from torch.nn.functional import batch_norm as torch_batch_norm  # whatever F.batch_norm becomes

from makemore_ext.ops.batch_norm.options import ACTIVATIONS
from makemore_ext.ops.tensors import FLOATING, check_device, describe


def check(
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
) -> None:
    """Raises unless the arguments of `batch_norm` are such as its docstring says."""
    if not is_valid(input, running_mean, running_var, weight, bias, training, momentum, eps):
        running = _copy(running_mean), _copy(running_var)  # of those that torch does not refuse
        torch_batch_norm(input, *running, weight, bias, training, momentum, eps)
        raise NotImplementedError(
            "input, weight, bias and running statistics must be dense tensors on one device, "
            f"input of 2 dimensions or more, got {describe(input)}, {describe(weight)}, "
            f"{describe(bias)}, {describe(running_mean)} and {describe(running_var)}"
        )
    check_device("input", input.device)
    check_keywords(correction, activation)


def _copy(running: Tensor | None) -> Tensor | None:
    if not isinstance(running, Tensor):
        return running
    copy = running.detach().clone()
    return copy.requires_grad_() if running.requires_grad else copy


def check_keywords(correction: int, activation: str | None) -> None:
    """Raises ValueError for a value that torch's batch norm has no word for."""
    if correction not in (0, 1):
        raise ValueError(f"correction must be 0 or 1, got {correction!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None, 'tanh' or 'relu', got {activation!r}")


def is_valid(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> bool:
    """Whether torch's arguments are such as the kernels take, on a device that has them or not."""
    if not isinstance(input, Tensor) or input.dtype not in FLOATING or input.dim() < 2:
        return False
    if input.layout != torch.strided:
        return False
    if not isinstance(training, bool) or not isinstance(momentum, (int, float)):
        return False
    if not isinstance(eps, (int, float)) or eps < 0.0 or (training and eps <= 0.0):
        return False
    shape = input.shape
    channels = shape[1]
    # Torch counts values per channel as the product of all sizes but that of the channels. What is
    # compiled leaves that to the operator, so that the sizes may be any.
    if (
        training
        and not torch.compiler.is_compiling()
        and shape[0] == 1
        and all(size == 1 for size in shape[2:])
    ):
        return False
    if (running_mean is None) != (running_var is None) or not (
        training or running_mean is not None
    ):
        return False
    dtype = None  # of what is not the input: all of one, the input's own or float32 for narrow ones
    for tensor in (running_mean, running_var, weight, bias):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return False
        if tensor.numel() != channels or tensor.device != input.device:
            return False
        if dtype is None:
            dtype = tensor.dtype
            if dtype is not input.dtype and (
                dtype is not torch.float32 or input.dtype is torch.float64
            ):
                return False
        elif tensor.dtype is not dtype:
            return False
    if running_mean is None or running_var is None:
        return True
    return (
        running_mean.dim() == 1
        and running_var.dim() == 1
        and not (
            torch.is_grad_enabled() and (running_mean.requires_grad or running_var.requires_grad)
        )
    )
