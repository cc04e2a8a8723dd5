"""Builds the native half. Everything else about the package is in pyproject.toml.

makemore_ext._C, on torch's stable ABI, holds the kernels and operators: those of the CPU
(csrc/cpu/*/*.cpp) are compiled once for each instruction set, those of CUDA (csrc/cuda/*/*.cu) once
for all architectures where there is an nvcc, the rest once. makemore_ext._autograd (csrc/autograd)
holds derivatives, on the C++ API of the torch that is there.
Ninja runs the compilers, says how far it is, and compiles again only what a change touches.

MAKEMORE_EXT_CUDA=0 leaves CUDA out, =1 makes its absence an error. TORCH_CUDA_ARCH_LIST names other
architectures than ARCHITECTURES. CXX is the compiler, CXXFLAGS are flags after ours, for C++ alone.
MAX_JOBS bounds how many compilers run at once.
"""

import json
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    import pybind11
    import torch
    from ninja import BIN_DIR
    from torch.utils.cpp_extension import include_paths, library_paths
except ImportError as error:
    raise SystemExit(
        f"makemore_ext needs {error.name} to build: run `pip install torch ninja pybind11` first, "
        "or build without --no-build-isolation"
    ) from error

REPOSITORY = "https://github.com/makemore-ext/makemore_ext"
TORCH_MINIMUM = (2, 13)
TORCH_TARGET_VERSION = "0x020d000000000000"  # the stable ABI of 2.13: later versions load it too
COMPILER_MINIMUM = {"g++": 11, "clang++": 14}
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0+PTX")

