"""Finding nvcc and what it makes."""

import os
import subprocess
import sys

import pytest
from cuda_bench import find_nvcc, toolkit
from samples import KERNELS, needs_nvcc


@pytest.fixture
def fresh():
    """The search begins anew, before and after."""
    toolkit.home.cache_clear()
    yield
    toolkit.home.cache_clear()


@pytest.fixture
def toolkit_folder(tmp_path):
    folder = tmp_path / "somewhere" / "cuda"
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho '#$ TOP={folder}/bin/..' >&2\n")
    nvcc.chmod(0o755)
    return folder


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_the_environment_names_it(variable, toolkit_folder, fresh, monkeypatch):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv(variable, str(toolkit_folder))
    assert toolkit.home() == toolkit_folder


def test_behind_a_script_on_path(toolkit_folder, fresh, monkeypatch, tmp_path):
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {toolkit_folder}/bin/nvcc "$@"\n')
    script.chmod(0o755)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    assert toolkit.home() == toolkit_folder


def test_a_folder_without_nvcc_is_passed_over(toolkit_folder, fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_PATH", str(toolkit_folder))
    assert toolkit.home() == toolkit_folder


def test_the_script_prints_it(toolkit_folder):
    environment = {**os.environ, "CUDA_HOME": str(toolkit_folder)}
    command = [sys.executable, find_nvcc.__file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"{toolkit_folder}\n"


@needs_nvcc
def test_what_changes_the_key(tmp_path):
    source, header = tmp_path / "a.cu", tmp_path / "b.cuh"
    source.write_text('#include "b.cuh"\n')
    header.write_text("// one\n")
    keys = {toolkit.key(source, "8.0"), toolkit.key(source, "9.0")}
    header.write_text("// two\n")
    keys.add(toolkit.key(source, "8.0"))
    source.write_text('#include "b.cuh"\n//\n')
    keys.add(toolkit.key(source, "8.0"))
    assert len(keys) == 4
    assert toolkit.key(source, "8.0") in keys


@needs_nvcc
def test_an_error_in_the_source_is_shown(tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text("__global__ void k() { undeclared = 1; }\n")
    with pytest.raises(toolkit.CompileError, match="undeclared"):
        toolkit.compile_ptx(source)


@needs_nvcc
def test_a_file_is_compiled_once(monkeypatch):
    first = toolkit.compile_ptx(KERNELS / "scale.cu")
    monkeypatch.setattr(toolkit, "run", None)
    assert toolkit.compile_ptx(KERNELS / "scale.cu") == first


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(partial):
        partial.write_text("half")
        raise toolkit.CompileError("no")

    with pytest.raises(toolkit.CompileError):
        toolkit.make(tmp_path / "target", build)
    assert list(tmp_path.iterdir()) == []
