"""Cross entropy: the Functions, the functional form and the module.

The formulas, and what is kept from forward to backward, stand in
csrc/cpu/cross_entropy/cross_entropy.h.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from makemore_ext._cross_entropy_checks import REDUCTIONS, check, check_inplace
from makemore_ext._cross_entropy_transforms import (
    Options,
    class_dim,
    compute_dtype,
    gradients,
    tangents,
)
from makemore_ext._function import applier, is_batched, is_eager
from makemore_ext._native import operators
from makemore_ext._validation import check_indices, checks_cuda_indices


class CrossEntropyFunction(torch.autograd.Function):
    """apply(input, target, weight, options, inplace_backward, return_lse).

    Gives loss, lse, statistics and total. `options` are a reduction of REDUCTIONS, ignore_index,
    label_smoothing and lse_square_scale. `loss` and `lse` [N, d1, ...], which is None unless
    `return_lse`, are float32, or float64 for float64 input, and differentiable.
    The last two are what backward needs: `statistics` [3, N, d1, ...] float64, see
    csrc/cpu/cross_entropy/cross_entropy.h, and `total` [] float64, the divisor of the mean.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        inplace_backward: bool,
        return_lse: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        loss, statistics, total_weight = operators.cross_entropy_forward.default(
            input, target, weight, *options
        )
        lse = None
        if return_lse:
            lse = (statistics[0] + statistics[1].log()).to(loss.dtype)
        return loss, lse, statistics, total_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Any, ...]) -> None:
        input, target, weight, ctx.options, ctx.inplace_backward, ctx.return_lse = inputs
        _, _, statistics, total_weight = output
        ctx.mark_non_differentiable(statistics, total_weight)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, target, weight, statistics, total_weight)
        ctx.save_for_forward(input, target, weight)

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_lse: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        input, target, weight, statistics, total_weight = ctx.saved_tensors
        needs_input, needs_target, needs_weight, *_ = ctx.needs_input_grad
        grad_input = grad_target = grad_weight = None
        if grad_loss is None and grad_lse is None:
            return (None,) * 6
        if torch.is_grad_enabled() or needs_target or needs_weight:
            if ctx.inplace_backward:
                raise RuntimeError(
                    "inplace_backward=True gives the gradient of input alone, and not with "
                    "create_graph=True"
                )
            grad_input, grad_target, grad_weight = gradients(
                grad_loss, grad_lse, input, target, weight, ctx.options
            )
        elif needs_input:
            if grad_loss is None:
                rows = statistics.shape[1:] if ctx.options.reduction == 0 else ()
                grad_loss = statistics.new_zeros(rows)
            upstream = grad_loss.to(compute_dtype(input))
            tensors = (upstream, grad_lse, input, target, weight, statistics, total_weight)
            if ctx.inplace_backward:
                operators.cross_entropy_backward_.default(*tensors, *ctx.options)
                torch.autograd.graph.increment_version(input)
                grad_input = input.detach()
            else:
                grad_input = operators.cross_entropy_backward.default(*tensors, *ctx.options)
        return (
            grad_input,
            grad_target if needs_target else None,
            grad_weight if needs_weight else None,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *input_tangents: Any) -> tuple[Tensor | None, ...]:
        primals = ctx.saved_tensors
        loss, lse = tangents(primals, input_tangents[:3], ctx.options)
        return loss, lse if ctx.return_lse else None, None, None


_apply = applier(CrossEntropyFunction)


