"""What setup.py decides before anything is compiled: the compiler, CUDA, how many jobs."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import torch

ROOT = Path(__file__).resolve().parents[2]
PATH = os.environ["PATH"]
VARIABLES = (
    "CUDA_HOME",
    "CUDA_PATH",
    "CXX",
    "CXXFLAGS",
    "MAKEMORE_EXT_CUDA",
    "MAX_JOBS",
    "TORCH_CUDA_ARCH_LIST",
)


@pytest.fixture
def folder(tmp_path):
    """All there is on PATH."""
    path = tmp_path / "bin"
    path.mkdir()
    return path


@pytest.fixture
def setup_py(folder, monkeypatch):
    """Calls a function of setup.py with some environment variables."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(folder))

    def call(function, *arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path("setup.py")[function](*arguments)

    return call


def program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def toolkit(tmp_path):
    """A folder that looks like a CUDA toolkit."""
    home = tmp_path / "toolkit"
    (home / "bin").mkdir(parents=True)
    (home / "lib64").mkdir()
    program(home / "bin" / "nvcc", "for version in 75 80 90; do echo compute_$version; done")
    (home / "lib64" / "libcudart_static.a").touch()
    return home


REFUSED = {
    "no number": ({"MAKEMORE_EXT_CUDA": "yes"}, "MAKEMORE_EXT_CUDA must be 0 or 1, got 'yes'"),
    "unknown": ({"TORCH_CUDA_ARCH_LIST": "8.0;6.1"}, "cannot compile for '6.1' of TORCH_CUDA"),
    "a name": ({"TORCH_CUDA_ARCH_LIST": "Hopper"}, "cannot compile for 'Hopper' of TORCH_CUDA"),
}


@pytest.mark.parametrize(("environment", "message"), REFUSED.values(), ids=REFUSED)
def test_cuda_is_refused_in_one_sentence(environment, message, toolkit, setup_py):
    with pytest.raises(SystemExit, match=message) as caught:
        setup_py("find_cuda", CUDA_HOME=str(toolkit), **{"MAKEMORE_EXT_CUDA": "1", **environment})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "built"),
    [
        ("", ["7.5", "8.0", "9.0"]),  # what this nvcc knows of those for users
        ("7.5;9.0+PTX", ["7.5", "9.0+PTX"]),
        (" 8.0 9.0", ["8.0", "9.0"]),
    ],
)
def test_architectures(asked, built, toolkit, setup_py):
    cuda = setup_py(
        "find_cuda", CUDA_HOME=str(toolkit), MAKEMORE_EXT_CUDA="1", TORCH_CUDA_ARCH_LIST=asked
    )
    assert cuda.architectures == built
    assert [part for part in cuda.command() if "gencode" in part] == [
        f"-gencode=arch=compute_{number},code=[sm_{number}{',compute_' + number if ptx else ''}]"
        for number, ptx in ((name[:3].replace(".", ""), "PTX" in name) for name in built)
    ]


def test_a_toolkit_without_its_runtime_is_refused(toolkit, setup_py):
    (toolkit / "lib64" / "libcudart_static.a").unlink()
    with pytest.raises(SystemExit, match=r"lacks libcudart_static\.a: install CUDA 13 or set"):
        setup_py("find_cuda", CUDA_HOME=str(toolkit), MAKEMORE_EXT_CUDA="1")


@pytest.mark.parametrize(
    ("asked", "torch_has_cuda", "built"),
    [("", False, False), ("", True, True), ("0", True, False), ("1", False, True)],
)
def test_cuda_is_for_a_torch_that_has_it_or_on_demand(
    asked, torch_has_cuda, built, toolkit, setup_py, monkeypatch
):
    monkeypatch.setattr(torch.version, "cuda", "13.0" if torch_has_cuda else None)
    cuda = setup_py("find_cuda", CUDA_HOME=str(toolkit), MAKEMORE_EXT_CUDA=asked)
    assert (cuda is not None) is built


