"""Builds the native half, makemore_ext._C. Everything else about the package is in pyproject.toml.

The CPU kernels (csrc/cpu/*.cpp, one file an operation) are compiled once for each instruction set,
the CUDA kernels (csrc/cuda/*.cu) once for all architectures where there is an nvcc, the rest once.

MAKEMORE_EXT_CUDA=0 leaves CUDA out, =1 makes its absence an error. TORCH_CUDA_ARCH_LIST names other
architectures than ARCHITECTURES. MAX_JOBS bounds how many compilers run at once.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths
except ImportError as error:
    raise SystemExit(
        "makemore_ext needs torch to build: run `pip install torch==2.13.0` first, "
        "or build without --no-build-isolation"
    ) from error

TORCH_MINIMUM = (2, 13)
TORCH_TARGET_VERSION = "0x020d000000000000"  # the stable ABI of 2.13: later versions load it too
ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "11.0", "12.0+PTX")

ROOT = Path(__file__).resolve().parent
CPU_KERNELS = sorted(path for path in Path("csrc/cpu").glob("*.cpp") if path.stem != "dispatch")
COMPILER = shlex.split(os.environ.get("CXX", "c++"))
FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fno-math-errno",  # nobody reads it, and sqrt can be a vector instruction
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-psabi",  # about vector types as arguments: every such function is inlined
    "-fvisibility=hidden",
    f"-ffile-prefix-map={ROOT}/=",
]
KERNEL_BUILDS = {"baseline": ["-DMAKEMORE_EXT_VECTOR_BYTES=16"]}
if platform.machine().lower() in ("x86_64", "amd64"):
    KERNEL_BUILDS["avx2"] = ["-DMAKEMORE_EXT_VECTOR_BYTES=32", "-mavx2", "-mfma", "-mf16c"]
    KERNEL_BUILDS["avx512"] = [
        "-DMAKEMORE_EXT_VECTOR_BYTES=64",
        *("-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # GCC 12 has them in its own headers
    ]
    KERNEL_BUILDS["baseline"].append("-O2")  # few need it here: half the time to compile
    FLAGS.append("-DMAKEMORE_EXT_X86")


def check_requirements() -> None:
    """Exits with one sentence where the build cannot work."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < TORCH_MINIMUM:
        raise SystemExit(f"makemore_ext needs torch >= 2.13 to build, found {torch.__version__}")
    if shutil.which(COMPILER[0]) is None:
        raise SystemExit(
            f"makemore_ext needs a C++20 compiler, `{COMPILER[0]}` was not found: "
            "install g++ or clang++, or name one in CXX"
        )


def inlining_flags() -> list[str]:
    """What GCC needs to inline all that a loop over vectors calls, however large the file grows.

    Its limit for a whole file would leave some lambdas out, which then pass vectors through memory:
    half the speed. Clang has no such limit.
    """
    version = subprocess.run([*COMPILER, "--version"], capture_output=True, text=True).stdout
    return [] if "clang" in version else ["--param=inline-unit-growth=1000"]


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

    def command(self, source: str) -> list[str]:
        flags = ["-std=c++17", "-O3", "-Werror=all-warnings", "-Wno-deprecated-gpu-targets"]
        flags += ["-Xcompiler=-fPIC,-fvisibility=hidden", "-ccbin", COMPILER[0]]
        for name in self.architectures:
            number = name.removesuffix("+PTX").replace(".", "")
            codes = f"sm_{number},compute_{number}" if name.endswith("+PTX") else f"sm_{number}"
            flags.append(f"-gencode=arch=compute_{number},code=[{codes}]")
        return [str(self.nvcc), *flags, "-c", source]


def find_cuda() -> Cuda | None:
    """The toolkit that CUDA_HOME, CUDA_PATH, PATH, /usr/local or pip has; None without CUDA."""
    wanted = os.environ.get("MAKEMORE_EXT_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"MAKEMORE_EXT_CUDA must be 0 or 1, got {wanted!r}")
    if wanted == "0":
        return None
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if nvcc := shutil.which("nvcc"):  # it may be a script that starts another, which says where
        said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True)
        homes += [Path(top) for top in re.findall(r"TOP=(.*)", said.stderr.decode())]
    homes.append(Path("/usr/local/cuda"))
    homes += sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*"))
    home = next((home.resolve() for home in homes if (home / "bin" / "nvcc").is_file()), None)
    if home is None and wanted == "1":
        raise SystemExit(
            "MAKEMORE_EXT_CUDA=1 asks for the CUDA kernels, but no nvcc was found: install the "
            "CUDA toolkit, or name its folder in CUDA_HOME"
        )
    return None if home is None else Cuda(home)


class BuildKernels(BuildExtension):
    """Compiles the kernels, several at once, then the extension around them."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(ROOT / "build" / "extension")  # kept, as the kernels are

    def build_extension(self, extension: Extension) -> None:
        jobs = {}
        common = [*COMPILER, *FLAGS, "-fPIC", *inlining_flags()]
        for source in CPU_KERNELS:
            for capability, flags in KERNEL_BUILDS.items():
                define = f"-DMAKEMORE_EXT_CAPABILITY={capability}"
                jobs[f"{capability}_{source.stem}.o"] = [*common, define, *flags, "-c", str(source)]
        if CUDA:
            for source in sorted(Path("csrc/cuda").glob("*.cu")):
                jobs[f"cuda_{source.stem}.o"] = CUDA.command(str(source))
        folder = Path("build/kernels")
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = pool.map(lambda name: compile_object(jobs[name], folder / name), jobs)
            extension.extra_objects += [str(path) for path in objects]
        if CUDA:
            extension.extra_objects += [str(CUDA.runtime)]
        super().build_extension(extension)


def compile_object(command: list[str], target: Path) -> Path:
    """Runs the compiler unless the object is newer than its sources and was made the same way."""
    record = target.with_suffix(".txt")
    dependencies = target.with_suffix(".d")
    command = [*command, "-MMD", "-MF", str(dependencies), "-o", str(target)]
    if record.exists() and record.read_text() == str(command):
        _, *sources = shlex.split(dependencies.read_text().replace("\\\n", " "))
        made = target.stat().st_mtime
        if all(os.path.exists(path) and os.stat(path).st_mtime < made for path in sources):
            return target
    record.unlink(missing_ok=True)
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True)
    record.write_text(str(command))
    return target


check_requirements()
CUDA = find_cuda()
setup(
    ext_modules=[
        CppExtension(
            "makemore_ext._C",
            [
                "csrc/module.cpp",
                "csrc/ops.cpp",
                *sorted(str(path) for path in Path("csrc/ops").glob("*.cpp")),
                "csrc/cpu/dispatch.cpp",
            ],
            extra_compile_args=[
                *FLAGS,
                f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}",
                *([f'-DMAKEMORE_EXT_CUDA="{" ".join(CUDA.architectures)}"'] if CUDA else []),
                # As system headers, torch's give no warnings; their paths stay out of messages.
                *(f"-isystem{path}" for path in include_paths()),
                *(f"-ffile-prefix-map={path}/=" for path in include_paths()),
            ],
            extra_link_args=["-s", *(["-Wl,--exclude-libs,ALL", "-ldl", "-lrt"] if CUDA else [])],
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
