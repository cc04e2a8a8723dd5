"""The plots. matplotlib is imported here only, when a plot is asked for."""

import math
import sys
from collections.abc import Mapping, Sequence


def loss_curve(path: str, losses: Sequence[float], title: str) -> None:
    """Write log10 of the loss over the steps, averaged over at most 100 equal windows."""
    from matplotlib.figure import Figure

    window = math.ceil(len(losses) / 100)
    steps = range(window, len(losses) + 1, window)
    logs = [math.log10(max(loss, sys.float_info.min)) for loss in losses]
    means = [sum(logs[end - window : end]) / window for end in steps]

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, means)
    axes.set(title=title, xlabel="step", ylabel=f"log10 loss, mean of {window} steps")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def speed_bars(path: str, milliseconds: Mapping[str, float], title: str) -> None:
    """Write one horizontal bar for each backend's milliseconds a step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.5 * len(milliseconds)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(milliseconds), list(milliseconds.values()))
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=title, xlabel="ms a step (median)")
    figure.savefig(path, dpi=150)
