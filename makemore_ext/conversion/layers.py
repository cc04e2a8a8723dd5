"""One layer, which becomes this package's or torch's again: the same object, of another class."""

from typing import Any

from torch import nn

from makemore_ext.ops.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from makemore_ext.ops.cross_entropy import CrossEntropyLoss
from makemore_ext.ops.ranks import kept

# What a layer becomes, and what it then has beside torch's attributes.
_BATCH_NORM: dict[str, object] = {"correction": 0, "activation": None}
_LOSS: dict[str, object] = {"inplace_backward": False, "return_lse": False, "lse_square_scale": 0.0}
OURS: dict[type[nn.Module], tuple[type[nn.Module], dict[str, object]]] = {
    nn.BatchNorm1d: (BatchNorm1d, _BATCH_NORM),
    nn.BatchNorm2d: (BatchNorm2d, _BATCH_NORM),
    nn.BatchNorm3d: (BatchNorm3d, _BATCH_NORM),
    nn.SyncBatchNorm: (SyncBatchNorm, _BATCH_NORM),
    nn.CrossEntropyLoss: (CrossEntropyLoss, _LOSS),
}
TORCHS = {ours: (torchs, settings) for torchs, (ours, settings) in OURS.items()}
BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)


def has_forward_of_its_own(layer: nn.Module) -> bool:
    """Whether `forward` was replaced on this one layer."""
    return "forward" in vars(layer)


def has_hooks(layer: nn.Module) -> bool:
    """Whether there are hooks around forward or backward."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


def is_batch_norm(layer: nn.Module) -> bool:
    """Whether `layer` is a batch norm of whatever class."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def is_candidate(layer: nn.Module) -> bool:
    """Whether `layer` is a batch norm or a cross entropy of whatever class."""
    return is_batch_norm(layer) or isinstance(layer, nn.CrossEntropyLoss)


def why_left(layer: nn.Module, synchronised: bool = False) -> str | None:
    """What keeps a batch norm or a cross entropy from becoming this package's, None if nothing.

    With `synchronised` it is for a batch norm to become SyncBatchNorm.
    """
    kind = type(layer)
    if kind in TORCHS:
        if synchronised and not has_forward_of_its_own(layer):
            return None
        return f"{kind.__name__} is makemore_ext's already"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return f"{kind.__name__} has no parameters before its first forward"
    if kind not in OURS:
        return f"{kind.__name__} is a class of its own"
    if has_forward_of_its_own(layer):
        return f"{kind.__name__} whose forward was replaced"
    taken = [name for name in OURS[kind][1] if hasattr(layer, name)]
    if taken:
        return f"{kind.__name__} with an attribute {taken[0]} that is not torch's"
    return None


def become_ours(layer: nn.Module) -> None:
    """For a layer that nothing keeps from it, see `why_left`."""
    ours, settings = OURS[type(layer)]
    layer.__class__ = ours
    vars(layer).update(settings)


def why_not_torchs(layer: nn.Module) -> str | None:
    """What one of this package's layers has that torch's has no place for, None if nothing."""
    torchs, settings = TORCHS[type(layer)]
    for name, value in settings.items():
        if getattr(layer, name) != value:
            return (
                f"{name}={getattr(layer, name)!r}, where torch.nn.{torchs.__name__} knows "
                f"{name}={value!r} alone"
            )
    return None


def become_torchs(layer: nn.Module) -> None:
    """For a layer that nothing keeps from it, see `why_not_torchs`."""
    torchs, settings = TORCHS[type(layer)]
    if isinstance(layer, SyncBatchNorm) and layer.unsynchronised is not None:
        torchs = layer.unsynchronised
        del layer.unsynchronised, layer.process_group
    layer.__class__ = torchs
    for name in settings:
        del vars(layer)[name]


def become_synchronised(layer: nn.Module, process_group: Any) -> None:
    """For a batch norm that nothing keeps from it, see `why_left`."""
    if type(layer) not in TORCHS:
        become_ours(layer)
    if type(layer) is not SyncBatchNorm:
        torchs, _ = TORCHS[type(layer)]
        layer.__class__ = SyncBatchNorm
        vars(layer)["unsynchronised"] = torchs
    vars(layer)["process_group"] = kept(process_group)
