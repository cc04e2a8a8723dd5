"""What the CUDA kernels move."""

from typing import Any

import measure

from sections.prose import table


def cuda_rows(operation: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each shape and dtype, a column for each pass, with the number of its launches."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    launches: dict[str, set[int]] = {}
    for result in results:
        kind, _, what = result["operation"].partition(": ")
        name, _, layout = kind.partition(", ")
        if name == operation:
            title = "×".join(map(str, result["shape"])) + (f", {layout}" if layout else "")
            found.setdefault((title, result["dtype"]), {})[what] = result["microseconds"]
            launches.setdefault(what, set()).add(result["launches"])
    titles = {
        what: f"{what}: µs (launches: {' or '.join(map(str, sorted(counts)))})"
        for what, counts in launches.items()
    }
    return [
        {"shape": title, "dtype": dtype, **{titles[what]: value for what, value in row.items()}}
        for (title, dtype), row in found.items()
    ]


def of_cuda() -> str:
    """What the CUDA kernels move."""
    record = measure.load("cuda_model")
    tables = [
        f"{title}:\n\n{table(cuda_rows(operation, record['results']))}"
        for operation, title in {
            "cross entropy": "Cross entropy of class indices, the mean",
            "batch norm": "Batch norm in training",
            "embedding": "The gradient of `embedding`, of so many tokens, rows and features",
        }.items()
    ]
    return f"""\
## CUDA: a model, not a measurement

The bytes that the CUDA kernels move, as µs at {record["bandwidth"] / 1e12:.3g} TB/s, the memory
bandwidth of an H100 SXM: none can be faster there, and what launches cost comes on top. By
`python benchmarks/cuda_model.py`, in [cuda_model.json](results/cuda_model.json). The tests run
these kernels without a device, and no time on one has been measured; `--device cuda` of
`benchmarks/cross_entropy.py` and `benchmarks/batch_norm.py` measures there.

{(chr(10) * 2).join(tables)}
"""
