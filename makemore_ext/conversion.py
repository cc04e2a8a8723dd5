"""Swapping torch.nn layers of a model for this package's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from makemore_ext.ops.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from makemore_ext.ops.cross_entropy import CrossEntropyLoss

# What a layer becomes, and the attributes that its new class has beside torch's.
_BATCH_NORM: dict[str, object] = {"correction": 0, "activation": None}
_LOSS: dict[str, object] = {"inplace_backward": False, "return_lse": False, "lse_square_scale": 0.0}
REPLACEMENTS: dict[type[nn.Module], tuple[type[nn.Module], dict[str, object]]] = {
    nn.BatchNorm1d: (BatchNorm1d, _BATCH_NORM),
    nn.BatchNorm2d: (BatchNorm2d, _BATCH_NORM),
    nn.BatchNorm3d: (BatchNorm3d, _BATCH_NORM),
    nn.CrossEntropyLoss: (CrossEntropyLoss, _LOSS),
}
ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


@dataclass
class ConversionReport:
    """What `convert` did, by the names of `named_modules()`; the root's is ""."""

    swapped: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{kind} {name or '(the module itself)'}: {what}"
            for kind in ("swapped", "fused", "skipped")
            for name, what in getattr(self, kind).items()
        ]
        return "\n".join(lines) or "nothing to convert"


def convert(
    module: nn.Module,
    *,
    fuse_activations: bool = False,
    on_report: Callable[[ConversionReport], object] | None = None,
) -> nn.Module:
    """Swaps the BatchNorm1d, 2d, 3d and CrossEntropyLoss layers of a model for this package's.

    A layer keeps everything it has: parameters and buffers (the same objects, so that an optimizer
    stays right), hooks, training flag, place in shared modules. The names of the state_dict stay.
    Only layers of exactly these classes are swapped: a subclass may compute something else.

    Args:
        module: the model, or one layer. Its layers are replaced in place.
        fuse_activations: where an nn.Tanh or nn.ReLU directly follows a batch norm inside an
            nn.Sequential, the batch norm applies it and an nn.Identity takes its place. Hooks of
            either module would see other tensors: a pair with hooks is left alone. A model that
            takes the batch norm alone out of the nn.Sequential must not ask for this.
        on_report: called with the `ConversionReport`; `on_report=print` shows what was done.

    Returns:
        `module`, or the layer that replaces it where it is one itself.

    Raises:
        TypeError: `module` is not an nn.Module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module, got {type(module).__name__}")
    report = ConversionReport()
    replaced: dict[int, nn.Module] = {}
    for name, found in list(module.named_modules()):
        new = _replacement(name, found, report)
        if new is not None:
            replaced[id(found)] = new
    for parent in list(module.modules()):
        for child_name, child in parent._modules.items():
            if child is not None and id(child) in replaced:
                parent._modules[child_name] = replaced[id(child)]
    result = replaced.get(id(module), module)
    if fuse_activations:
        _fuse(result, report)
    if on_report is not None:
        on_report(report)
    return result


def _replacement(name: str, found: nn.Module, report: ConversionReport) -> nn.Module | None:
    kind = type(found)
    if kind in REPLACEMENTS:
        new_kind, extra = REPLACEMENTS[kind]
        if "forward" in vars(found) or found._compiled_call_impl is not None:
            report.skipped[name] = f"{kind.__name__} whose forward was replaced or compiled"
            return None
        new = new_kind.__new__(new_kind)
        vars(new).update(vars(found))  # parameters, buffers, hooks and options, as they are
        vars(new).update(extra)
        report.swapped[name] = f"{kind.__name__} by makemore_ext.{new_kind.__name__}"
        return new
    ours = tuple(new_kind for new_kind, _ in REPLACEMENTS.values())
    if (
        isinstance(found, (nn.modules.batchnorm._BatchNorm, nn.CrossEntropyLoss))
        and kind not in ours
    ):
        report.skipped[name] = f"{kind.__name__} is a class of its own"
    return None


def _fuse(module: nn.Module, report: ConversionReport) -> None:
    """Makes each batch norm apply the activation that follows it in a Sequential."""
    uses: dict[int, int] = {}
    for parent in module.modules():
        for child in parent._modules.values():
            uses[id(child)] = uses.get(id(child), 0) + 1
    for name, parent in module.named_modules():
        if type(parent) is not nn.Sequential:
            continue
        children = list(parent._modules.items())
        for (norm_name, norm), (activation_name, activation) in pairwise(children):
            if not isinstance(norm, (BatchNorm1d, BatchNorm2d, BatchNorm3d)):
                continue
            if type(activation) not in ACTIVATIONS or norm.activation is not None:
                continue
            path = f"{name}.{norm_name}" if name else norm_name
            if uses[id(norm)] > 1:
                report.skipped[path] = "not fused: the batch norm is used elsewhere too"
            elif _has_hooks(norm) or _has_hooks(activation):
                report.skipped[path] = "not fused: there are hooks"
            else:
                norm.activation = ACTIVATIONS[type(activation)]
                identity = nn.Identity()
                identity.train(activation.training)
                parent._modules[activation_name] = identity
                report.fused[path] = f"{type(activation).__name__} {activation_name}"


def _has_hooks(module: nn.Module) -> bool:
    return any(
        hooks
        for name, hooks in vars(module).items()
        if name.endswith("_hooks") and "forward" in name
    ) or bool(module._backward_hooks or module._backward_pre_hooks)
