"""What surrounds the kernels: import, build information, the choice of instruction set."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import makemore_ext as mx

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_needs_torch_alone():
    code = """
import sys, torch
before = set(sys.modules)
import makemore_ext
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    imported = set(python(code).stdout.split())
    assert "makemore_ext" in imported
    assert imported - {"makemore_ext"} <= set(sys.stdlib_module_names)


def test_build_info():
    info = mx.build_info()
    assert info["version"] == mx.__version__
    assert tuple(map(int, info["torch"].split(".")[:2])) >= (2, 13)
    assert info["cpu_capability"] in ("default", "avx2", "avx512")


CAPABILITY = "import makemore_ext; print(makemore_ext.build_info()['cpu_capability'])"


def test_capability_can_be_forced():
    result = python(CAPABILITY, MAKEMORE_EXT_CPU_CAPABILITY="default")
    assert result.stdout.strip() == "default"


@pytest.mark.parametrize("value", ["AVX2", "no"])
def test_unknown_capability(value):
    result = python(CAPABILITY, MAKEMORE_EXT_CPU_CAPABILITY=value)
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: MAKEMORE_EXT_CPU_CAPABILITY must be one of 'default'")
    assert message.endswith(f" on this processor, got '{value}'")


def test_the_kernels_of_both_capabilities_agree():
    code = """
import torch, makemore_ext as mx
x = torch.randn(37, 29, generator=torch.Generator().manual_seed(0), requires_grad=True)
y = mx.batch_norm(x, None, None, training=True, activation="tanh")
loss = mx.cross_entropy(5 * y, torch.arange(37) % 29)
loss.backward()
print(loss.item(), *x.grad.flatten().tolist())
"""
    outputs = [
        python(code, MAKEMORE_EXT_CPU_CAPABILITY=value).stdout.split() for value in ("default", "")
    ]
    default, best = (torch.tensor([float(v) for v in output]) for output in outputs)
    assert len(default) == 1 + 37 * 29
    torch.testing.assert_close(default, best)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = "pip wheel --quiet --no-build-isolation --no-deps --wheel-dir"
    subprocess.run(
        [sys.executable, "-m", *command.split(), folder, ROOT],
        env={"TORCH_CUDA_ARCH_LIST": "7.5+PTX", **os.environ},  # as in the Makefile: built already
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"makemore_ext"}
    assert not [name for name in names if name.endswith((".cpp", ".h", ".cu", ".cuh", ".o"))]
    assert "makemore_ext/makemore/names.txt" in names
    assert "makemore_ext/py.typed" in names


def test_wheel_holds_no_path_of_the_machine_that_built_it(wheel):
    archive = zipfile.ZipFile(wheel)
    places = [str(ROOT), sys.prefix]
    for name in archive.namelist():
        content = archive.read(name)
        for place in places:
            assert place.encode() not in content, f"{place} in {name}"
