"""`makemore-ext train`: train a network, evaluate it and draw names from it."""

import shlex
import time
from typing import Any

import click
import torch
from click.core import ParameterSource

from makemore_ext import plots
from makemore_ext.cli import options, output
from makemore_ext.cli.processes import all_ranks
from makemore_ext.cli.progress import training_progress
from makemore_ext.makemore import BACKENDS, MLP, Dataset, Trainer, calibrate, checkpoint, loss
from makemore_ext.makemore import sample as draw
from makemore_ext.ops.ranks import Ranks


class Interrupted(click.ClickException):
    """Ctrl-C during training."""

    exit_code = 130


@click.command()
@click.option(
    "--backend",
    type=click.Choice(list(BACKENDS)),
    show_default="fused_mlp, or fused under torchrun",
    help="How the gradients of a step are found; under torchrun fused or autograd.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    default=10_000,
    help="Steps to train, counted from the first; those before --resume count too.",
)
@options.hidden(default=200)
@options.batch_size()
@options.lr
@click.option(
    "--lr-decay-step",
    "decay_step",
    type=click.IntRange(min=0),
    metavar="N",
    default=100_000,
    help="Step from which the learning rate is a tenth.",
)
@options.seed
@click.option(
    "--split-seed",
    type=options.seed_type,
    metavar="N",
    default=42,
    help="Seed of the split into training, validation and test names.",
)
@options.dtype
@options.data
@click.option("--checkpoint", "checkpoint_file", metavar="FILE", help="Save the training here.")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=1),
    metavar="N",
    default=10_000,
    help="Steps between saves; the end is always saved.",
)
@click.option(
    "--resume",
    metavar="FILE",
    help="Go on from a checkpoint, with its options except those given.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    metavar="N",
    default=20,
    help="Names to draw at the end.",
)
@options.json_file
@options.plot_file
@options.threads(default=1)
@click.pass_context
def train(ctx: click.Context, /, **arguments: Any) -> None:
    """Train the network on names, evaluate it, and draw new names.

    The defaults are the notebook's. Ctrl-C saves the checkpoint, if one was asked for, and ends.

    Under torchrun (torchrun --nproc-per-node 2 -m makemore_ext train) each process takes its share
    of every minibatch; the losses are those of one process. The first one prints and saves.
    """
    with all_ranks() as ranks:
        _run(ctx, ranks, **arguments)


def _run(
    ctx: click.Context,
    ranks: Ranks | None,
    *,
    steps: int,
    split_seed: int,
    data: str | None,
    checkpoint_file: str | None,
    checkpoint_every: int,
    resume: str | None,
    samples: int,
    json_file: str | None,
    plot_file: str | None,
    **settings: Any,
) -> None:
    is_first = ranks is None or ranks.rank == 0
    if checkpoint_file is not None and is_first:
        checkpoint.ensure_writable(checkpoint_file)
    if resume is None:
        settings["backend"] = settings["backend"] or ("fused_mlp" if ranks is None else "fused")
        trainer, dataset = _begin(data, split_seed, ranks=ranks, **settings)
    else:
        given = _given(ctx, "split_seed", *settings)
        trainer, dataset = _resume(resume, data, ranks=ranks, **given)
    done = trainer.step
    if done > steps:
        raise click.UsageError(
            f"--steps must be at least {done}, which the checkpoint has done, got {steps}."
        )

    if not is_first:
        _follow(trainer, steps)
        return
    output.remarks().print(trainer.model.describe(), soft_wrap=True)
    try:
        curve: dict[int, float] | None = None if plot_file is None else {}
        seconds = _train(trainer, dataset, steps, checkpoint_file, checkpoint_every, curve)
    except KeyboardInterrupt:
        stopped = f"interrupted after {trainer.step} of {steps} steps"
        raise Interrupted(f"{stopped}; {_go_on(steps, data, checkpoint_file)}") from None
    speed = (trainer.step - done) / seconds if trainer.step > done else None
    losses = {
        "first": trainer.losses[0],
        "train": loss(trainer.model, *dataset.train),
        "validation": loss(trainer.model, *dataset.validation),
        "test": loss(trainer.model, *dataset.test),
    }
    generator = torch.Generator().manual_seed(options.SAMPLE_SEED)
    names = draw(trainer.model, dataset.vocabulary, samples, generator=generator)

    rows = [(f"{name} loss", f"{value:.4f}") for name, value in losses.items()]
    rows.append(("training time", f"{seconds:,.1f} s"))
    rows.append(("speed", "-" if speed is None else f"{speed:,.0f} steps/s"))
    console = output.results(json_file)
    processes = 1 if ranks is None else ranks.size
    title = f"{trainer.step:,} steps, {trainer.backend}"
    title += "" if ranks is None else f", {processes} processes"
    output.print_table(console, rows, title=title)
    console.print(f"{len(names)} new names", style="bold")
    output.print_lines(console, names)
    if plot_file is not None:
        with plots.style():
            figure = plots.losses(
                trainer.losses, validation=curve, drop=trainer.decay_step, title=title
            )
            plots.save(figure, plot_file)
    output.write_json(
        json_file,
        {
            "model": trainer.model.describe(),
            "steps": trainer.step,
            "processes": processes,
            **{name: getattr(trainer, name) for name in checkpoint.HYPERPARAMETERS},
            "data_fingerprint": dataset.fingerprint,
            "split_seed": dataset.seed,
            "losses": losses,
            "seconds": seconds,
            "steps_per_second": speed,
            "samples": names,
            "minibatch_losses": trainer.losses,
        },
    )


