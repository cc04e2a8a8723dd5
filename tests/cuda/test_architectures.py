"""The architectures that a build is compiled for: every device from 7.5 to 12.x finds code."""

import re
import runpy
from pathlib import Path

import pytest
import setuptools
from cuda_bench import toolkit
from launched import needs_nvcc

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shipped(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setenv("MAKEMORE_EXT_CUDA", "0")
    return runpy.run_path("setup.py")["ARCHITECTURES"]


def runs(code, device):
    """Machine code runs on later minor versions too, PTX on all later ones."""
    major, minor = map(int, code.removesuffix("+PTX").split("."))
    return (major, minor) <= device and ("+PTX" in code or major == device[0])


@needs_nvcc
def test_every_device_finds_code(shipped):
    listed = re.findall(r"compute_(\d+)(\d)\b", toolkit.run([toolkit.nvcc(), "--list-gpu-arch"]))
    devices = {(int(major), int(minor)) for major, minor in listed}
    known = {device for device in devices if (7, 5) <= device < (13, 0)}
    assert known
    assert not {device for device in known if not any(runs(code, device) for code in shipped)}


def test_the_static_checks_are_of_what_is_shipped(shipped):
    assert [code.removesuffix("+PTX") for code in shipped] == list(toolkit.ARCHITECTURES)
