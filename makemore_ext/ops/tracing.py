"""Layers under torch.fx: in the graphs that it traces they stay layers, as torch's own do."""

from typing import Any

from torch import fx, nn


def as_node(layer: nn.Module, *inputs: Any) -> fx.Proxy | None:
    """A call of `layer` as one node of the graph that torch.fx traces.

    Were it traced through, what its state decides, as the mode or the count of batches, would be a
    constant of the graph. None where torch.fx traces nothing, or `layer` alone.
    """
    proxy = next((value for value in inputs if isinstance(value, fx.Proxy)), None)
    if proxy is None:
        return None
    tracer = proxy.tracer
    if not isinstance(tracer, fx.Tracer) or tracer.root is layer:
        return None
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), inputs, {})