def _begin(
    data: str | None,
    split_seed: int,
    *,
    hidden: int,
    dtype: torch.dtype,
    seed: int,
    **hyperparameters: Any,
) -> tuple[Trainer, Dataset]:
    dataset = Dataset.load(data, seed=split_seed)
    generator = torch.Generator().manual_seed(seed)
    model = MLP.init(len(dataset.vocabulary), hidden=hidden, dtype=dtype, generator=generator)
    return Trainer(model, dataset.train, generator, **hyperparameters), dataset


def _resume(file: str, data: str | None, **given: Any) -> tuple[Trainer, Dataset]:
    for name in ("hidden", "dtype", "seed"):
        if name in given:
            raise click.UsageError(
                f"--{name} must be left to the checkpoint of --resume, got {given[name]}."
            )
    saved = checkpoint.load(file)
    dataset = Dataset.load(
        data,
        seed=given.pop("split_seed", saved.seed),
        context=saved.model.context,
        vocabulary=saved.vocabulary,
    )
    return saved.resume(dataset, **given), dataset


def _given(ctx: click.Context, *names: str) -> dict[str, Any]:
    """Those of the options that the command line sets, rather than their defaults."""
    source = ParameterSource.COMMANDLINE
    return {name: ctx.params[name] for name in names if ctx.get_parameter_source(name) is source}


def _train(
    trainer: Trainer,
    dataset: Dataset,
    steps: int,
    checkpoint_file: str | None,
    every: int,
    curve: dict[int, float] | None,
) -> float:
    """Train up to `steps`, calibrate, save; return the seconds spent in training alone.

    `curve` takes validation losses, by the number of steps.
    """
    seconds = 0.0
    stops = {*range(0, steps, every), steps}
    if curve is not None:
        points = {trainer.step + (steps - trainer.step) * i // 20 for i in range(1, 21)}
        stops |= points
    try:
        with training_progress(trainer.step, steps) as callback:
            for stop in sorted(stop for stop in stops if stop > trainer.step):
                start = time.perf_counter()
                trainer.train(stop - trainer.step, callback)
                seconds += time.perf_counter() - start
                if checkpoint_file is not None and stop < steps and stop % every == 0:
                    _calibrate_and_save(trainer, dataset, checkpoint_file)
                if curve is not None and stop in points:
                    calibrate(trainer.model, dataset.train[0])
                    curve[stop] = loss(trainer.model, *dataset.validation)
    except KeyboardInterrupt:
        _calibrate_and_save(trainer, dataset, checkpoint_file)
        raise
    _calibrate_and_save(trainer, dataset, checkpoint_file)
    return seconds


def _follow(trainer: Trainer, steps: int) -> None:
    """Train as a process that is not the first one."""
    try:
        trainer.train(steps - trainer.step)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(Interrupted.exit_code) from None  # the first process says it


def _calibrate_and_save(trainer: Trainer, dataset: Dataset, checkpoint_file: str | None) -> None:
    # Calibrated, so that `sample` can use any checkpoint.
    calibrate(trainer.model, dataset.train[0])
    if checkpoint_file is not None:
        checkpoint.save(checkpoint_file, trainer, dataset)


def _go_on(steps: int, data: str | None, checkpoint_file: str | None) -> str:
    if checkpoint_file is None:
        return "nothing was saved, as no --checkpoint was given"
    command = ["makemore-ext", "train", "--resume", checkpoint_file]
    command += ["--checkpoint", checkpoint_file, "--steps", str(steps)]
    command += [] if data is None else ["--data", data]
    return f"go on with: {shlex.join(command)}"
