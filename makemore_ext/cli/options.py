"""The options that several commands share, and the types of their values."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from makemore_ext._parameters import SEED

F = TypeVar("F", bound=Callable[..., Any])

PLOT_FORMATS = (".pdf", ".png", ".svg")


class OutputFile(click.Path):
    """A file that can be written, as is known before the work that fills it begins."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(dir_okay=False, writable=True, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, or a usage error saying what keeps it from being written."""
        path = os.fsdecode(super().convert(value, param, ctx))
        folder = Path(path).parent
        if path == "-" and self.allow_dash:
            return path
        if not folder.is_dir():
            self.fail(f"must be in a folder that exists, got '{path}'.", param, ctx)
        if not Path(path).exists() and not os.access(folder, os.W_OK):
            self.fail(f"must be in a folder that can be written to, got '{path}'.", param, ctx)
        return path


class PlotFile(OutputFile):
    """An output file with a picture, of one of `formats`, where matplotlib is installed."""

    def __init__(self, formats: tuple[str, ...] = PLOT_FORMATS) -> None:
        super().__init__()
        self.formats = formats

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path, or a usage error."""
        path = super().convert(value, param, ctx)
        if not path.endswith(self.formats):
            allowed = "one of " if len(self.formats) > 1 else ""
            allowed += ", ".join(self.formats)
            self.fail(f"must end in {allowed}, got '{path}'.", param, ctx)
        if importlib.util.find_spec("matplotlib") is None:
            self.fail("matplotlib is missing: pip install 'makemore_ext[cli]'", param, ctx)
        return path


class DType(click.Choice):
    """A floating-point type of torch, by its name."""

    def __init__(self) -> None:
        super().__init__(["float32", "float64"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The torch.dtype, or a usage error with the names."""
        return getattr(torch, super().convert(value, param, ctx))


seed_type = click.IntRange(0, 2**32 - 1)
SAMPLE_SEED = SEED + 10  # the notebook's

data = click.option(
    "--data", metavar="FILE", help="Names, one a line.  [default: the built-in list]"
)
dtype = click.option("--dtype", type=DType(), default="float32", help="Type of the parameters.")
json_file = click.option(
    "--json",
    "json_file",
    type=OutputFile(allow_dash=True),
    metavar="FILE",
    help="Write the results as JSON to a file, or to stdout for -.",
)
lr = click.option(
    "--lr", type=click.FloatRange(min=0), metavar="X", default=0.1, help="Learning rate."
)
plot_file = click.option(
    "--plot",
    "plot_file",
    type=PlotFile(),
    metavar="FILE",
    help=f"Write a plot, in the format of the ending: {', '.join(PLOT_FORMATS)}.",
)
seed = click.option(
    "--seed",
    type=seed_type,
    metavar="N",
    default=SEED,
    help="Seed of the network and the minibatches.",
)


def batch_size(minimum: int = 2) -> Callable[[F], F]:
    """The option for the size of a minibatch; batch norm needs 2 for a variance."""
    return click.option(
        "--batch-size",
        type=click.IntRange(minimum),
        metavar="N",
        default=32,
        help="Windows in a minibatch.",
    )


def hidden(default: int) -> Callable[[F], F]:
    """The option for the size of the hidden layer."""
    return click.option(
        "--hidden",
        type=click.IntRange(min=1),
        metavar="N",
        default=default,
        help="Neurons in the hidden layer.",
    )


def threads(default: int | None = None) -> Callable[[F], F]:
    """The option for torch's number of threads, which is set as the option is read."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        default=default,
        callback=_set_threads,
        expose_value=False,
        help="Threads of torch." + ("" if default else "  [default: torch's choice]"),
    )


def _set_threads(ctx: click.Context, param: click.Parameter, count: int | None) -> None:
    if count is not None:
        torch.set_num_threads(count)
