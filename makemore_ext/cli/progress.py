"""Training progress on stderr: a bar on a terminal, ten lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from makemore_ext.cli import output

REFRESH_SECONDS = 0.1
LINES = 10

Callback = Callable[[int, float], None]
Show = Callable[[int, float, float], None]  # the steps done, their mean loss, steps per second


@contextmanager
def training_progress(done: int, steps: int) -> Iterator[Callback]:
    """Show the way from `done` steps to `steps`.

    Yields:
        What to call after every step, with the number of steps done and the step's loss. It raises
        click.ClickException where the loss is not finite.
    """
    console = output.remarks()
    if console.is_terminal:
        with _bar(console, done, steps) as show:
            yield _callback(show, done, steps, every_seconds=REFRESH_SECONDS)
    else:
        show = _line(console, steps)
        yield _callback(show, done, steps, every_steps=math.ceil((steps - done) / LINES))


def _callback(
    show: Show, done: int, steps: int, *, every_steps: int = 1, every_seconds: float = 0.0
) -> Callback:
    """Pass on the mean over the steps since the last time, not too often, and at the end."""
    shown_step, shown_at, loss_sum = done, time.perf_counter(), 0.0

    def callback(step: int, loss: float) -> None:
        nonlocal shown_step, shown_at, loss_sum
        if not math.isfinite(loss):
            raise click.ClickException(
                f"loss must be finite, got {loss} at step {step}: training diverged, "
                "choose a smaller --lr"
            )
        loss_sum += loss
        count, seconds = step - shown_step, time.perf_counter() - shown_at
        if (count >= every_steps and seconds >= every_seconds) or step == steps:
            show(step, loss_sum / count, count / seconds)
            shown_step, shown_at, loss_sum = step, shown_at + seconds, 0.0

    return callback


@contextmanager
def _bar(console: Console, done: int, steps: int) -> Iterator[Show]:
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TextColumn("{task.fields[speed]:,.0f} steps/s"),
        TimeRemainingColumn(),
    )
    # A refreshing thread would take its time from the training.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=steps, completed=done, loss=math.nan, speed=0.0)

        def show(step: int, loss: float, speed: float) -> None:
            bar.update(task, completed=step, loss=loss, speed=speed)
            bar.refresh()

        yield show


def _line(console: Console, steps: int) -> Show:
    def show(step: int, loss: float, speed: float) -> None:
        console.print(f"step {step:,} of {steps:,}: loss {loss:.4f}, {speed:,.0f} steps/s")

    return show
