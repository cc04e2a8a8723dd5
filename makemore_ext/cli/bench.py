"""`makemore-ext bench`: the kernels beside torch's."""

import json
import os
import re
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.progress import track

from makemore_ext.bench import OPERATIONS, QUESTIONS, SHAPES, bench, changes, ratios
from makemore_ext.cli import options, output
from makemore_ext.plots import duration

DTYPES = ("float32", "bfloat16", "float16")


class Shape(click.ParamType):
    """Sizes with an x between them, as 4096x1000."""

    name = "shape"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The sizes, or a usage error."""
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", value):
            self.fail(
                f"must be two sizes or more with an x between them, got {value!r}.", param, ctx
            )
        return tuple(map(int, value.split("x")))


Measured = list[dict[str, Any]]


class ResultFile(click.Path):
    """What --all --json wrote."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What was measured, or a usage error."""
        path = os.fsdecode(super().convert(value, param, ctx))
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))["questions"]
        except (ValueError, KeyError, TypeError):
            self.fail(f"must be a file of bench --all --json, got '{path}'.", param, ctx)


@click.command("bench")
@click.option(
    "--operation",
    "operations",
    type=click.Choice([*OPERATIONS]),
    multiple=True,
    default=["cross_entropy", "batch_norm"],
    help="May be given again.",
)
@click.option(
    "--shape",
    "shapes",
    type=Shape(),
    metavar="NxC[x...]",
    multiple=True,
    help="Of the input; may be given again.  [default: some of each operation]",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", help="Type of the input.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    help="In each all take turns.  [default: 11; 51 of --all without --quick]",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where to measure."
)
@click.option("--all", "all_questions", is_flag=True, help="Every operation and the training step.")
@click.option("--quick", is_flag=True, help="With --all: fewer rounds, in less than two minutes.")
@click.option(
    "--compare",
    "compared",
    type=ResultFile(),
    nargs=2,
    metavar="OLD NEW",
    help="Measure nothing: say what changed between two files of --all --json.",
)
@options.json_file
@options.threads()
def bench_command(
    operations: list[str],
    shapes: list[tuple[int, ...]],
    dtype: str,
    rounds: int | None,
    device: str,
    all_questions: bool,
    quick: bool,
    compared: tuple[Measured, Measured] | None,
    json_file: str | None,
) -> None:
    """Measure the kernels beside torch's: forward and backward.

    A copy of the input, which moves every element twice, tells what memory allows. --all measures
    on the CPU what there is an answer for, small and large; its files can be compared.
    """
    if compared is not None:
        _print_changes(*compared)
        return
    if all_questions:
        _measure_all(rounds or (11 if quick else 51), json_file)
        return
    rounds = rounds or 11
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device must be cpu where torch finds no CUDA device, got cuda.")
    rows, measured = [], []
    for operation in operations:
        for shape in shapes or SHAPES[operation]:
            seconds = bench(operation, shape, getattr(torch, dtype), rounds, device)
            measured.append({"operation": operation, "shape": shape, "seconds": seconds})
            rows.append(
                (
                    operation,
                    "x".join(map(str, shape)),
                    *(f"{seconds[name] * 1e3:.3f}" for name in seconds),
                    f"{seconds['torch'] / seconds['makemore_ext']:.2f} ×",
                    f"{seconds['makemore_ext'] / seconds['copy']:.1f}",
                )
            )
    console = output.results(json_file)
    output.print_table(
        console,
        rows,
        title=f"Forward and backward, {dtype}, median of {rounds} rounds",
        columns=("operation", "input", "copy ms", "torch ms", "ms", "vs torch", "in copies"),
    )
    console.print(output.provenance())
    output.write_json(
        json_file, {"dtype": dtype, "device": device, "rounds": rounds, "measured": measured}
    )


def _measure_all(rounds: int, json_file: str | None) -> None:
    # A refreshing thread would take its time from what is measured.
    questions = track(QUESTIONS, "measuring", console=output.remarks(), auto_refresh=False)
    measured: Measured = [
        {"question": name, "seconds": QUESTIONS[name](rounds)} for name in questions
    ]
    console = output.results(json_file)
    rows = [
        (
            answer["question"],
            duration(median(answer["seconds"]["torch"])),
            duration(median(answer["seconds"]["makemore_ext"])),
            f"{median(ratios(answer['seconds'])):.2f} ×",
        )
        for answer in measured
    ]
    output.print_table(
        console,
        rows,
        title=f"Medians of {rounds} rounds, forward and backward",
        columns=("question", "torch", "makemore_ext", "vs torch"),
    )
    console.print(output.provenance())
    output.write_json(json_file, {"rounds": rounds, "questions": measured})


def _print_changes(old: Measured, new: Measured) -> None:
    found = changes(old, new)
    output.print_table(
        output.results(),
        [
            (
                change.question,
                f"{change.before:.2f} ×",
                f"{change.after:.2f} ×",
                f"{change.after / change.before - 1:+.0%}",
                change.verdict,
            )
            for change in found
        ],
        title="Torch's time over ours",
        columns=("question", "before", "after", "change", "beyond noise"),
    )
    moved = [change for change in found if change.verdict]
    output.results().print(f"{len(moved)} of {len(found)} changed beyond noise")
