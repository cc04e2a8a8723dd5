"""torch's functions that make another layer out of a batch norm.

They read the attributes they know, of which `correction` and `activation` are none, and the batch
norm has no say in it. So they ask here first, and refuse what they would lose.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.utils.fusion
from torch import nn

from makemore_ext.conversion.layers import BATCH_NORMS


def _refuse(name: str, module: nn.Module, allowed: dict[str, object]) -> None:
    """Raises ValueError where a batch norm in `module` has other settings than these."""
    for path, layer in module.named_modules():
        if not isinstance(layer, BATCH_NORMS):
            continue
        for setting, value in allowed.items():
            if getattr(layer, setting) != value:
                raise ValueError(
                    f"{name} makes a layer of torch's, which has no {setting}: that of "
                    f"{type(layer).__name__} {path or '(the module itself)'} must be {value}, "
                    f"got {getattr(layer, setting)!r}"
                )


def _keep_sync_batch_norm() -> None:
    """Training goes on after this one, so that `correction` matters too."""
    original = vars(nn.SyncBatchNorm)["convert_sync_batchnorm"].__func__

    @functools.wraps(original)
    def convert_sync_batchnorm(cls: type, module: Any, process_group: Any = None) -> Any:
        _refuse(
            "SyncBatchNorm.convert_sync_batchnorm", module, {"correction": 0, "activation": None}
        )
        return original(cls, module, process_group)

    asking: Any = classmethod(convert_sync_batchnorm)
    nn.SyncBatchNorm.convert_sync_batchnorm = asking  # type: ignore[method-assign]


def _keep_fusion(name: str) -> None:
    """It is for evaluation, where `correction` has no effect."""
    original: Callable[..., Any] = getattr(torch.nn.utils.fusion, name)

    @functools.wraps(original)
    def fuse(*arguments: Any, **options: Any) -> Any:
        bn = inspect.signature(original).bind(*arguments, **options).arguments["bn"]
        _refuse(name, bn, {"activation": None})
        return original(*arguments, **options)

    for module in (torch.nn.utils.fusion, torch.nn.utils):
        setattr(module, name, fuse)


_keep_sync_batch_norm()
_keep_fusion("fuse_conv_bn_eval")
_keep_fusion("fuse_linear_bn_eval")
