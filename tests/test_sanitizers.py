"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, built without Python."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPILER = os.environ.get("CXX", "c++").split()
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++20", "-O1", "-g", "-Wno-psabi", "-I", str(ROOT / "csrc/cpu"), *SANITIZERS]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
BUILDS = {"default": ("baseline", "16", [])}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS |= {"avx2": ("avx2", "32", AVX2), "avx512": ("avx512", "64", AVX512)}

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/sanitize/main.cpp with the kernels of every instruction set this processor has."""
    folder = tmp_path_factory.mktemp("sanitize")
    defines = ["-DMAKEMORE_EXT_X86"] if "avx2" in BUILDS else []
    compilers = [
        subprocess.Popen(
            [
                *[*COMPILER, *FLAGS, *flags, "-c", ROOT / "csrc/cpu/kernels.cpp"],
                f"-DMAKEMORE_EXT_CAPABILITY={name}",
                f"-DMAKEMORE_EXT_VECTOR_BYTES={width}",
                *["-o", folder / f"{name}.o"],
            ]
        )
        for name, width, flags in BUILDS.values()
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
    sources = [ROOT / "csrc/cpu/dispatch.cpp", ROOT / "tests/sanitize/main.cpp"]
    link = [*COMPILER, *FLAGS, *defines, *sources, *folder.glob("*.o"), "-o", folder / "program"]
    subprocess.run(link, check=True)
    return folder / "program"


@pytest.mark.parametrize("capability", BUILDS)
def test_no_error(program, capability):
    result = subprocess.run(
        [program],
        env={**os.environ, "MAKEMORE_EXT_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    if "must be one of" in result.stderr:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert (result.returncode, result.stdout) == (0, f"{capability}: no error\n"), result.stderr
