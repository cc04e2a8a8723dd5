"""The pictures, of the command line and of the pages. matplotlib is imported when one is drawn.

Times and errors are on logarithmic axes. Colours are those of Okabe and Ito, which colour-blind
readers can tell apart, and each has a mark of its own; ours is vermilion and filled.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS = "#D55E00"
_OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKS = ("s", "^", "D", "v", "P")

# Of the page around a picture, light and dark: background, text, lines.
_LIGHT = ("#ffffff", "#1f2328", "#c8ccd1")
_DARK = ("#131416", "#e6e6e6", "#4a4d52")


class Panel(NamedTuple):
    """What is compared in one place of a picture.

    Attributes:
        title: What was done.
        seconds: What it took each contender.
        ours: The contender that the ratios are of.
        limit: Seconds that cannot be gone below, if that is known.
        limit_name: What would take these.
    """

    title: str
    seconds: Mapping[str, float]
    ours: str
    limit: float | None = None
    limit_name: str = "limit"


@contextmanager
def style() -> Iterator[None]:
    """What is drawn and saved within looks alike, and is the same for the same data."""
    import matplotlib as mpl

    background, text, lines = _LIGHT
    settings: Any = {
        "figure.facecolor": background,
        "savefig.facecolor": background,
        "axes.facecolor": background,
        "axes.edgecolor": lines,
        "axes.labelcolor": text,
        "axes.titlecolor": text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "font.size": 9,
        "grid.color": lines,
        "grid.linewidth": 0.5,
        "legend.frameon": False,
        "legend.labelcolor": text,
        "text.color": text,
        "xtick.color": text,
        "ytick.color": text,
        "svg.hashsalt": "makemore_ext",
    }
    with mpl.rc_context(settings):
        yield


def save(figure: "Figure", path: str, description: str = "") -> None:
    """Write the figure in the format that the path ends in.

    Args:
        figure: Drawn within the same `style`.
        path: Of a new file.
        description: Kept in the metadata of an SVG.
    """
    if path.endswith(".svg"):
        Path(path).write_text(svg(figure, description), encoding="utf-8")
    else:
        figure.savefig(path, dpi=150)


def svg(figure: "Figure", description: str = "") -> str:
    """The figure as an SVG that follows its reader to a dark page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Description": description})
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in zip(_LIGHT, _DARK, strict=True)
        for name in ("fill", "stroke")
    )
    rules = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    head, defs, rest = buffer.getvalue().partition("<defs>")
    return f"{head}{rules}{defs}{rest}"


def duration(seconds: float) -> str:
    """Three digits with their unit, as 23.1 µs."""
    units = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}
    unit, size = next(((u, size) for u, size in units.items() if seconds >= size), ("ns", 1e-9))
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"


def speeds(panels: Sequence[Panel], *, columns: int = 1) -> "Figure":
    """A row for each contender, its time and how many times that of ours it is."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / columns)
    most = max(len(panel.seconds) for panel in panels)
    figure = Figure(
        figsize=(8 if columns == 1 else 4.6 * columns, rows * (1.0 + 0.3 * most)),
        layout="constrained",
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        _speed_rows(axes, panel)
    return figure


def _speed_rows(axes: "Axes", panel: Panel) -> None:
    ours = panel.seconds[panel.ours]
    places = range(len(panel.seconds))
    for place, (name, seconds) in zip(places, panel.seconds.items(), strict=True):
        is_ours = name == panel.ours
        axes.plot(seconds, place, "o" if is_ours else "s", color=OURS if is_ours else _OTHERS[0])
        ratio = "" if is_ours else f" · {seconds / ours:.3g}×"
        axes.annotate(
            duration(seconds) + ratio,
            (seconds, place),
            xytext=(7, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontweight="bold" if is_ours else "normal",
        )
    times = [*panel.seconds.values(), *([] if panel.limit is None else [panel.limit])]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.5, max(times) * 12)  # room for what stands right of a mark
    if panel.limit is not None:
        axes.axvline(panel.limit, color="gray", linestyle=":")
        axes.annotate(
            f" {panel.limit_name}, {duration(panel.limit)}",
            (panel.limit, len(panel.seconds) - 0.45),
            color="gray",
            fontsize=8,
        )
    axes.set_ylim(len(panel.seconds) - 0.3, -0.7)
    axes.set_yticks(places, list(panel.seconds))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    _time_ticks(axes.xaxis)
    axes.set_title(panel.title)


class Series(NamedTuple):
    """Seconds for each size, of one contender.

    Attributes:
        seconds: By size, in increasing order.
        ours: Whether it is this package.
        is_limit: Whether it is what cannot be gone below.
    """

    seconds: Mapping[float, float]
    ours: bool = False
    is_limit: bool = False


def against_size(panels: Mapping[str, Mapping[str, Series]], size_name: str) -> "Figure":
    """Time against size, a line for each contender; a panel for each key.

    At each mark of ours stands by how much the fastest of the others is slower.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(4.4 * len(panels), 13), 4), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=True):
        for name, series in panel.items():
            index = names.index(name) % len(_MARKS)
            style: dict[str, Any] = {"color": _OTHERS[index], "marker": _MARKS[index]}
            if series.ours:
                style = {"color": OURS, "marker": "o", "linewidth": 2, "zorder": 3}
            if series.is_limit:
                style = {"color": "gray", "linestyle": ":"}
            sizes, seconds = zip(*sorted(series.seconds.items()), strict=True)
            label = f"{name}; ×: the next is slower" if series.ours else name
            axes.plot(sizes, seconds, label=label, markersize=5, **style)
            if series.ours:
                _write_ratios(axes, series, [s for s in panel.values() if not s.is_limit])
        axes.set(xscale="log", yscale="log", xlabel=size_name)
        axes.grid()
        axes.set_title(title)
        _time_ticks(axes.yaxis)
    grid.flat[0].set_ylabel("time a call")
    figure.legend(
        *grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names)
    )
    return figure


