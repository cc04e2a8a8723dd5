"""Runs nvcc and the tools beside it; what they make is kept by content."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from .find_nvcc import find_toolkit
from .ptx import parser

CACHE = Path(os.environ.get("CUDA_BENCH_CACHE", "build/cuda-tests")).absolute()
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0")
FLAGS = ("-std=c++17", "-lineinfo", "-Wno-deprecated-gpu-targets")


class CompileError(RuntimeError):
    """A tool of the toolkit failed; its output is the message."""


@functools.cache
def home() -> Path | None:
    """The toolkit's folder; None without one."""
    return find_toolkit()


def tool(name: str) -> Path | None:
    """A program of the toolkit, or of a wheel that brings it alone (nvidia-cuda-nvdisasm)."""
    folders = [folder / "bin" for folder in [home()] if folder]
    folders += sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/bin"))
    extra = os.environ.get("CUDA_BINARY_TOOLS")
    folders += [Path(extra)] if extra else []
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    on_path = shutil.which(name)
    return found or (Path(on_path) if on_path else None)


def missing() -> str | None:
    """Why the bench cannot compile here, None if it can."""
    if home() is None:
        return "no nvcc: set CUDA_HOME, or install nvidia-cuda-nvcc and its companions with pip"
    if shutil.which("g++") is None:
        return "no g++, which nvcc needs"
    return None


def run(command: Sequence[str | Path], folder: Path | None = None) -> str:
    """Runs a tool; its output, or CompileError."""
    environment = dict(os.environ)
    if toolkit := home():
        environment["CUDA_HOME"] = str(toolkit)
        environment["PATH"] = f"{toolkit / 'bin'}{os.pathsep}{environment.get('PATH', '')}"
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
    )
    if result.returncode:
        shown = " ".join(Path(str(part)).name for part in command[:1])
        raise CompileError(f"{shown} failed\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


@functools.cache
def _version() -> str:
    return run([nvcc(), "--version"])


def release() -> str:
    """As 13.0."""
    found = re.search(r"release ([\d.]+)", _version())
    return found[1] if found else ""


def nvcc() -> Path:
    """The compiler; CompileError where there is none."""
    toolkit = home()
    if toolkit is None:
        raise CompileError(missing() or "")
    return toolkit / "bin" / "nvcc"


def key(source: Path, *details: str, include: Sequence[Path] = ()) -> str:
    """A name for what these sources become: it changes with them, the tools and the flags."""
    digest = hashlib.sha256("\0".join([_version(), sys.platform, *details]).encode())
    for path in _sources(source, include):
        digest.update(path.read_bytes())
    return f"{source.stem}-{digest.hexdigest()[:16]}"


def _sources(source: Path, include: Sequence[Path]) -> list[Path]:
    """The file and all that it includes with quotes, directly or not."""
    found: list[Path] = []
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.append(path)
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE):
            waiting += [(folder / name).resolve() for folder in (path.parent, *include)]
    return found


def compile_ptx(
    source: Path,
    architecture: str = "8.0",
    *,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
) -> Path:
    """The PTX of a .cu file for one architecture."""
    options = [*FLAGS, *flags, *(f"-I{path}" for path in include)]
    target = CACHE / f"{key(source, architecture, *options, include=include)}.ptx"
    arch = f"-arch=sm_{architecture.replace('.', '')}"
    return make(
        target, lambda partial: run([nvcc(), *options, arch, "-ptx", source, "-o", partial])
    )


def make(target: Path, build: Callable[[Path], object]) -> Path:
    """Builds a file unless it is there; of several processes that ask at once, one does."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f"{target.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                    partial = Path(folder) / target.name
                    build(partial)
                    partial.replace(target)
        finally:
            lock.unlink(missing_ok=True)
    return target


@functools.cache
def load(source: Path, architecture: str = "8.0", *flags: str) -> parser.Module:
    """Compiles and reads a .cu file."""
    return parser.parse(compile_ptx(source, architecture, flags=flags).read_text())
