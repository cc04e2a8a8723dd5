"""The CUDA half of the extension as far as it shows without a device."""

import runpy
import shutil
from pathlib import Path

import pytest
import setuptools
import torch
from click.testing import CliRunner

import makemore_ext as mx
from makemore_ext import _validation
from makemore_ext.cli.info import info

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = (
    "cross_entropy_forward",
    "cross_entropy_forward_with_gradient",
    "cross_entropy_backward",
    "cross_entropy_backward_",
    "cross_entropy_scale_",
    "batch_norm_forward",
    "batch_norm_forward_and_update",
    "batch_norm_backward",
    "embedding_backward",
)
architectures = mx.build_info()["cuda_architectures"]
needs_cuda_build = pytest.mark.skipif(
    architectures is None, reason="this build has no CUDA kernels"
)


@needs_cuda_build
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("key", ["CPU", "CUDA"])
def test_registered(name, key):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"makemore_ext::{name}", key)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scale_passes_opcheck(dtype):
    factor = torch.tensor(0.5, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    operator = torch.ops.makemore_ext.cross_entropy_scale_.default
    torch.library.opcheck(operator, (torch.rand(4, 3).to(dtype), factor))


@pytest.mark.parametrize(
    ("gradient", "factor", "message"),
    [
        (torch.ones(3, dtype=torch.int64), torch.ones(()), "gradient must be float16"),
        (torch.ones(3), torch.ones(()).double(), "factor has the wrong dtype"),
        (torch.ones(3), torch.ones(3), "factor must have 0 dimensions"),
        (torch.ones(6)[::2], torch.ones(()), "gradient must be dense"),
    ],
)
def test_scale_refuses(gradient, factor, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.makemore_ext.cross_entropy_scale_(gradient, factor)


@needs_cuda_build
def test_architectures():
    assert all(float(name.removesuffix("+PTX")) >= 7.5 for name in architectures)
    result = CliRunner().invoke(info)
    assert result.exit_code == 0
    assert all(name in result.output for name in architectures)


@pytest.mark.parametrize(
    ("device", "built", "message"),
    [
        ("cpu", None, None),
        ("meta", None, None),
        ("cuda:1", ["8.0"], None),
        ("cuda:1", None, "input is on cuda:1, but this build of makemore_ext has no CUDA kernels"),
        ("xpu", ["8.0"], "input must be on the CPU or a CUDA device, got xpu"),
    ],
)
def test_devices(device, built, message, monkeypatch):
    monkeypatch.setattr(_validation, "cuda_architectures", built)
    if message is None:
        _validation.check_device("input", torch.device(device))
    else:
        with pytest.raises(NotImplementedError, match=message):
            _validation.check_device("input", torch.device(device))


OUTSIDE = {
    "negative": ([0, -1, 2], None, r"target: row 1 has index -1, outside \[0, 5\)"),
    "too large": ([0, 1, 5], None, r"target: row 2 has index 5, outside \[0, 5\)"),
    "not ignored": ([-100, 1, 7], -100, r"target: row 2 has index 7, outside \[0, 5\)"),
    "of several dimensions": ([[0, 1], [2, 9]], None, r"row \[1, 1\] has index 9"),
    "one alone": (9, None, r"row \[\] has index 9"),
}


@pytest.mark.parametrize(("indices", "ignored", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_indices_outside(indices, ignored, message):
    with pytest.raises(IndexError, match=message):
        _validation.check_indices("target", torch.tensor(indices), 5, ignored)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_indices_inside(dtype):
    _validation.check_indices("target", torch.tensor([0, 4, 255], dtype=dtype), 5, 255)


@pytest.mark.parametrize(("value", "asked"), [("1", True), ("0", False), (None, False)])
def test_indices_are_looked_at_when_asked(value, asked, monkeypatch):
    monkeypatch.delenv("MAKEMORE_EXT_CHECK", raising=False)
    if value is not None:
        monkeypatch.setenv("MAKEMORE_EXT_CHECK", value)
    assert _validation.checks_cuda_indices() is asked


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Runs setup.py up to its call of setup(), with these variables and no nvcc on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "c++").symlink_to(shutil.which("c++") or "/bin/true")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX", "MAKEMORE_EXT_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(folder))

    def run(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path("setup.py")["CUDA"]

    return run


FAKE_NVCC = """#!/bin/sh
for version in 75 80 90; do echo compute_$version; done
"""


@pytest.fixture
def toolkit(tmp_path):
    """A folder that looks like a toolkit."""
    home = tmp_path / "toolkit"
    (home / "bin").mkdir(parents=True)
    (home / "lib64").mkdir()
    (home / "bin" / "nvcc").write_text(FAKE_NVCC)
    (home / "bin" / "nvcc").chmod(0o755)
    (home / "lib64" / "libcudart_static.a").touch()
    return home


REFUSED = {
    "no number": ({"MAKEMORE_EXT_CUDA": "yes"}, "MAKEMORE_EXT_CUDA must be 0 or 1, got 'yes'"),
    "unknown": ({"TORCH_CUDA_ARCH_LIST": "8.0;6.1"}, "cannot compile for '6.1' of TORCH_CUDA"),
    "a name": ({"TORCH_CUDA_ARCH_LIST": "Hopper"}, "cannot compile for 'Hopper' of TORCH_CUDA"),
}


@pytest.mark.parametrize(("environment", "message"), REFUSED.values(), ids=REFUSED)
def test_the_build_refuses_in_one_sentence(environment, message, toolkit, build):
    with pytest.raises(SystemExit, match=message) as caught:
        build(CUDA_HOME=str(toolkit), **environment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "built"),
    [
        ("", ["7.5", "8.0", "9.0"]),  # what this nvcc knows of the list
        ("7.5;9.0+PTX", ["7.5", "9.0+PTX"]),
        (" 8.0 9.0", ["8.0", "9.0"]),
    ],
)
def test_the_build_takes_architectures(asked, built, toolkit, build):
    cuda = build(CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST=asked)
    assert cuda.architectures == built
    command = cuda.command("any.cu")
    assert [part for part in command if "gencode" in part] == [
        f"-gencode=arch=compute_{number},code=[sm_{number}{',compute_' + number if ptx else ''}]"
        for number, ptx in ((name[:3].replace(".", ""), "PTX" in name) for name in built)
    ]


def test_a_toolkit_without_its_runtime_is_refused(toolkit, build):
    (toolkit / "lib64" / "libcudart_static.a").unlink()
    with pytest.raises(SystemExit, match=r"lacks libcudart_static\.a: install CUDA 13 or set"):
        build(CUDA_HOME=str(toolkit))


def test_cuda_may_be_left_out(toolkit, build):
    assert build(CUDA_HOME=str(toolkit), MAKEMORE_EXT_CUDA="0") is None


def test_without_nvcc(build, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert build() is None
    with pytest.raises(SystemExit, match=r"^MAKEMORE_EXT_CUDA=1 asks for .* but no nvcc was found"):
        build(MAKEMORE_EXT_CUDA="1")
