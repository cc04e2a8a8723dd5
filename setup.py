"""Builds the native half, makemore_ext._C. Everything else about the package is in pyproject.toml.

The CPU kernels (csrc/cpu/kernels.cpp) are compiled once for each instruction set, the rest once.
"""

import os
import platform
import shutil
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

ROOT = Path(__file__).resolve().parent
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
    FLAGS.append("-DMAKEMORE_EXT_X86")


class BuildKernels(BuildExtension):
    """Compiles the kernels for each instruction set, then the extension around them."""

    def build_extension(self, extension: Extension) -> None:
        for capability, flags in KERNEL_BUILDS.items():
            extension.extra_objects += self.compiler.compile(
                ["csrc/cpu/kernels.cpp"],
                output_dir=str(Path(self.build_temp, capability)),
                extra_postargs=[*FLAGS, f"-DMAKEMORE_EXT_CAPABILITY={capability}", *flags],
                depends=[str(path) for path in sorted(Path("csrc").rglob("*.h"))],
            )
        super().build_extension(extension)


def check_requirements() -> None:
    """Exits with one sentence where the build cannot work."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < TORCH_MINIMUM:
        raise SystemExit(f"makemore_ext needs torch >= 2.13 to build, found {torch.__version__}")
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        raise SystemExit(
            f"makemore_ext needs a C++20 compiler, `{compiler}` was not found: "
            "install g++ or clang++, or name one in CXX"
        )


check_requirements()
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
                # As system headers, torch's give no warnings; their paths stay out of messages.
                *(f"-isystem{path}" for path in include_paths()),
                *(f"-ffile-prefix-map={path}/=" for path in include_paths()),
            ],
            extra_link_args=["-s"],
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