@pytest.mark.parametrize("torch_has_cuda", [False, True])
def test_without_nvcc(torch_has_cuda, setup_py, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0" if torch_has_cuda else None)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    assert setup_py("find_cuda") is None
    with pytest.raises(SystemExit, match=r"^MAKEMORE_EXT_CUDA=1 asks for .* but no nvcc was found"):
        setup_py("find_cuda", MAKEMORE_EXT_CUDA="1")


COMPILERS = {
    "oldest g++": ("echo '#define __GNUC__ 11'", "g++"),
    "oldest clang": ("echo '#define __GNUC__ 4'; echo '#define __clang_major__ 14'", "clang++"),
    "old g++": ("echo '#define __GNUC__ 10'", "needs a C++20 compiler, `cxx` is g++ 10: install"),
    "old clang": (
        "echo '#define __clang_major__ 13'; echo '#define __GNUC__ 4'",
        "needs a C++20 compiler, `cxx` is clang++ 13: install g++ 11 or clang++ 14",
    ),
    "another": ("exit 1", "needs a C++20 compiler, `cxx` is none that it knows: install"),
    "none": (None, "needs a C++20 compiler, `cxx` was not found: install g++ 11 or clang++ 14"),
}


@pytest.mark.parametrize(("script", "answer"), COMPILERS.values(), ids=COMPILERS)
def test_compiler(script, answer, folder, setup_py):
    if script:
        program(folder / "cxx", script)
    if answer in ("g++", "clang++"):
        assert setup_py("find_compiler", CXX="cxx") == answer
        return
    with pytest.raises(SystemExit, match=answer.replace("+", r"\+")) as caught:
        setup_py("find_compiler", CXX="cxx")
    assert "\n" not in str(caught.value)


def test_an_empty_variable_counts_for_none(folder, setup_py):
    program(folder / "c++", "echo '#define __GNUC__ 12'")
    assert setup_py("find_compiler", CXX="") == "g++"
    assert setup_py("count_jobs", MAX_JOBS="") == setup_py("count_jobs")


@pytest.mark.parametrize("jobs", ["0", "-1", "x", "1.5"])
def test_jobs_are_refused_in_one_sentence(jobs, setup_py):
    with pytest.raises(SystemExit) as caught:
        setup_py("count_jobs", MAX_JOBS=jobs)
    assert str(caught.value) == f"MAX_JOBS must be a whole number, 1 or more, got {jobs!r}"


def test_another_torch_compiles_again_what_includes_it(folder, setup_py, monkeypatch):
    program(folder / "c++", "echo '#define __GNUC__ 12'")
    before = setup_py("plan_objects", None)
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    after = setup_py("plan_objects", None)
    changed = {Path(target).parts[2] for target in before if before[target] != after[target]}
    assert changed == {"_C", "_autograd"}


def test_editors_read_how_each_source_is_compiled(folder, setup_py):
    program(folder / "c++", "echo '#define __GNUC__ 12'")
    plan = setup_py("plan_objects", None)
    entries = json.loads(setup_py("compile_commands", plan))
    assert [(entry["file"], entry["output"]) for entry in entries] == [
        (source, target) for target, (source, _) in plan.items()
    ]
    assert {entry["directory"] for entry in entries} == {str(ROOT)}
    first = {entry["file"]: entry["command"] for entry in reversed(entries)}
    kernel, operator = "csrc/cpu/embedding/embedding.cpp", "csrc/ops/embedding.cpp"
    assert "-DMAKEMORE_EXT_CAPABILITY=baseline" in first[kernel]
    assert "-DTORCH_TARGET_VERSION=" in first[operator]
    assert all(f" -c {source} -o build/objects/" in first[source] for source in (kernel, operator))


TORCHES = {
    "none": ("raise ModuleNotFoundError('torch', name='torch')", "needs torch to build: run `pip"),
    "old": ("__version__ = '2.12.1+cpu'", "needs torch >= 2.13 to build, found 2.12.1"),
}


@pytest.mark.parametrize(("module", "message"), TORCHES.values(), ids=TORCHES)
def test_torch_is_refused_in_one_sentence(module, message, tmp_path):
    (tmp_path / "torch" / "utils").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").write_text(module)
    (tmp_path / "torch" / "utils" / "cpp_extension.py").write_text(
        "include_paths = library_paths = list"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import runpy; "
    run = subprocess.run(
        [sys.executable, "-c", code + "runpy.run_path('setup.py')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert message in run.stderr
    assert run.stderr.count("\n") == 1


def test_long_description_has_no_relative_links(setup_py):
    text = setup_py("long_description")
    assert text.startswith("# makemore_ext")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links
    assert all(link.startswith(("https://", "#")) for link in links)


def test_flags_of_the_caller_come_last(setup_py, monkeypatch):
    monkeypatch.setenv("PATH", PATH)
    plan = setup_py("plan_objects", None, CXXFLAGS="-O1 -DNAME='a b'")
    assert all(command.endswith("-O1 '-DNAME=a b'") for _, command in plan.values())


@pytest.mark.parametrize(("flags", "stripped"), [("", ["-s"]), ("-O1", ["-s"]), ("-O1 -g1", [])])
def test_symbols_stay_where_they_are_asked_for(flags, stripped, setup_py, monkeypatch):
    monkeypatch.setenv("CXXFLAGS", flags)
    assert runpy.run_path("setup.py")["STRIPPED"] == stripped