def losses(
    training: Sequence[float],
    *,
    validation: Mapping[int, float] | None = None,
    drop: int | None = None,
    title: str = "",
) -> "Figure":
    """The loss of every step and its running mean; validation losses by step; a drop of the rate.

    Args:
        training: Losses of minibatches in nats, from the first step on.
        validation: The loss after some numbers of steps.
        drop: The step from which the learning rate is lower.
        title: Of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    window = max(1, len(training) // 100)
    every = max(1, len(training) // 5000)  # as many points as can be told apart
    steps = range(1, len(training) + 1, every)
    axes.plot(
        steps, training[::every], ".", color="gray", alpha=0.25, markersize=2, label="minibatch"
    )
    ends = range(window, len(training) + 1, window)
    means = [math.fsum(training[end - window : end]) / window for end in ends]
    axes.plot(ends, means, color=OURS, linewidth=2, label=f"mean of {window:,} steps")
    if validation:
        axes.plot(
            list(validation), list(validation.values()), "s-", color=_OTHERS[0], label="validation"
        )
    if drop is not None and 0 < drop < len(training):
        axes.axvline(drop, color=_OTHERS[1], linestyle="--", label="rate drops")
    axes.set(xlabel="step", ylabel="loss in nats", title=title)
    finite = [value for value in means if math.isfinite(value)]
    if finite:  # outliers of single minibatches are cut off
        low, high = min(finite), max(finite)
        axes.set_ylim(low - 0.3 * (high - low) - 0.1, high + 0.15 * (high - low) + 0.1)
    axes.grid()
    axes.legend()
    return figure


def _write_ratios(axes: "Axes", ours: Series, contenders: Sequence[Series]) -> None:
    others = [series.seconds for series in contenders if series is not ours]
    last = 0.0
    for size, seconds in sorted(ours.seconds.items()):
        fastest = min((known[size] for known in others if size in known), default=None)
        if fastest is not None and size > 2.5 * last:  # else one would stand on the other
            last = size
            axes.annotate(
                f"{fastest / seconds:.2g}×",
                (size, seconds),
                xytext=(0, -12),
                textcoords="offset points",
                horizontalalignment="center",
                fontsize=7,
                color=OURS,
            )


class Error(NamedTuple):
    """How far something may be from float64's value.

    Attributes:
        name: What was computed.
        ours: The error of this package, in roundings of the dtype.
        theirs: That of torch.
    """

    name: str
    ours: float
    theirs: float


def errors(panels: Mapping[str, Sequence[Error]], unit: str) -> "Figure":
    """Our error and torch's on one line for each row; a panel, of the same rows, for each key."""
    from matplotlib.figure import Figure

    most = max(map(len, panels.values()))
    figure = Figure(figsize=(2.6 + 3 * len(panels), 1.4 + 0.24 * most), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    for axes, (title, rows) in zip(grid.flat, panels.items(), strict=True):
        places = range(len(rows))
        ours, theirs = [row.ours for row in rows], [row.theirs for row in rows]
        axes.axvline(0.5, color="gray", linestyle=":", label="rounded once")
        axes.hlines(places, ours, theirs, "gray", linewidth=1)
        axes.plot(theirs, places, "s", color=_OTHERS[0], label="torch")
        axes.plot(ours, places, "o", color=OURS, label="makemore_ext")
        axes.set_xscale("log")
        axes.set_yticks(places, [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_title(title)
    figure.supxlabel(unit, fontsize=9)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def magnitudes(rows: Mapping[str, tuple[float, float]], eps: float) -> "Figure":
    """A row for each gradient: its largest element, and its largest difference from autograd's.

    Args:
        rows: (largest element, largest difference) by name.
        eps: Of the dtype.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.22 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = range(len(rows))
    sizes = [size for size, _ in rows.values()]
    differences = [difference or math.nan for _, difference in rows.values()]  # 0 has no logarithm
    axes.plot(sizes, places, "s", color=_OTHERS[0], label="largest element")
    rounding = [size * eps for size in sizes]
    axes.plot(rounding, places, "|", color="gray", markersize=10, label="that times eps")
    axes.plot(differences, places, "o", color=OURS, label="largest difference")
    names = [name if difference else f"{name} (equal)" for name, (_, difference) in rows.items()]
    axes.set_xscale("log")
    axes.set_yticks(places, names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _time_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axis.set_minor_formatter(NullFormatter())
