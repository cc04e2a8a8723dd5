"""The kernels alone."""

from typing import Any

import kernels
import measure

from sections.prose import table, where


def of_kernels() -> str:
    """The kernels alone."""
    record = measure.load("kernels")
    found: dict[str, dict[str, Any]] = {}
    for result in record["results"]:
        figures = kernels.shown(result, record["clock"])
        pass_name = figures[""].removesuffix(f", {result['dtype']}")
        cells = found.setdefault(f"{figures['kernel']}, {pass_name}", {})
        for name, value in list(figures.items())[2:]:
            cells[f"{name}, {result['dtype']}"] = value
    rows = [{"kernel": name, **cells} for name, cells in found.items()]
    then = (
        f""" "it / then" is beside the kernels of revision {record["against"]}, compiled and
measured in the same run."""
        if "against" in record
        else ""
    )
    return f"""\
## Kernels alone

One thread, without tensors, operators and autograd, in memory that is reused: what a call takes
when nobody is in its way. A line is 64 bytes of an input; the clock, {record["clock"] / 1e9:.2f}
GHz, is that of additions that wait for each other. "one pass / it" is the time of one pass over the
bytes that have to be read and written once, in the same cache, over the kernel's.{then} By `python
benchmarks/kernels.py`, in [kernels.json](results/kernels.json). {where(record)}.

{table(rows)}
"""
