"""The kernels alone, on one thread, beside one pass over the same bytes, or beside older ones.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --against HEAD~1

Without tensors, operators and autograd, in memory that is reused, so that work in the cache is
seen. native/kernels.cpp is linked with the kernels of this tree, and of another revision with
--against, for the instruction set in use; the programs take turns.
results/kernels.json has the seconds of each case's forward and backward, for cross entropy of the
loss alone and with its gradient, and of one pass over what each has to read and write.
"""

import argparse
import os
import runpy
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import measure
import setuptools

import makemore_ext

ROOT = Path(__file__).resolve().parents[1]
DRIVER = Path(__file__).with_name("native") / "kernels.cpp"
SOURCES = ("batch_norm/batch_norm.cpp", "cross_entropy/cross_entropy.cpp", "errors.cpp")
ROUNDS = 5
DTYPES = {"float32": 4, "bfloat16": 2}
NORMS = ("32 64 1", "32 200 1", "256 200 1", "1024 200 1", "256 1024 1", "4096 200 1")
IMAGES = ("8 16 64", "32 64 196", "32 64 -196")  # the last one's channels are last
LOSSES = ("32 27", "1024 27", "1024 65", "1024 100", "1024 1000")
PASSES = {
    "batch_norm": ("forward", "backward"),
    "cross_entropy": ("loss", "loss and gradient"),
}


def cases() -> list[str]:
    """Lines for native/kernels.cpp."""
    norms = [f"{shape} {activation}" for shape in NORMS for activation in ("none", "tanh")]
    norms += [f"{shape} none" for shape in IMAGES]
    each = {"batch_norm": norms, "cross_entropy": LOSSES}
    return [
        f"{operation} {dtype} {case}"
        for operation, listed in each.items()
        for dtype in DTYPES
        for case in listed
    ]


def compile_program(sources: Path, folder: Path) -> Path:
    """The driver with the kernels below `sources`."""
    setup, setuptools.setup = setuptools.setup, lambda **_: None
    directory = Path.cwd()
    try:
        os.chdir(ROOT)
        build = runpy.run_path("setup.py")
    finally:
        os.chdir(directory)
        setuptools.setup = setup
    capability = makemore_ext.build_info()["cpu_capability"].replace("default", "baseline")
    flags = [*build["FLAGS"], *build["KERNEL_BUILDS"][capability], f"-I{sources}"]
    flags.append(f"-DMAKEMORE_EXT_CAPABILITY={capability}")
    files = [DRIVER, *(sources / "cpu" / source for source in SOURCES)]

    def compile_one(file: Path) -> str:
        target = str(folder / f"{file.stem}.o" if file != DRIVER else folder / "driver.o")
        subprocess.run([*build["COMPILER"], *flags, "-c", str(file), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, files))
    subprocess.run([*build["COMPILER"], *objects, "-o", str(folder / "kernels")], check=True)
    return folder / "kernels"


def run(program: Path) -> tuple[float, list[list[float]]]:
    """The clock of the core in Hz, and four times a case, in seconds."""
    lines = subprocess.run(
        [program], input="\n".join(cases()), stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()
    return float(lines[0]), [[float(figure) for figure in line.split()] for line in lines[1:]]


def rows_of(rounds: list[tuple[float, list[list[float]]]]) -> list[dict[str, Any]]:
    """A row for each case and pass: medians of the rounds."""
    rows = []
    for index, case in enumerate(cases()):
        operation, dtype, *shape = case.split()
        times = [median(figures[index][i] for _, figures in rounds) for i in range(4)]
        for i, name in enumerate(PASSES[operation]):
            rows.append(
                {
                    "operation": operation,
                    "dtype": dtype,
                    "shape": [int(size) for size in shape if size.lstrip("-").isdigit()],
                    "activation": "tanh" if "tanh" in shape else None,
                    "pass": name,
                    "seconds": times[i],
                    "floor": times[2 + i],
                }
            )
    return rows


def folder_of(parent: str, name: str) -> Path:
    """A new folder."""
    folder = Path(parent, name)
    folder.mkdir()
    return folder


def main() -> None:
    """Compile, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", metavar="REVISION", help="measure these kernels too")
    against = parser.parse_args().against
    with TemporaryDirectory() as folder:
        programs = {"now": compile_program(ROOT / "csrc", folder_of(folder, "now"))}
        if against is not None:
            then = folder_of(folder, "then")
            archive = subprocess.check_output(["git", "archive", against, "csrc"], cwd=ROOT)
            subprocess.run(["tar", "-x", "-C", str(then)], input=archive, check=True)
            programs["then"] = compile_program(then / "csrc", then)
        rounds: dict[str, list[tuple[float, list[list[float]]]]] = {name: [] for name in programs}
        for _ in range(ROUNDS):
            for name, program in programs.items():
                rounds[name].append(run(program))
    rows = rows_of(rounds["now"])
    record: dict[str, Any] = {"clock": median(clock for clock, _ in rounds["now"]), "results": rows}
    if against is not None:
        command = ["git", "rev-parse", "--short", against]
        record["against"] = subprocess.check_output(command, cwd=ROOT, text=True).strip()
        for row, before in zip(rows, rows_of(rounds["then"]), strict=True):
            row["seconds_then"] = before["seconds"]
    measure.write("kernels", record)
    measure.print_rows("kernels alone, one thread", [shown(row, record["clock"]) for row in rows])


def shown(row: dict[str, Any], clock: float) -> dict[str, Any]:
    """A row as it is read: ns an element, cycles for 64 bytes, the floor's share of the time."""
    elements = 1
    for size in row["shape"]:
        elements *= abs(size)
    lines = elements * DTYPES[row["dtype"]] / 64
    size = "×".join(str(abs(size)) for size in row["shape"] if size != 1)
    layout = ", channels last" if row["shape"][-1] < 0 else ""
    result = {
        "kernel": f"{row['operation'].replace('_', ' ')} {size}{layout}",
        "": f"{row['pass']}{', tanh' if row['activation'] else ''}, {row['dtype']}",
        "µs": row["seconds"] * 1e6,
        "ns an element": row["seconds"] * 1e9 / elements,
        "cycles a line": row["seconds"] * clock / lines,
        "one pass / it": row["floor"] / row["seconds"],
    }
    if "seconds_then" in row:
        result["it / then"] = row["seconds"] / row["seconds_then"]
    return result


if __name__ == "__main__":
    main()
