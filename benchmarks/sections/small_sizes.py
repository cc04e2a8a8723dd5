"""Calls on small tensors beside torch's own."""

from typing import Any

import measure
import small_sizes

from sections.prose import table, where


def small_rows(results: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    """A row for each operation and tensor: the least and the largest ratio of its calls."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for result in results:
        tensor = small_sizes.shown(result["shape"]).replace("x", "×")
        cells = found.setdefault((result["operation"], tensor), {})
        for name, ratio in small_sizes.ratios(result).items():
            part = small_sizes.BOTH if name == small_sizes.STEP else name
            cells.setdefault(f"{part}, {result['dtype']}", []).append(ratio)
    columns = dict.fromkeys(column for cells in found.values() for column in cells)

    def cell(ratios: list[float] | None) -> str | None:
        if ratios is None:
            return None
        least, largest = (f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
        return least if len(ratios) == 1 else f"{least} to {largest}"

    return [
        {"torch / ours": f"{what} {tensor}", **{name: cell(cells.get(name)) for name in columns}}
        for (what, tensor), cells in found.items()
    ]


def of_small_sizes() -> str:
    """Calls on small tensors beside torch's own."""
    record = measure.load("small_sizes")
    results, aim = record["results"], record["aim"]
    ratios = [ratio for result in results for ratio in small_sizes.ratios(result).values()]
    below = [
        f"Of {len(ratios)} ratios {len(found)} are below {limit:g}"
        for limit in (aim, 1)
        if (found := [ratio for ratio in ratios if ratio < limit])
    ]
    said = ", ".join(below).replace(f", Of {len(ratios)} ratios", ",")
    return f"""\
## Small tensors

How many times as fast as torch's own eager calls ours are, where the call costs more than the
kernel: the least and the largest ratio, for cross entropy over its reductions, with and without
label smoothing, for batch norm over function and module, training and evaluation, with and without
tanh. The embedding looks up so many indices in a table of {"×".join(map(str, small_sizes.TABLE))};
the training step is that of the backends `fused` and `autograd`, n×H, with its update. By `python
benchmarks/small_sizes.py`, in [small_sizes.json](results/small_sizes.json), call by call.
{where(record)}.

{table(small_rows(results))}

{said or f"None of {len(ratios)} ratios is below {aim:g}"}.
"""