BUILD = Path("build/objects")
COMPILER = shlex.split(os.environ.get("CXX", "")) or ["c++"]
ASKED_FLAGS = shlex.split(os.environ.get("CXXFLAGS", ""))
STRIPPED = [] if any(flag.startswith("-g") for flag in ASKED_FLAGS) else ["-s"]
FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fPIC",
    "-fno-math-errno",  # nobody reads it, and sqrt can be a vector instruction
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-psabi",  # about vector types as arguments: every such function is inlined
    "-fvisibility=hidden",
]
KERNEL_BUILDS = {"baseline": ["-DMAKEMORE_EXT_VECTOR_BYTES=16"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    KERNEL_BUILDS["avx2"] = ["-DMAKEMORE_EXT_VECTOR_BYTES=32", "-mavx2", "-mfma", "-mf16c"]
    KERNEL_BUILDS["avx512"] = [
        "-DMAKEMORE_EXT_VECTOR_BYTES=64",
        *("-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        # GCC 12 has them in its own headers. Clang does not know the second one.
        *("-Wno-unknown-warning-option", "-Wno-uninitialized", "-Wno-maybe-uninitialized"),
    ]
    FLAGS.append("-DMAKEMORE_EXT_X86")


def find_compiler() -> str:
    """Which of COMPILER_MINIMUM the compiler is; exits with one sentence where it cannot do."""
    wanted = " or ".join(f"{name} {version}" for name, version in COMPILER_MINIMUM.items())
    advice = f"install {wanted}, or later, or name one in CXX"
    if shutil.which(COMPILER[0]) is None:
        raise SystemExit(
            f"makemore_ext needs a C++20 compiler, `{COMPILER[0]}` was not found: {advice}"
        )
    command = [*COMPILER, "-dM", "-E", "-x", "c++", os.devnull]
    defined = dict(
        re.findall(
            r"#define (__clang_major__|__GNUC__) (\d+)",
            subprocess.run(command, capture_output=True, text=True).stdout,
        )
    )
    name = "clang++" if "__clang_major__" in defined else "g++"
    version = int(defined.get("__clang_major__") or defined.get("__GNUC__") or 0)
    if version < COMPILER_MINIMUM[name]:
        raise SystemExit(
            f"makemore_ext needs a C++20 compiler, `{shlex.join(COMPILER)}` is "
            f"{f'{name} {version}' if version else 'none that it knows'}: {advice}"
        )
    return name


def check_torch() -> None:
    """Exits with one sentence where torch is too old."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < TORCH_MINIMUM:
        raise SystemExit(f"makemore_ext needs torch >= 2.13 to build, found {torch.__version__}")


def count_jobs() -> str:
    """How many compilers may run at once."""
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not jobs.isdecimal() or int(jobs) == 0:
        raise SystemExit(f"MAX_JOBS must be a whole number, 1 or more, got {jobs!r}")
    return jobs


class Cuda:
    """The toolkit, and the architectures to compile for."""

    def __init__(self, home: Path) -> None:
        self.nvcc = home / "bin" / "nvcc"
        self.runtime = next(iter(sorted(home.glob("lib*/**/libcudart_static.a"))), None)
        known = re.findall(r"compute_(\d+)", self._ask("--list-gpu-arch"))
        asked = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,"))
        self.architectures = (
            asked
            if asked != [""]
            else [
                name
                for name in ARCHITECTURES
                if name.removesuffix("+PTX").replace(".", "") in known
            ]
        )
        for name in self.architectures:
            number = re.fullmatch(r"(\d+)\.(\d+)(?:\+PTX)?", name)
            if number is None or "".join(number.groups()) not in known:
                raise SystemExit(
                    f"makemore_ext cannot compile for {name!r} of TORCH_CUDA_ARCH_LIST: "
                    f"{self.nvcc} knows {', '.join(f'{k[:-1]}.{k[-1]}' for k in known)}, each "
                    "optionally with +PTX"
                )
        if self.runtime is None or not self.architectures:
            raise SystemExit(
                f"makemore_ext cannot use the CUDA toolkit in {home}, which lacks "
                f"{'an architecture it knows' if self.runtime else 'libcudart_static.a'}: install "
                "CUDA 13 or set MAKEMORE_EXT_CUDA=0"
            )

    def _ask(self, option: str) -> str:
        return subprocess.run([self.nvcc, option], capture_output=True, text=True).stdout

    def command(self) -> list[str]:
        flags = ["-std=c++17", "-O3", "-Werror=all-warnings", "-Wno-deprecated-gpu-targets"]
        flags += ["-Xcompiler=-fPIC,-fvisibility=hidden", "-ccbin", COMPILER[0]]
        for name in self.architectures:
            number = name.removesuffix("+PTX").replace(".", "")
            codes = f"sm_{number},compute_{number}" if name.endswith("+PTX") else f"sm_{number}"
            flags.append(f"-gencode=arch=compute_{number},code=[{codes}]")
        return [str(self.nvcc), *flags]


def find_cuda() -> Cuda | None:
    """The toolkit, where one is found and CUDA is wanted; None without CUDA."""
    wanted = os.environ.get("MAKEMORE_EXT_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"MAKEMORE_EXT_CUDA must be 0 or 1, got {wanted!r}")
    if wanted == "0" or (wanted == "" and torch.version.cuda is None):
        return None
    home = runpy.run_path("cuda_bench/src/cuda_bench/find_nvcc.py")["find_toolkit"]()
    if home is None and wanted == "1":
        raise SystemExit(
            "MAKEMORE_EXT_CUDA=1 asks for the CUDA kernels, but no nvcc was found: install the "
            "CUDA toolkit, or name its folder in CUDA_HOME"
        )
    return None if home is None else Cuda(home)


def plan_objects(cuda: Cuda | None) -> dict[str, tuple[str, str]]:
    """How each object is made: its source and the compiler's command, by the name of the object."""
    common = [*COMPILER, *FLAGS]
    compiler = find_compiler()
    if compiler == "g++":
        # Its limit to how far inlining may let a file grow would leave some lambdas out of the
        # loops over vectors, which then pass vectors through memory: half the speed.
        common.append("--param=inline-unit-growth=1000")
    # As system headers theirs give no warnings; their paths stay out of messages.
    headers = [pybind11.get_include(), *include_paths(), sysconfig.get_path("include")]
    extension = [
        *common,
        *(f"-isystem{path}" for path in headers),
        *(f"-ffile-prefix-map={path}/=" for path in headers),
        # No .d file has system headers: those of another torch at the same place would go unseen.
        f'-DMAKEMORE_EXT_BUILT_WITH_TORCH="{torch.__version__}"',
    ]
    stable = [*extension, f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
    plan: dict[str, tuple[str, str]] = {}

    def add(folder: str, sources: Iterable[Path], command: list[str]) -> None:
        for source in sorted(sources):
            target = BUILD / folder / source.relative_to("csrc").with_suffix(".o")
            flags = ASKED_FLAGS if source.suffix == ".cpp" else []
            plan[str(target)] = (str(source), shlex.join([*command, *flags]))

    for capability, flags in KERNEL_BUILDS.items():
        kernels = Path("csrc/cpu").glob("*/*.cpp")
        add(capability, kernels, [*common, f"-DMAKEMORE_EXT_CAPABILITY={capability}", *flags])
    if cuda:
        architectures = " ".join(cuda.architectures)
        for flags in (stable, extension):
            flags.append(f'-DMAKEMORE_EXT_CUDA="{architectures}"')
        # A folder for each choice of architectures: another one leaves these objects alone.
        add(architectures.replace(" ", "_"), Path("csrc/cuda").glob("*/*.cu"), cuda.command())
    once = [
        source
        for folder in ("", "cpu", "memory", "ops")
        for source in Path("csrc", folder).glob("*.cpp")
    ]
    add("_C", once, stable)
    # GCC 12 warns of torch's own IValue, inlined into ours.
    quiet = ["-Wno-stringop-overflow"] if compiler == "g++" else []
    add("_autograd", Path("csrc/autograd").rglob("*.cpp"), [*extension, *quiet])
    return plan


def ninja_file(plan: dict[str, tuple[str, str]]) -> str:
    """The plan in ninja's words. What a source includes, compilers write to a .d file."""
    lines = [
        f"builddir = {BUILD}",
        "rule compile",
        "  command = $compiler -MMD -MF $out.d -c $in -o $out",
        "  description = $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    for target, (source, command) in plan.items():
        lines += [f"build {target}: compile {source}", f"  compiler = {command.replace('$', '$$')}"]
    return "\n".join(lines) + "\n"


def compile_commands(plan: dict[str, tuple[str, str]]) -> str:
    """The plan as editors read it, in compile_commands.json.

    Of a source that has several entries clangd takes the first: of a kernel that is the baseline,
    the only one that is built on every machine.
    """
    entries = [
        {
            "directory": os.getcwd(),
            "file": source,
            "output": target,
            "command": f"{command} -c {source} -o {shlex.quote(target)}",
        }
        for target, (source, command) in plan.items()
    ]
    return json.dumps(entries, indent=1) + "\n"


class BuildObjects(build_ext):
    """Has ninja compile every object, then links those of each module."""

    def build_extensions(self) -> None:
        jobs = count_jobs()
        cuda = find_cuda()
        plan = plan_objects(cuda)
        BUILD.mkdir(parents=True, exist_ok=True)
        (BUILD / "build.ninja").write_text(ninja_file(plan))
        Path("compile_commands.json").write_text(compile_commands(plan))
        # On PATH in an environment made for the build, beside Python in one that is not activated.
        ninja = shutil.which("ninja") or f"{BIN_DIR}/ninja"
        command = [ninja, "-f", f"{BUILD}/build.ninja", "-j", jobs]
        status = {"NINJA_STATUS": "[%f of %t, %e s] "}
        if subprocess.run(command, env={**os.environ, **status}).returncode != 0:
            raise SystemExit("makemore_ext was not built: a compiler failed, see above")
        autograd = [target for target in plan if target.startswith(f"{BUILD}/_autograd/")]
        others = [target for target in plan if target not in autograd]
        for extension in self.extensions:
            is_autograd = extension.name == "makemore_ext._autograd"
            extension.extra_objects = extension.depends = autograd if is_autograd else others
            if cuda and not is_autograd:
                extension.extra_objects = [*others, str(cuda.runtime)]
                extension.extra_link_args += ["-Wl,--exclude-libs,ALL", "-ldl", "-lrt"]
        super().build_extensions()


def long_description() -> str:
    """README.md with absolute links, for an index that shows it away from the repository."""
    text = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!https?:|#)", f"]({REPOSITORY}/raw/main/", text)


check_torch()
setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    project_urls={
        "Repository": REPOSITORY,
        "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
    },
    ext_modules=[
        Extension(
            "makemore_ext._C",
            sources=[],
            library_dirs=library_paths(),
            libraries=["c10", "torch", "torch_cpu"],
            extra_link_args=[*STRIPPED],
            language="c++",
        ),
        Extension(
            "makemore_ext._autograd",
            sources=[],
            library_dirs=library_paths(),
            libraries=["c10", "torch", "torch_cpu", "torch_python"],
            extra_link_args=[*STRIPPED],
            language="c++",
        ),
    ],
    cmdclass={"build_ext": BuildObjects},
)
