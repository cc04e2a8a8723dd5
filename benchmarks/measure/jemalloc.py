"""Torch with memory that is used again: a benchmark runs itself once more, under jemalloc.

Torch's own allocator for CPUs is malloc. glibc's gives large blocks back to the system, and pages
are mapped and cleared anew for the next tensor; large results of this package take a cache of their
own. What of a ratio is the kernels' and what is the memory's shows under an allocator that keeps
everything: jemalloc, told never to give pages back and to take huge ones. Tensors of torch and of
torch.compile then lie in warm memory, as ours do in either case.
"""

import argparse
import ctypes
import ctypes.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import measure

MALLOC_CONF = "retain:true,dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"
PACKAGE = "libjemalloc2"  # of Debian and Ubuntu
LARGE = 1 << 20  # bytes: results from here on take the package's cache (csrc/memory/block_cache.h)
OPTION = "--under-jemalloc"  # tells a benchmark that it is the second run


def finish(
    name: str,
    title: str,
    results: list[dict[str, Any]],
    summary: Callable[[dict[str, Any]], dict[str, Any]],
    arguments: argparse.Namespace,
) -> None:
    """The end of a benchmark: tables of its results here and under jemalloc, and the result file.

    Args:
        name: of the result file.
        title: of the tables.
        results: one for each case.
        summary: makes a row of a result.
        arguments: the command line's: `quick`, `threads`, `device`, `under_jemalloc`.
    """
    if arguments.under_jemalloc:
        answer(results)
        return
    measure.print_rows(title, [summary(result) for result in results])
    again = rerun(sys.argv[0], sys.argv[1:]) if arguments.device == "cpu" else None
    if again:
        rows = [summary(result) for result in again["results"]]
        measure.print_rows(f"{title}, under jemalloc", rows)
    if not arguments.quick:
        what = {"threads": arguments.threads, "results": results, "under_jemalloc": again}
        measure.write(name, what, arguments.device)


def rerun(program: str, options: list[str]) -> dict[str, Any] | None:
    """What the program answers under jemalloc; None, and a line that says so, where it is missing.

    Args:
        program: a benchmark, which with OPTION gives its results to `answer`.
        options: of its command line.
    """
    library = ctypes.util.find_library("jemalloc")
    if library is None:
        print(f"without jemalloc beside it: `apt-get install {PACKAGE}` brings the library")
        return None
    preloaded = " ".join(filter(None, (library, os.environ.get("LD_PRELOAD"))))
    answered = subprocess.run(
        [sys.executable, program, *options, OPTION],
        env={**os.environ, "LD_PRELOAD": preloaded, "MALLOC_CONF": MALLOC_CONF},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {"malloc_conf": MALLOC_CONF, **json.loads(answered.stdout)}


def answer(results: list[dict[str, Any]]) -> None:
    """Hands the results to the process that called `rerun`, and which jemalloc they are from."""
    print(json.dumps({"jemalloc": version(), "results": results}))


def version() -> str:
    """That of the jemalloc at work in this process.

    Raises:
        RuntimeError: another malloc is at work.
    """
    process = ctypes.CDLL(None)
    text = ctypes.c_char_p()
    size = ctypes.c_size_t(ctypes.sizeof(text))
    if not hasattr(process, "mallctl") or process.mallctl(
        b"version", ctypes.byref(text), ctypes.byref(size), None, ctypes.c_size_t(0)
    ):
        raise RuntimeError("jemalloc was not preloaded")
    return (text.value or b"").decode().partition("-")[0]
