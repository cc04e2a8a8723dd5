"""What the commands write: tables and remarks to the terminal, results to JSON files."""

import datetime
import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from makemore_ext._environment import environment


def results(json_file: str | None = None) -> Console:
    """The console for results: stdout, or stderr where `--json -` claims stdout."""
    return _console(stderr=json_file == "-")


def remarks() -> Console:
    """The console for progress and remarks: stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # A pipe has no width: nothing is wrapped or cut there.
    width = None if stream.isatty() else 1000
    return Console(stderr=stderr, width=width, highlight=False, markup=False)


def print_table(
    console: Console,
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    columns: Sequence[str] = (),
    prose: Sequence[str] = (),
) -> None:
    """Print a table and a blank line.

    Below a header, which there is if the columns have names, all but the first and those of `prose`
    are aligned right.
    """
    table = Table(box=box.SIMPLE_HEAD, show_header=bool(columns), show_edge=False)
    for index, column in enumerate(columns):
        is_right = index > 0 and column not in prose
        table.add_column(column, justify="right" if is_right else "left")
    for row in rows:
        table.add_row(*row)
    if title is not None:
        console.print(title, style="bold")
    console.print(table)
    console.print()


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines as they are, however long."""
    for line in lines:
        console.print(line, soft_wrap=True)


def yes(value: bool) -> str:
    """How a table shows a truth value."""
    return "yes" if value else "no"


def provenance() -> str:
    """What figures depend on, and the date, in one line."""
    facts = _provenance()
    threads = "1 thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    return (
        f"makemore_ext {facts['makemore_ext']}, torch {facts['torch']}, "
        f"Python {facts['python']}, {facts['processor']}, {threads}, {facts['date']}"
    )


def write_json(json_file: str | None, content: Mapping[str, Any]) -> None:
    """Write `content` and its provenance to a file, to stdout for "-", nowhere for None.

    JSON knows no NaN and no infinity: both become null.
    """
    if json_file is None:
        return
    text = json.dumps(_finite({**content, "provenance": _provenance()}), indent=2)
    if json_file == "-":
        click.echo(text)
    else:
        Path(json_file).write_text(text + "\n", encoding="utf-8")


def _provenance() -> dict[str, Any]:
    arguments = click.get_current_context().find_root().obj
    return {
        "command": shlex.join(["makemore-ext", *arguments]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **environment(),
    }


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value
