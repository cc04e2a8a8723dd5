"""The kernels and the cache of blocks under sanitizers, built without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "c++").split()
CHOICE = "MAKEMORE_EXT_CPU_CAPABILITY"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++20", "-O0", "-Wno-psabi", "-I", str(ROOT / "csrc/cpu"), *SANITIZERS]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
# The bytes of a vector, the compiler's flags, and whether this processor can run the result.
BUILDS = {
    "default": (16, [], True),
    "avx2": (32, AVX2, torch.cpu._is_avx2_supported()),
    "avx512": (64, AVX512, torch.cpu._is_avx512_supported()),
}
EVERY_TIME = "avx2" if torch.cpu._is_avx2_supported() else "default"

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler")


@pytest.mark.long
@pytest.mark.parametrize(
    "capability",
    [pytest.param(name, marks=() if name == EVERY_TIME else pytest.mark.slow) for name in BUILDS],
)
def test_no_error(capability, tmp_path):
    """tests/sanitize/main.cpp with the kernels of one instruction set, as if it were all there is.

    Each takes a minute to compile.
    """
    vector_bytes, flags, runs_here = BUILDS[capability]
    if not runs_here:
        pytest.skip(f"this processor lacks {capability}")
    sources = [*(ROOT / "csrc/cpu").rglob("*.cpp"), ROOT / "tests/sanitize/main.cpp"]
    defines = ["-DMAKEMORE_EXT_CAPABILITY=baseline", f"-DMAKEMORE_EXT_VECTOR_BYTES={vector_bytes}"]
    program = tmp_path / "program"
    subprocess.run([*COMPILER, *FLAGS, *flags, *defines, *sources, "-o", program], check=True)
    environment = {name: v for name, v in os.environ.items() if name != CHOICE}
    result = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "default: no error\n"), result.stderr


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_cache_of_blocks(sanitizer, tmp_path):
    """tests/sanitize/block_cache.cpp: a million blocks from thread to thread, bounds, fork."""
    program = tmp_path / "program"
    sources = [ROOT / "tests/sanitize/block_cache.cpp", ROOT / "csrc/memory/block_cache.cpp"]
    flags = ["-std=c++20", "-O1", "-pthread", f"-fsanitize={sanitizer}"]
    subprocess.run([*COMPILER, *flags, *sources, "-o", program], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "no error\n"), result.stderr
