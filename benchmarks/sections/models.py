"""Whole models before and after they are converted."""

from typing import Any

import measure
import models

from sections.prose import table, where


def converted(result: dict[str, Any]) -> str:
    """What `convert` did to a model, in a sentence."""
    size = "×".join(map(str, result["input"]))
    swaps = ", ".join(f"{count} × {what}" for what, count in result["swapped"].items())
    norms = f"; {result['fused']} batch norms apply the ReLU that follows"
    fused = norms if result["fused"] else ""
    return (
        f"{result['model']} ({result['description']}; {result['parameters']:,} parameters; input "
        f"{size}): {swaps}{fused}."
    )


def of_models() -> str:
    """A training step of whole models."""
    record = measure.load("models")
    results = record["results"]
    said = dict.fromkeys(map(converted, results))
    difference = max(result["loss_difference"] for result in results)
    return f"""\
## Whole models

A training step before and after `mx.convert(model, fuse_activations=True)`: forward, loss,
backward, an update by SGD with momentum, and the gradients dropped. Where it is compiled,
torch.compile has the model with its loss; the update is eager throughout. float32, every step on
the same minibatch.
What is converted: {" ".join(said)} All else is torch's own. By `python benchmarks/models.py`, in
[models.json](results/models.json). {where(record)}.

{table([models.summary(result) for result in results])}

"The faster" is the faster of eager and compiled, on either side. torch.compile fuses nothing into
an operator of this package, as it does into torch's batch norm and loss. The losses of the first
{record["compared_steps"]} steps agree within {difference:.1e} of them, measured before the times.
"""
