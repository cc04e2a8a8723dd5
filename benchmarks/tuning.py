"""What a tuning constant of the CPU kernels is worth: other values beside the one that stands.

    python benchmarks/tuning.py csrc/cpu/batch_norm/columns.h kChunkRows 8 32 \
        batch_norm:4096x200 batch_norm:32x200

Each value is built in a copy of the tree, where ninja compiles only what it touches, and the
copies take turns, each in a process of its own. A case is an operation and a shape of `makemore-ext
bench`, in float32 and bfloat16, on one thread; what is printed is the time that stands over the
other's: above 1 the other value is faster. Nothing is written: the comment beside the constant says
what was found.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DTYPES = ("float32", "bfloat16")
# Results below 32 MiB in memory that glibc keeps: page faults would hide what is measured.
REUSED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
MEASURE = """
import json, sys, torch
from makemore_ext.bench import OPERATIONS, interleaved
torch.set_num_threads(1)
seconds = {}
for case in sys.argv[1:]:
    operation, shape, dtype = case.split(":")
    drawn = torch.randn([int(size) for size in shape.split("x")])
    input = drawn.to(getattr(torch, dtype)).requires_grad_()
    step = OPERATIONS[operation](input)["makemore_ext"]
    seconds[case] = interleaved({"": step}, 9)[""]
print(json.dumps(seconds))
"""


def build(file: Path, name: str, value: str | None) -> Path:
    """A copy of the tree, built with that value, or with the one that stands."""
    copy = ROOT / "build" / "tuning" / f"{name}-{value or 'standing'}"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for path in (*filter(None, tracked.split("\0")), "build/objects"):
        target = copy / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, target)
        else:
            shutil.copy2(ROOT / path, target)
    if value is not None:
        text = (copy / file).read_text(encoding="utf-8")
        changed, count = re.subn(rf"(constexpr [\w:]+ {name} = )[^;]+;", rf"\g<1>{value};", text)
        if count != 1:
            sys.exit(f"{name} must be defined once in {file}, got {count} definitions")
        (copy / file).write_text(changed, encoding="utf-8")
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    environment = {**os.environ, "MAKEMORE_EXT_CUDA": "0"}
    subprocess.run(command, cwd=copy, env=environment, check=True, stdout=subprocess.DEVNULL)
    return copy


def measure(copy: Path, cases: list[str]) -> dict[str, float]:
    """Seconds of each case."""
    environment = {**os.environ, **REUSED_MEMORY, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-c", MEASURE, *cases]
    return json.loads(subprocess.check_output(command, cwd=copy, env=environment, text=True))


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="where the constant is defined")
    parser.add_argument("name", help="of the constant")
    parser.add_argument("values", nargs="+", help="other values, and then cases")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    values = [value for value in arguments.values if ":" not in value]
    cases = [f"{case}:{d}" for case in arguments.values if ":" in case for d in DTYPES]
    copies = {v: build(arguments.file, arguments.name, v) for v in (None, *values)}
    rounds: dict[str | None, list[dict[str, float]]] = {value: [] for value in copies}
    for _ in range(arguments.rounds):
        for value, copy in copies.items():
            rounds[value].append(measure(copy, cases))
    seconds = {
        value: {case: statistics.median(row[case] for row in rows) for case in cases}
        for value, rows in rounds.items()
    }
    table = Table(title=f"{arguments.name}: the time that stands over the other's")
    for column in ("case", "µs", *values):
        table.add_column(column, justify="right")
    for case in cases:
        standing = seconds[None][case]
        ratios = (f"{standing / seconds[value][case]:.2f}" for value in values)
        table.add_row(case, f"{standing * 1e6:.1f}", *ratios)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
