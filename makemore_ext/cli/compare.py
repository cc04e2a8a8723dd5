"""`makemore-ext compare`: the training backends side by side, and other frameworks."""

import click
import torch

from makemore_ext import plots
from makemore_ext.cli import options, output
from makemore_ext.makemore import BACKENDS, MLP, Dataset
from makemore_ext.makemore.comparison import JUDGED_STEPS, TOLERANCE, YARDSTICK, compare_backends
from makemore_ext.makemore.peers import installed_peers

BASELINES = ("manual", YARDSTICK)
OURS = ("fused_mlp", "fused")
AVAILABLE = (*BACKENDS, *installed_peers())


class BackendList(click.ParamType):
    """Names of backends with commas between them."""

    name = "names"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """The names, or a usage error with those there are."""
        names = value.split(",")
        for name in names:
            if name not in AVAILABLE:
                self.fail(f"must be among {', '.join(AVAILABLE)}, got {name!r}.", param, ctx)
        return names


@click.command()
@click.option(
    "--backends",
    type=BackendList(),
    default=",".join(AVAILABLE),
    help="Which ones; autograd is always there to compare with.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    default=1000,
    help="Steps of each backend in all.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    default=10,
    help="Rounds the steps are cut into; in each the backends take turns.",
)
@options.hidden(default=200)
@options.batch_size()
@options.seed
@options.dtype
@options.data
@options.json_file
@options.plot_file
@options.threads(default=1)
def compare(
    backends: list[str],
    steps: int,
    rounds: int,
    hidden: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype,
    data: str | None,
    json_file: str | None,
    plot_file: str | None,
) -> None:
    """Compare the training backends: losses and speed.

    All begin with the same network and train on the same minibatches. With the extra
    `makemore-ext[peers]` torch.compile and JAX take part. Fails where a loss of the
    first 1,000 steps differs from autograd's by more than 1e-5 (float32) or 1e-12 (float64).
    """
    if rounds > steps:
        raise click.UsageError(f"--rounds must be at most --steps, {steps}, got {rounds}.")
    dataset = Dataset.load(data)
    generator = torch.Generator().manual_seed(seed)
    model = MLP.init(len(dataset.vocabulary), hidden=hidden, dtype=dtype, generator=generator)
    output.remarks().print(model.describe(), soft_wrap=True)
    runs = compare_backends(
        model,
        dataset.train,
        backends=backends,
        steps=steps,
        rounds=rounds,
        batch_size=batch_size,
        seed=seed,
    )

    console = output.results(json_file)
    judged = min(steps, JUDGED_STEPS)
    output.print_table(
        console,
        [(run.backend, f"{run.maxdiff:.3g}", output.yes(run.agrees)) for run in runs],
        title=f"Losses of {judged:,} steps against {YARDSTICK}'s",
        columns=("backend", "maxdiff", f"within {TOLERANCE[dtype]:g}"),
    )
    baselines = [run for run in runs if run.backend in BASELINES]
    output.print_table(
        console,
        [
            (
                run.backend,
                f"{run.step_seconds * 1e3:.3f}",
                f"{1 / run.step_seconds:,.0f}",
                *(f"{base.step_seconds / run.step_seconds:.2f} ×" for base in baselines),
            )
            for run in runs
        ],
        title=f"Speed, median of {rounds:,} rounds of {steps // rounds:,} steps",
        columns=("backend", "ms/step", "steps/s", *(f"vs {run.backend}" for run in baselines)),
    )
    console.print(output.provenance())
    if plot_file is not None:
        seconds = {run.backend: run.step_seconds for run in runs}
        fastest = min(seconds, key=seconds.__getitem__)
        ours = next((name for name in OURS if name in seconds), fastest)
        title = f"Training step, hidden {hidden}, batch {batch_size}; and times that of {ours}"
        with plots.style():
            plots.save(plots.speeds([plots.Panel(title, seconds, ours)]), plot_file)
    output.write_json(
        json_file,
        {
            "steps": steps,
            "rounds": rounds,
            "hidden": hidden,
            "batch_size": batch_size,
            "seed": seed,
            "dtype": str(dtype).removeprefix("torch."),
            "tolerance": TOLERANCE[dtype],
            "judged_steps": judged,
            "data_fingerprint": dataset.fingerprint,
            "backends": [
                {
                    "backend": run.backend,
                    "maxdiff": run.maxdiff,
                    "agrees": run.agrees,
                    "step_seconds": run.step_seconds,
                    "round_seconds": run.round_seconds,
                }
                for run in runs
            ],
        },
    )
    if wrong := [run.backend for run in runs if not run.agrees]:
        raise click.ClickException(f"{', '.join(wrong)}: losses are not those of {YARDSTICK}")
