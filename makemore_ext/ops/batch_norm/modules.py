"""Batch norm as modules, torch.nn's with the keywords of the function."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from makemore_ext._native import autograd
from makemore_ext.ops.batch_norm.checks import check_keywords
from makemore_ext.ops.batch_norm.functional import dispatch
from makemore_ext.ops.batch_norm.sync import sync_batch_norm
from makemore_ext.ops.ranks import is_distributed, kept
from makemore_ext.ops.tracing import as_node


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the three modules share: torch's own, with the forward pass of `batch_norm`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        correction: int = 0,
        activation: str | None = None,
        **options: Any,
    ) -> None:
        check_keywords(correction, activation)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **options
        )
        self.correction = correction
        self.activation = activation

    def extra_repr(self) -> str:
        extra = super().extra_repr()
        if self.correction != 0:
            extra += f", correction={self.correction}"
        return extra if self.activation is None else f"{extra}, activation={self.activation!r}"

    def forward(self, input: Tensor) -> Tensor:
        return self.forward_with(input, self.activation)

    def forward_with(self, input: Tensor, activation: str | None) -> Tensor:
        """The forward pass, with another activation than the layer's own."""
        if not isinstance(input, Tensor):
            node: Any = as_node(self, input)
            if node is not None:
                return node
        if isinstance(input, (Tensor, fx.Proxy)):
            self._check_input_dim(input)
        arguments = self._arguments(input, activation)
        if autograd is not None and not torch.compiler.is_compiling():
            output = autograd.batch_norm(*arguments)
            if output is not NotImplemented:
                return output
        if isinstance(input, Tensor) and input.is_quantized:
            raise NotImplementedError(
                f"input must not be quantized, got {input.dtype}: makemore_ext.revert() makes this "
                "layer torch's, which can be quantized"
            )
        return dispatch(*arguments)

    def _arguments(self, input: Tensor, activation: str | None) -> tuple[Any, ...]:
        """What `dispatch` is called with."""
        running_mean, running_var = self.running_mean, self.running_var
        training = self.training or (running_mean is None and running_var is None)
        momentum, counted = self.momentum, None
        if self.training:
            if self.track_running_stats:
                counted = self.num_batches_tracked
            else:
                running_mean = running_var = None
        if momentum is None:  # the mean over all batches so far
            momentum = 0.0 if counted is None else 1.0 / (float(counted) + 1.0)
        return (
            input,
            running_mean,
            running_var,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
            self.correction,
            activation,
            counted,
        )


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on the fused kernels: input [N, C] or [N, C, L].

    The constructor takes torch's arguments, and `correction` and `activation` of `batch_norm`
    beside them. Parameters, buffers and state_dict are torch's.
    """


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on the fused kernels: input [N, C, H, W]; see `BatchNorm1d`."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` on the fused kernels: input [N, C, D, H, W]; see `BatchNorm1d`."""


class SyncBatchNorm(_BatchNorm):
    """Batch norm of a batch that is spread over processes, `torch.nn.SyncBatchNorm`'s in its place.

    The constructor takes torch's arguments, and `correction` and `activation` of `batch_norm`
    beside them; `process_group` is `sync_batch_norm`'s `group`. Input [N, C, d1, ...] of any
    number of dimensions, on the CPU too. Where torch.distributed is not initialized, and in
    evaluation, it is batch norm of one process. It is no subclass of torch's, which
    DistributedDataParallel refuses on the CPU.
    """

    unsynchronised: type[nn.Module] | None = None  # torch's class of what was made this one

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        correction: int = 0,
        activation: str | None = None,
    ) -> None:
        super().__init__(
            *(num_features, eps, momentum, affine, track_running_stats, device, dtype),
            correction=correction,
            activation=activation,
        )
        self.process_group = kept(process_group)

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Makes every batch norm of `module` one of this class.

        Those of torch's and of this package, each the same object, with its parameters, buffers and
        settings. `revert` makes them again what they were.

        Args:
            module: the model, or one layer.
            process_group: whose ranks share a batch; None for all.

        Returns:
            `module`, the same object.

        Raises:
            TypeError: `module` is not an nn.Module.
            ValueError: a batch norm is of another class, or its `forward` was replaced. Nothing is
                changed then.
        """
        from makemore_ext.conversion.swapping import synchronise  # which needs this class

        return synchronise(module, process_group)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def forward_with(self, input: Tensor, activation: str | None) -> Tensor:
        if not (self.training and isinstance(input, Tensor) and is_distributed()):
            return super().forward_with(input, activation)
        self._check_input_dim(input)
        *arguments, correction, activation, counted = self._arguments(input, activation)
        output = sync_batch_norm(
            *arguments, group=self.process_group, correction=correction, activation=activation
        )
        if counted is not None:
            counted.add_(1)
        return output
