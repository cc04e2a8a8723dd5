"""What cross entropy is made of, in torch operations and float64; see formulas.py."""

from functools import cached_property

import torch
from torch import Tensor

from makemore_ext.ops.cross_entropy.options import MEAN, NONE, Options, class_dim


def along_classes(weight: Tensor, input: Tensor) -> Tensor:
    """[C] as it is broadcast against the logits."""
    weight = weight.double()
    for _ in range(input.dim() - class_dim(input) - 1):
        weight = weight.unsqueeze(-1)
    return weight


class Terms:
    """What the loss is made of, each broadcast against the logits, rows with one class.

    Each is formed when it is first asked for, as some take a pass over the logits.
    """

    def __init__(
        self, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> None:
        self._input, self._target, self._class_weight = input, target, weight
        self.options = Options(*options)  # native autograd calls with a tuple
        self.dim = class_dim(input)
        self.weight = 1.0 if weight is None else along_classes(weight, input)
        self._classes = torch.sym_max(1, input.shape[self.dim])
        self._on_target = 1 - self.options.label_smoothing  # 1 - s
        self._on_class = self.options.label_smoothing / self._classes  # s / C

    # Of rows and their targets.

    @cached_property
    def _ones(self) -> Tensor:
        shape = list(self._input.shape)
        shape[self.dim] = 1
        return self._input.new_ones(shape, dtype=torch.float64)

    @cached_property
    def _index(self) -> Tensor:
        return self._target.long().unsqueeze(self.dim)

    @cached_property
    def _outside(self) -> Tensor:
        return (self._index < 0) | (self._index >= self._input.shape[self.dim])

    @cached_property
    def _inside(self) -> Tensor:
        return torch.where(self._outside, 0, self._index)

    @cached_property
    def _target_weight(self) -> Tensor:
        """An index outside, which a CUDA device cannot refuse, leaves NaN as in the kernels."""
        weight = self._class_weight
        found = self._ones if weight is None else weight.double()[self._inside]
        return torch.where(self.valid & self._outside, torch.nan, found)

    @cached_property
    def valid(self) -> Tensor:
        """Whether a row takes part."""
        if self._target.is_floating_point():
            return self._ones.bool()
        return self._index != self.options.ignore_index

    @cached_property
    def divisor(self) -> Tensor:
        """Of the mean. Of no weight there is none, as in csrc/cpu/cross_entropy/block.h."""
        if self._target.is_floating_point():
            return self._ones.sum()
        total = torch.where(self.valid & ~self._outside, self._target_weight, 0).sum()
        return torch.where(total == 0, torch.nan, total)

    # Of the logits.

    @cached_property
    def _logits(self) -> Tensor:
        return self._input.double()

    @cached_property
    def _exp(self) -> tuple[Tensor, Tensor, Tensor]:
        """max_c x_c, exp(x - max) and its sum."""
        # Not logsumexp, which asks whether there are any rows, as torch.compile may not know.
        largest = self._logits.detach().amax(self.dim, keepdim=True)
        terms = (self._logits - largest).exp()
        return largest, terms, terms.sum(self.dim, keepdim=True)

    @cached_property
    def lse(self) -> Tensor:
        largest, _, total = self._exp
        return largest + total.log()

    @cached_property
    def p(self) -> Tensor:
        _, terms, total = self._exp
        return terms / total

    @cached_property
    def log_p(self) -> Tensor:
        return self._logits - self.lse

    # Of the classes' shares.

    @cached_property
    def smoothed(self) -> Tensor:
        """The target with smoothing, q'."""
        if self._target.is_floating_point():
            target = self._target.double()
        else:
            classes = torch.arange(self._input.shape[self.dim], device=self._input.device)
            target = (along_classes(classes, self._input) == self._index).double()
        if self.options.label_smoothing == 0:
            return target
        return self._on_target * target + self._on_class

    @cached_property
    def share(self) -> Tensor:
        """The share of each class, v."""
        return self.smoothed if self._class_weight is None else self.weight * self.smoothed

    @cached_property
    def mass(self) -> Tensor:
        """The sum of the shares, A."""
        return self.shared(None)

    @cached_property
    def on_lse(self) -> Tensor:
        """The derivative of a row's loss by lse, A + 2 z lse."""
        scale = self.options.lse_square_scale
        return self.mass if scale == 0 else self.mass + 2 * scale * self.lse

    def shared(self, vector: Tensor | None) -> Tensor:
        """The sum of v times a vector over the classes, or of v alone."""
        if self._target.is_floating_point():
            terms = self.share if vector is None else self.share * vector
            return terms.sum(self.dim, keepdim=True)
        of_target = self._on_target * self._target_weight
        if vector is None:
            weight = self._class_weight
            weights = self._classes if weight is None else weight.double().sum()
            return of_target + self._on_class * weights
        of_target = of_target * vector.gather(self.dim, self._inside)
        if self.options.label_smoothing == 0:
            return of_target
        return of_target + self._on_class * (self.weight * vector).sum(self.dim, keepdim=True)


def upstream_of_rows(grad_loss: Tensor | None, t: Terms) -> Tensor:
    """What each row gets of the gradient of the loss: u."""
    if grad_loss is None:
        return torch.zeros_like(t.valid, dtype=torch.float64)
    upstream = grad_loss.double()
    if t.options.reduction == MEAN:
        upstream = upstream / t.divisor
    if t.options.reduction == NONE:
        upstream = upstream.unsqueeze(t.dim)
    return torch.where(t.valid, upstream, 0)


def reduced(rows: Tensor, t: Terms) -> Tensor:
    """The reduction of rows that the loss takes, the transpose of `upstream_of_rows`."""
    rows = torch.where(t.valid, rows, 0).squeeze(t.dim)
    if t.options.reduction == NONE:
        return rows
    return rows.sum() / t.divisor if t.options.reduction == MEAN else rows.sum()


def over_rows(tensor: Tensor, t: Terms) -> Tensor:
    """The sum over all but the classes."""
    rows = [dim for dim in range(tensor.dim()) if dim != t.dim]
    return tensor.sum(rows) if rows else tensor
