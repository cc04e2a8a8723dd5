"""Cross entropy as a module, torch.nn's with the keywords of the function."""

from typing import Any

from torch import Tensor, nn

from makemore_ext.ops.cross_entropy.functional import cross_entropy
from makemore_ext.ops.tracing import as_node


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
        if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
            node = as_node(self, input, target)
            if node is not None:
                return node
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
