"""What ptxas says of a kernel, and the instructions that it makes, for any architecture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import toolkit

PROPERTIES = re.compile(
    r"Compiling entry function '(?P<name>[^']+)' for 'sm_\w+'\n"
    r"(?:.*\n)*?.*Function properties for (?P=name)\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\n"
    r".*Used (?P<registers>\d+) registers(?P<rest>.*)"
)


@dataclass(frozen=True)
class Resources:
    """What one thread or block of a kernel takes; all in bytes but the registers."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Built:
    """A .cu file compiled for one architecture."""

    architecture: str
    cubin: Path
    resources: dict[str, Resources]  # by (mangled) kernel name


def build(
    source: Path,
    architecture: str,
    *,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
) -> Built:
    """Compiles with every warning an error; CompileError holds the warning."""
    options = [*toolkit.FLAGS, *flags, *(f"-I{path}" for path in include)]
    options += ["-Xptxas", "-v,-Werror", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra"]
    arch = architecture.replace(".", "")
    name = toolkit.key(source, "cubin", architecture, *options, include=include)
    cubin, log = toolkit.CACHE / f"{name}.cubin", toolkit.CACHE / f"{name}.log"

    def compile_to(partial: Path) -> None:
        output = ["-cubin", str(source), "-o", str(partial)]
        log.write_text(toolkit.run([toolkit.nvcc(), *options, f"-arch=sm_{arch}", *output]))

    toolkit.make(cubin, compile_to)
    return Built(architecture, cubin, parse_resources(log.read_text()))


def parse_resources(log: str) -> dict[str, Resources]:
    """Reads the output of `ptxas -v`."""
    found = {}
    for match in PROPERTIES.finditer(log):
        shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", match["rest"])
        found[match["name"]] = Resources(
            int(match["registers"]),
            int(shared[1]) if shared else 0,
            int(match["stack"]),
            int(match["stores"]),
            int(match["loads"]),
        )
    return found


def disassemble(cubin: Path) -> dict[str, list[str]]:
    """The machine instructions (SASS) of every kernel."""
    program = toolkit.tool("nvdisasm")
    if program is None:
        raise toolkit.CompileError("no nvdisasm: pip install 'nvidia-cuda-nvdisasm>=13.2'")
    text = toolkit.run([program, "-c", "-ndf", cubin])  # no analysis of dataflow: slow
    kernels: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.([\w$]+)", line):
            current = kernels.setdefault(section[1], [])
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            current.append(instruction[1])
    return kernels


def accesses(instructions: Iterable[str]) -> dict[str, int]:
    """How often each kind of memory access occurs: {"LDG.128": 4, "STG.32": 1, …}, by bits.

    LDG and STG are global, LDS and STS shared, LDL and STL local memory.
    """
    counts: dict[str, int] = {}
    for instruction in instructions:
        match = re.search(r"\b(LDG|STG|LDS|STS|LDL|STL)\b((?:\.\w+)*)", instruction)
        if match:
            width = re.search(r"\.(?:U|S)?(8|16|64|128|256)\b", match[2])
            kind = f"{match[1]}.{width[1] if width else 32}"
            counts[kind] = counts.get(kind, 0) + 1
    return counts
