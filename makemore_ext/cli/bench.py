"""`makemore-ext bench`: the kernels beside torch's."""

import re

import click
import torch

from makemore_ext.bench import OPERATIONS, bench
from makemore_ext.cli import options, output

DTYPES = ("float32", "bfloat16", "float16")
SHAPES = {
    "cross_entropy": ((32, 27), (4096, 1000), (256, 32000)),
    "batch_norm": ((32, 200), (4096, 200), (32, 64, 56, 56)),
}


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


@click.command("bench")
@click.option(
    "--operation",
    "operations",
    type=click.Choice([*OPERATIONS]),
    multiple=True,
    default=[*OPERATIONS],
    help="May be given again.",
)
@click.option(
    "--shape",
    "shapes",
    type=Shape(),
    metavar="NxC[x...]",
    multiple=True,
    help="Of the input; may be given again.  [default: three of each operation]",
)
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", help="Type of the input.")
@click.option(
    "--rounds", type=click.IntRange(min=1), metavar="N", default=11, help="In each all take turns."
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where to measure."
)
@options.json_file
@options.threads()
def bench_command(
    operations: list[str],
    shapes: list[tuple[int, ...]],
    dtype: str,
    rounds: int,
    device: str,
    json_file: str | None,
) -> None:
    """Measure the kernels beside torch's: forward and backward.

    A copy of the input, which moves every element twice, tells what memory allows.
    """
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
    output.print_provenance(console)
    output.write_json(
        json_file, {"dtype": dtype, "device": device, "rounds": rounds, "measured": measured}
    )
