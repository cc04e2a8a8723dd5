"""Breaks kernels on purpose: a test bench is worth what it notices.

A mutation replaces a piece of source text. The broken source must still compile; the checks that
the whole source passes must then raise, either a Fault or an AssertionError for a wrong result.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import toolkit
from .faults import Fault


@dataclass(frozen=True)
class Mutation:
    """What to replace in which file; the text to find must occur exactly once."""

    name: str
    file: str  # relative to the folder of sources
    find: str
    replace: str
    host: bool = False  # whether it is in host code, which is compiled again for these alone


class Survived(AssertionError):
    """No check noticed the mutation."""


def apply(mutation: Mutation, sources: Path) -> Path:
    """Copies the folder of sources, with the mutation in it; returns the copy."""
    text = (sources / mutation.file).read_text()
    occurrences = text.count(mutation.find)
    if occurrences != 1:
        raise ValueError(f"{mutation.name}: found {occurrences} times in {mutation.file}")
    digest = hashlib.sha256(repr((mutation, str(sources))).encode())
    files = sorted(path for path in sources.rglob("*") if path.is_file())
    for path in files:
        digest.update(path.read_bytes())
    copy = toolkit.CACHE / "mutants" / digest.hexdigest()[:16] / sources.name

    def build(partial: Path) -> None:
        shutil.copytree(sources, partial)
        (partial / mutation.file).write_text(text.replace(mutation.find, mutation.replace))

    return toolkit.make(copy, build)


def caught(mutation: Mutation, sources: Path, check: Callable[[Path], None]) -> str:
    """How `check`, given the mutated sources, notices: the fault, or "wrong result: …"."""
    copy = apply(mutation, sources)
    try:
        check(copy)
    except Fault as fault:
        return str(fault).splitlines()[0]
    except AssertionError as error:
        return "wrong result: " + (str(error).strip().splitlines() or ["assertion failed"])[0]
    raise Survived(f"{mutation.name}: no check noticed")
