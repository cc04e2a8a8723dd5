"""Figures, sentences and tables as the pages have them."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any


def number(value: float) -> str:
    """Three digits, or whole where there are more before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(ratio: float) -> str:
    """A ratio, as a sentence has it."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def beside(ratio: float) -> str:
    """What is so many times as fast as something else, as a sentence has it."""
    if times(ratio) == times(1):
        return "takes as long"
    return (
        f"is {times(ratio)} times as fast"
        if ratio > 1
        else f"takes {times(1 / ratio)} times as long"
    )


def span(ratios: Iterable[float]) -> str:
    """The least and the largest of some ratios."""
    found = sorted(ratios)
    least, largest = times(found[0]), times(found[-1])
    return least if least == largest else f"{least} to {largest}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A column for each key of the rows; numbers have three digits, None is a dash."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(value: Any) -> str:
        if value is None or value == "-":
            return "–"
        return value if isinstance(value, str) else number(value)

    rule = ["---" if isinstance(value, str) else "--:" for value in rows[0].values()]
    lines = [line(rows[0]), line(rule), *(line(map(cell, row.values())) for row in rows)]
    return "\n".join(lines)


def wrapped(text: str) -> str:
    """Markdown with its sentences in lines of equal width, all else as it is."""
    parts = text.split("\n\n")
    kept = ("#", "|", "!", "<")
    lines = [
        part
        if part.startswith(kept)
        else textwrap.fill(part, 100, break_long_words=False, break_on_hyphens=False)
        for part in parts
    ]
    return "\n\n".join(lines).rstrip() + "\n"


def machine(environment: dict[str, Any]) -> str:
    """Where something was measured, of the "environment" of a result file."""
    threads = environment["threads"]
    return (
        f"{environment['processor']}, {environment['cores']} cores, "
        f"{environment['cpu_capability']} kernels, {threads} thread{'s' if threads > 1 else ''}; "
        f"torch {environment['torch']}, "
        + (f"JAX {environment['jax']}, " if "jax" in environment else "")
        + f"Python {environment['python']}"
    )


def where(*records: dict[str, Any]) -> str:
    """The machines and the days of some results, each with its "environment" and "date"."""
    machines = dict.fromkeys(machine(record["environment"]) for record in records)
    days = dict.fromkeys(record["date"][:10] for record in records)
    return f"{'; '.join(machines)}; {', '.join(days)}"