class GradientInForward(torch.autograd.Function):
    """apply(input, target, weight, options) -> loss, its gradient formed along with it.

    The logits are read once for both, and backward has nothing left to do where the upstream
    gradient is 1. For losses that are reduced, and for gradients of input alone.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> Tensor:
        loss, ctx.gradient = operators.cross_entropy_forward_with_gradient.default(
            input, target, weight, *options
        )
        ctx.options = options
        ctx.save_for_backward(input, target, weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or is_batched(grad_loss):
            input, target, weight = ctx.saved_tensors
            gradient = gradients(grad_loss, None, input, target, weight, ctx.options)[0]
            return gradient, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # given away by an earlier backward
            gradient = operators.cross_entropy_forward_with_gradient.default(
                *ctx.saved_tensors, *ctx.options
            )[1]
        operators.cross_entropy_scale_.default(gradient, grad_loss)
        return gradient, None, None, None


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    inplace_backward: bool = False,
    return_lse: bool = False,
    lse_square_scale: float = 0.0,
) -> Any:
    """Cross entropy of logits, the same call as `torch.nn.functional.cross_entropy`.

    Args:
        input: logits [N, C, d1, ...] or [C], float16, bfloat16, float32 or float64, any strides.
        target: class indices [N, d1, ...] or [], int64 or uint8, in [0, C) or `ignore_index`; or
            probabilities of the shape of `input`, floating.
        weight: a factor for each class [C], of the dtype of `input`; None for ones.
        size_average: deprecated by torch in favour of `reduction`.
        ignore_index: rows with this target have loss 0, gradient 0 and no part in the mean. For
            class indices only.
        reduce: deprecated by torch in favour of `reduction`.
        reduction: "none" gives [N, d1, ...], "sum" their sum, "mean" that divided by the sum of the
            weights of the targets, or by the number of rows where targets are probabilities.
        label_smoothing: in [0, 1], the share of the target that is spread over all classes.
        inplace_backward: the gradient takes the memory of `input`, which backward overwrites: half
            the memory. Whatever else needs `input` after that must not; autograd notices where it
            does. Without effect in torch.compile and torch.func.
        return_lse: return log(sum(exp(input))) of each row too, differentiable.
        lse_square_scale: adds this times lse^2 to the loss of each row that is not ignored, before
            the reduction (the z-loss of PaLM), which keeps lse near 0.

    Returns:
        The loss, [] or [N, d1, ...], of the dtype of `input`, float32 in autocast; with
        `return_lse` also lse [N, d1, ...], float32, or float64 for float64 input.

    Raises:
        IndexError: a target is outside [0, C) and not `ignore_index`. On a CUDA device, where
            telling would mean to wait for it, the loss and the gradient of its row are NaN instead,
            unless the environment variable MAKEMORE_EXT_CHECK is 1.
        NotImplementedError: the dtype, device or layout of `input` is not supported.
        RuntimeError: shapes, dtypes or `label_smoothing` that torch refuses, in torch's words;
            `inplace_backward` where `input` is a leaf that requires grad, or overlaps itself.
        ValueError: `reduction` is unknown, or the sizes of `input` and `target` differ.

    The derivation of the gradient is that of "makemore part 4", exercise 2.
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    if isinstance(input, Tensor) and isinstance(target, Tensor) and input.dim() == 1:
        target = target.squeeze() if target.shape == (1,) and input.shape != (1,) else target
    check(input, target, weight, ignore_index, reduction, label_smoothing, lse_square_scale)
    options = Options(
        REDUCTIONS[reduction], int(ignore_index), float(label_smoothing), float(lse_square_scale)
    )
    if input.numel() == 0 and input.shape[class_dim(input)] == 0:  # torch's corner cases
        loss = F.cross_entropy(
            input,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return (loss, input.logsumexp(class_dim(input))) if return_lse else loss
    eager = is_eager() and type(input) in (Tensor, nn.Parameter)
    if eager and target.is_cuda and not target.is_floating_point() and checks_cuda_indices():
        check_indices("target", target, input.shape[class_dim(input)], int(ignore_index))
    dtype = input.dtype
    if target.is_floating_point():
        dtype = torch.promote_types(dtype, target.dtype)
        dtype = dtype if weight is None else torch.promote_types(dtype, weight.dtype)
        input, target = input.to(dtype), target.to(dtype)
    if weight is not None:
        weight = weight.to(compute_dtype(input))

    grad_enabled = torch.is_grad_enabled()
    needs_grad = grad_enabled and input.requires_grad
    needs_other_grad = grad_enabled and (
        target.requires_grad or (weight is not None and weight.requires_grad)
    )
    if inplace_backward and needs_grad:
        check_inplace(input)
    lse = None
    if eager and not return_lse and not needs_grad and not needs_other_grad:
        loss = operators.cross_entropy_forward.default(input, target, weight, *options)[0]
    elif (
        eager
        and reduction != "none"
        and dtype != torch.float16  # an upstream gradient may be there to keep it from underflow
        and not (inplace_backward or return_lse or needs_other_grad)
    ):
        loss = GradientInForward.apply(input, target, weight, options)
    else:
        inplace_backward = inplace_backward and eager
        loss, lse, *_ = _apply(input, target, weight, options, inplace_backward, return_lse)
    if loss.dtype != dtype and not torch.is_autocast_enabled(input.device.type):
        loss = loss.to(dtype)
    return (loss, lse) if return_lse else loss


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` on the fused kernels.

    The constructor takes torch's arguments and the keywords of `cross_entropy` beside them.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        inplace_backward: bool = False,
        return_lse: bool = False,
        lse_square_scale: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.inplace_backward = inplace_backward
        self.return_lse = return_lse
        self.lse_square_scale = lse_square_scale

    def extra_repr(self) -> str:
        ours = {
            "inplace_backward": self.inplace_backward,
            "return_lse": self.return_lse,
            "lse_square_scale": self.lse_square_scale,
        }
        return ", ".join(f"{name}={value}" for name, value in ours.items() if value)

    def forward(self, input: Tensor, target: Tensor) -> Any:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            inplace_backward=self.inplace_backward,
            return_lse=self.return_lse,
            lse_square_scale=self.lse_square_scale,
        )


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """What torch makes of its two deprecated arguments."""
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"
