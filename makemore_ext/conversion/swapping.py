"""`convert` and `revert`, over the layers of a model."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from makemore_ext.conversion.calls import torch_calls
from makemore_ext.conversion.layers import (
    BATCH_NORMS,
    TORCHS,
    become_ours,
    become_synchronised,
    become_torchs,
    has_forward_of_its_own,
    is_batch_norm,
    is_candidate,
    why_left,
    why_not_torchs,
)
from makemore_ext.conversion.report import ConversionReport
from makemore_ext.conversion.sequential import FusedSequential, why_apart


class _Unchanged:
    """The default of an argument of which None is a value."""

    def __repr__(self) -> str:
        return "<each process by itself>"


UNCHANGED = _Unchanged()


def convert(
    module: nn.Module,
    *,
    fuse_activations: bool = False,
    process_group: Any = UNCHANGED,
    on_report: Callable[[ConversionReport], object] | None = None,
) -> nn.Module:
    """Makes the BatchNorm1d, 2d, 3d, SyncBatchNorm and CrossEntropyLoss layers of a model ours.

    A layer stays the same object and keeps everything it has: its class alone changes. The names of
    the state_dict stay. Left alone are subclasses, which may compute something else, and layers
    whose `forward` was replaced. `revert` is the way back.

    Args:
        module: the model, or one layer.
        fuse_activations: where an nn.Tanh or nn.ReLU directly follows a batch norm inside an
            nn.Sequential, the nn.Sequential calls both as one kernel. Each layer stays where it is,
            and works alone where something else calls it. Two layers of which one has hooks, or a
            `forward` that was replaced, are called one by one.
        process_group: makes the batch norms `SyncBatchNorm` of this group of torch.distributed,
            None for all ranks. Where it is not given each stays of one process, and torch's
            SyncBatchNorm of its own group.
        on_report: called with the `ConversionReport`; `on_report=print` shows what was found, what
            was done, and what was left and why.

    Returns:
        `module`, the same object.

    Raises:
        TypeError: `module` is not an nn.Module, or `on_report` cannot be called.
    """
    _check_module(module)
    if on_report is not None and not callable(on_report):
        raise TypeError(f"on_report must be None or callable, got {type(on_report).__name__}")
    report = ConversionReport(modules=len(list(module.modules())), calls=torch_calls(module))
    for name, layer in module.named_modules():
        if not is_candidate(layer):
            continue
        synchronised = process_group is not UNCHANGED and is_batch_norm(layer)
        why = why_left(layer, synchronised)
        if why is not None:
            report.skipped[name] = why
            continue
        before = type(layer).__name__
        if synchronised:
            become_synchronised(layer, process_group)
        else:
            become_ours(layer)
        report.swapped[name] = f"{before} by makemore_ext.{type(layer).__name__}"
    if fuse_activations:
        _fuse(module, report)
    if on_report is not None:
        on_report(report)
    return module


def revert(module: nn.Module) -> nn.Module:
    """Makes this package's layers of a model torch's again, the same objects: undoes `convert`.

    Layers that were this package's from the start become torch's too; subclasses of them are left
    alone.

    Args:
        module: the model, or one layer.

    Returns:
        `module`, the same object.

    Raises:
        TypeError: `module` is not an nn.Module.
        ValueError: a layer has a setting that torch's has no place for, as `correction=1` or an
            `activation` of its own, or its `forward` was replaced. Nothing is changed then.
    """
    _check_module(module)
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if type(layer) in TORCHS or type(layer) is FusedSequential
    ]
    for name, layer in layers:
        why = why_not_torchs(layer) if type(layer) in TORCHS else None
        if has_forward_of_its_own(layer):
            why = "a forward that was replaced, perhaps around this package's"
        if why is not None:
            raise ValueError(
                f"module must have no layer that cannot be torch's, got {type(layer).__name__} "
                f"{name or '(the module itself)'} with {why}"
            )
    for _, layer in layers:
        if type(layer) in TORCHS:
            become_torchs(layer)
        else:
            layer.__class__ = nn.Sequential
    return module


def _check_module(module: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")


def synchronise(module: nn.Module, process_group: Any) -> nn.Module:
    """What `SyncBatchNorm.convert_sync_batchnorm` says."""
    _check_module(module)
    norms = [(name, layer) for name, layer in module.named_modules() if is_batch_norm(layer)]
    for name, layer in norms:
        why = why_left(layer, synchronised=True)
        if why is not None:
            raise ValueError(
                "module must have no batch norm that cannot be synchronised, got "
                f"{name or '(the module itself)'}: {why}"
            )
    for _, layer in norms:
        become_synchronised(layer, process_group)
    return module


def _fuse(module: nn.Module, report: ConversionReport) -> None:
    """Makes each nn.Sequential with a batch norm before an activation a `FusedSequential`."""
    why: dict[int, str] = {}
    fused: dict[int, str] = {}
    for parent in module.modules():
        for norm, following, follower in _norms(parent):
            apart = _why_not_in(parent) or why_apart(norm, following)
            if apart is None:
                parent.__class__ = FusedSequential
                fused[id(norm)] = f"{type(following).__name__} {follower}"
            else:
                why.setdefault(id(norm), apart)
    for name, norm in module.named_modules():
        if type(norm) not in BATCH_NORMS:
            continue
        if id(norm) in fused:
            report.fused[name] = fused[id(norm)]
        else:
            report.unfused[name] = why.get(id(norm), "it is in no nn.Sequential")


def _norms(parent: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None, str]]:
    """This package's batch norms in `parent`, each with the layer that follows and its name."""
    children = [*parent._modules.items(), ("", None)]
    for (_, layer), (name, following) in pairwise(children):
        if layer is not None and type(layer) in BATCH_NORMS:
            yield layer, following, name


def _why_not_in(parent: nn.Module) -> str | None:
    """What keeps the layers of `parent` from being called together, None if nothing."""
    if type(parent) not in (nn.Sequential, FusedSequential):
        return f"it is in {type(parent).__name__}, no nn.Sequential"
    if has_forward_of_its_own(parent):
        return "the forward of its nn.Sequential was replaced"
    return None
