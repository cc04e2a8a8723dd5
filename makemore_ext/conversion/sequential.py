"""An nn.Sequential whose batch norms apply the activation that follows them.

Its layers stay what they are, batch norm and activation, for whoever else looks at them or calls
them: a list that holds them too, a hook that comes later, a pass of torch's that puts another layer
in the place of one of them.
"""

from itertools import pairwise
from typing import Any

from torch import fx, nn
from torch.nn.modules.module import _has_any_global_hook

from makemore_ext.conversion.layers import BATCH_NORMS, has_forward_of_its_own, has_hooks

ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


def why_apart(norm: Any, following: nn.Module | None) -> str | None:
    """What keeps a batch norm of this package from applying the layer after it, None if nothing."""
    if following is None:
        return "it is the last layer of its nn.Sequential"
    name = type(following).__name__
    if type(following) not in ACTIVATIONS:
        return f"{name} follows it, neither Tanh nor ReLU"
    if norm.activation is not None:
        return f"it applies {norm.activation} already"
    if has_hooks(norm) or has_hooks(following):
        return f"there are hooks on it or on the {name} that follows"
    if has_forward_of_its_own(norm) or has_forward_of_its_own(following):
        return f"its forward, or that of the {name} that follows, was replaced"
    if norm._compiled_call_impl is not None or following._compiled_call_impl is not None:
        return f"it, or the {name} that follows, was compiled by itself"
    return None


class FusedSequential(nn.Sequential):
    """`torch.nn.Sequential`, in which a batch norm and the Tanh or ReLU after it are one call.

    Which they are is seen at each call: both exactly of their classes, without hooks, and neither
    with a forward of its own nor compiled by itself. `convert(..., fuse_activations=True)` makes it
    of an nn.Sequential.
    """

    def forward(self, input: Any) -> Any:
        if _has_any_global_hook() or isinstance(input, fx.Proxy):
            return super().forward(input)
        is_applied = False
        layers: list[Any] = [*self._modules.values(), None]
        for layer, following in pairwise(layers):
            if is_applied:
                is_applied = False
            elif type(layer) in BATCH_NORMS and why_apart(layer, following) is None:
                input = layer.forward_with(input, ACTIVATIONS[type(following)])
                is_applied = True
            else:
                input = layer(input)
        return input
