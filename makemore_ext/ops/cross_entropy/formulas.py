"""Derivatives of cross entropy that no operator computes, in torch operations.

Names and formulas are those of csrc/cpu/cross_entropy/cross_entropy.cpp: tangents, gradients of
target probabilities and of the weights, and the derivatives of the gradient. All of it is in
float64, since it cancels (1 - p of a confident row), and differentiable in its turn. Native
autograd calls these functions too. `options` are those of options.py.
"""

from functools import cached_property

import torch
from torch import Tensor

from makemore_ext.ops.cross_entropy.options import MEAN, NONE, Options, class_dim
from makemore_ext.ops.tensors import compute_dtype


def _per_class(weight: Tensor, input: Tensor) -> Tensor:
    weight = weight.double()
    for _ in range(input.dim() - class_dim(input) - 1):
        weight = weight.unsqueeze(-1)
    return weight


class _Terms:
    """What the loss is made of, each broadcast against the logits, rows with one class.

    What takes a pass over the logits is formed when it is first asked for.
    """

    def __init__(
        self, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> None:
        options = Options(*options)  # native autograd calls with a tuple
        self._input, self._target, self._options = input, target, options
        self.dim = class_dim(input)
        self._logits = input.double()
        largest = self._logits.detach().amax(self.dim, keepdim=True)
        # Not logsumexp, which asks whether there are any rows, as torch.compile may not know.
        self._exp = (self._logits - largest).exp()
        self._sum_exp = self._exp.sum(self.dim, keepdim=True)
        self.lse = largest + self._sum_exp.log()
        self.weight = torch.ones_like(self.lse) if weight is None else _per_class(weight, input)
        classes = torch.sym_max(1, input.shape[self.dim])
        self._on_target = 1 - options.label_smoothing  # 1 - s
        self._on_class = options.label_smoothing / classes  # s / C
        self.valid = torch.ones_like(self.lse, dtype=torch.bool)  # whether a row takes part
        if target.is_floating_point():
            self.divisor = torch.ones_like(self.lse).sum()  # of the mean
            return
        self._index = target.long().unsqueeze(self.dim)
        self.valid = self._index != options.ignore_index
        outside = (self._index < 0) | (self._index >= input.shape[self.dim])
        self._inside = torch.where(outside, 0, self._index)
        self._weights = classes if weight is None else weight.double().sum()  # of all classes
        w = self.weight if weight is None else weight.double()[self._inside]
        total = torch.where(self.valid & ~outside, w, 0).sum()
        # Of no weight there is no mean, as in csrc/cpu/cross_entropy/block.h.
        self.divisor = torch.where(total == 0, torch.nan, total)
        # An index outside, which a CUDA device cannot refuse, leaves NaN as it does in the kernels.
        self._target_weight = torch.where(self.valid & outside, torch.nan, w)

    @cached_property
    def p(self) -> Tensor:
        return self._exp / self._sum_exp

    @cached_property
    def log_p(self) -> Tensor:
        return self._logits - self.lse

    @cached_property
    def smoothed(self) -> Tensor:
        """The target with smoothing, q'."""
        if self._target.is_floating_point():
            return self._on_target * self._target.double() + self._on_class
        classes = torch.arange(self._input.shape[self.dim], device=self._input.device)
        hit = _per_class(classes, self._input) == self._index
        return self._on_target * hit.double() + self._on_class

    @cached_property
    def share(self) -> Tensor:
        """The share of each class, v."""
        return self.weight * self.smoothed

    @cached_property
    def mass(self) -> Tensor:
        """The sum of the shares, A."""
        return self.shared(None)

    def shared(self, vector: Tensor | None) -> Tensor:
        """The sum of v times a vector over the classes, or of v alone."""
        if self._target.is_floating_point():
            terms = self.share if vector is None else self.share * vector
            return terms.sum(self.dim, keepdim=True)
        of_target = self._on_target * self._target_weight
        if vector is None:
            return of_target + self._on_class * self._weights
        of_target = of_target * vector.gather(self.dim, self._inside)
        if self._options.label_smoothing == 0:
            return of_target
        return of_target + self._on_class * (self.weight * vector).sum(self.dim, keepdim=True)


def _upstream(grad_loss: Tensor, t: _Terms, options: Options) -> Tensor:
    """What each row gets of the gradient of the loss: u."""
    upstream = grad_loss.double()
    if options[0] == MEAN:
        upstream = upstream / t.divisor
    if options[0] == NONE:
        upstream = upstream.unsqueeze(t.dim)
    return torch.where(t.valid, upstream, 0)


def _reduced(rows: Tensor, t: _Terms, options: Options) -> Tensor:
    """The reduction of rows that the loss takes, the transpose of `_upstream`."""
    rows = torch.where(t.valid, rows, 0).squeeze(t.dim)
    if options[0] == NONE:
        return rows
    return rows.sum() / t.divisor if options[0] == MEAN else rows.sum()


def _over_rows(tensor: Tensor, t: _Terms) -> Tensor:
    rows = [dim for dim in range(tensor.dim()) if dim != t.dim]
    return tensor.sum(rows) if rows else tensor


def _share_tangent(
    target: Tensor,
    target_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    t: _Terms,
    options: Options,
) -> Tensor | None:
    """The tangent of v."""
    if not target.is_floating_point() and weight_tangent is not None:
        raise RuntimeError(
            "weight must have no tangent where target holds class indices, as it has no gradient"
        )
    result = None
    if target_tangent is not None:
        result = t.weight * ((1 - options[2]) * target_tangent.double())
    if weight_tangent is not None:
        other = _per_class(weight_tangent, t.log_p) * t.smoothed
        result = other if result is None else result + other
    return result


def _times_log_p(factor: Tensor, t: _Terms) -> Tensor:
    """The product, 0 where a class that is ruled out has no part."""
    ruled_out = (factor == 0) & (t.log_p == -torch.inf)
    return factor * torch.where(ruled_out, 0, t.log_p)


def _curvature(
    vector: Tensor, upstream: Tensor, grad_lse: Tensor | None, t: _Terms, options: Options
) -> Tensor:
    """The matrix of second derivatives by the logits, which is symmetric, times a vector."""
    from_lse = 2 * options[3] * upstream
    on_softmax = upstream * t.mass + from_lse * t.lse
    if grad_lse is not None:
        on_softmax = on_softmax + grad_lse.double().unsqueeze(t.dim)
    inner = (vector * t.p).sum(t.dim, keepdim=True)
    return t.p * (on_softmax * (vector - inner) + from_lse * inner)


def gradients_of_target(
    grad_loss: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients for target probabilities and weight; None for class indices.

    `statistics`: of the forward pass, where nothing differentiates the result or looks at it while
    it is formed. They spare the sums over classes.
    """
    if not target.is_floating_point():
        return None, None
    if statistics is not None and input.is_cpu:
        return _gradients_from_statistics(grad_loss, input, target, weight, statistics, options)
    t = _Terms(input, target, weight, options)
    upstream = _upstream(grad_loss, t, options)
    grad_target = _times_log_p(-upstream * t.weight * (1 - options[2]), t).to(target.dtype)
    if weight is None:
        return grad_target, None
    return grad_target, _over_rows(_times_log_p(-upstream * t.smoothed, t), t).to(weight.dtype)


def _gradients_from_statistics(
    grad_loss: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    options: Options,
) -> tuple[Tensor, Tensor | None]:
    """In the dtype that is computed in, and few passes.

    log_p = (x - max) - log_sum does not cancel: neither part is positive.
    """
    dim, dtype = class_dim(input), compute_dtype(input)
    largest, sum_exp, _ = statistics.unsqueeze(dim + 1).unbind()
    upstream = -grad_loss.double()
    if options[0] == MEAN:
        upstream = upstream / sum_exp.numel()
    if options[0] == NONE:
        upstream = upstream.unsqueeze(dim)
    log_p = input.to(dtype) - largest.to(dtype)
    log_p -= sum_exp.log().to(dtype)
    per_row = (upstream * (1 - options[2])).to(dtype)
    per_class = largest.new_ones(1) if weight is None else _per_class(weight, input)
    grad_weight = per_class
    if weight is not None:
        terms = target.to(dtype) * (1 - options[2])
        terms += options[2] / input.shape[dim]
        terms *= upstream.to(dtype)
        ruled_out = (terms == 0) & (log_p == -torch.inf)
        terms *= log_p
        rows = [other for other in range(input.dim()) if other != dim]
        terms.masked_fill_(ruled_out, 0)
        grad_weight = terms.sum(rows, dtype=torch.float64) if rows else terms
    if not (per_row.all() and per_class.all()):  # see _times_log_p
        log_p.masked_fill_((per_row * per_class == 0) & (log_p == -torch.inf), 0)
    log_p *= per_row
    if weight is None:
        return log_p.to(target.dtype), None
    log_p *= per_class.to(dtype)
    return log_p.to(target.dtype), grad_weight.to(weight.dtype)


def tangents(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    input_tangent: Tensor | None,
    target_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """The tangents of loss and lse."""
    t = _Terms(input, target, weight, options)
    rows, lse = torch.zeros_like(t.lse), torch.zeros_like(t.lse)
    if input_tangent is not None:
        tangent = input_tangent.double()
        lse = (t.p * tangent).sum(t.dim, keepdim=True)
        on_lse = t.mass + 2 * options[3] * t.lse
        rows = on_lse * lse - t.shared(tangent)
    share_tangent = _share_tangent(target, target_tangent, weight_tangent, t, options)
    if share_tangent is not None:
        rows = rows - _times_log_p(share_tangent, t).sum(t.dim, keepdim=True)
    dtype = compute_dtype(input)
    return _reduced(rows, t, options).to(dtype), lse.squeeze(t.dim).to(dtype)


def second_gradients(
    grad_grad_input: Tensor,
    grad_loss: Tensor | None,
    grad_lse: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """From the gradient of grad_input those of grad_loss, grad_lse, input, target and weight."""
    t = _Terms(input, target, weight, options)
    grad = grad_grad_input.double()
    inner = (grad * t.p).sum(t.dim, keepdim=True)
    for_loss = for_lse = for_target = for_weight = None
    upstream = torch.zeros_like(t.lse)
    if grad_loss is not None:
        upstream = _upstream(grad_loss, t, options)
        on_lse = t.mass + 2 * options[3] * t.lse
        rows = on_lse * inner - t.shared(grad)
        for_loss = _reduced(rows, t, options).to(grad_loss.dtype)
    if grad_lse is not None:
        for_lse = inner.squeeze(t.dim).to(grad_lse.dtype)
    for_input = _curvature(grad, upstream, grad_lse, t, options).to(input.dtype)
    if target.is_floating_point():
        for_share = upstream * (inner - grad)
        for_target = (for_share * t.weight * (1 - options[2])).to(target.dtype)
        if weight is not None:
            for_weight = _over_rows(for_share * t.smoothed, t).to(weight.dtype)
    return for_loss, for_lse, for_input, for_target, for_weight


def second_tangent(
    grad_loss: Tensor | None,
    grad_lse: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    grad_loss_tangent: Tensor | None,
    grad_lse_tangent: Tensor | None,
    input_tangent: Tensor | None,
    target_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    options: Options,
) -> Tensor:
    """The tangent of grad_input."""
    t = _Terms(input, target, weight, options)
    upstream = torch.zeros_like(t.lse)
    if grad_loss is not None:
        upstream = _upstream(grad_loss, t, options)
    result = torch.zeros_like(t.p)
    if grad_loss_tangent is not None:
        on_softmax = t.mass + 2 * options[3] * t.lse
        result = _upstream(grad_loss_tangent, t, options) * (on_softmax * t.p - t.share)
    if grad_lse_tangent is not None:
        result = result + grad_lse_tangent.double().unsqueeze(t.dim) * t.p
    if input_tangent is not None:
        result = result + _curvature(input_tangent.double(), upstream, grad_lse, t, options)
    share_tangent = _share_tangent(target, target_tangent, weight_tangent, t, options)
    if share_tangent is not None:
        mass_tangent = share_tangent.sum(t.dim, keepdim=True)
        result = result + upstream * (mass_tangent * t.p - share_tangent)
    return result.to(input.dtype)
