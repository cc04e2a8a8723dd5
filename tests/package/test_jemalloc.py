"""The second run of benchmarks, under another malloc."""

import ctypes.util
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from measure import jemalloc
jemalloc.answer([{{"options": sys.argv[1:]}}])
"""


@pytest.fixture
def jemalloc(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("measure.jemalloc")


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(folder=str(ROOT / "benchmarks")), encoding="utf-8")
    return str(path)


@pytest.mark.skipif(ctypes.util.find_library("jemalloc") is None, reason="jemalloc is missing")
def test_a_program_answers_from_under_jemalloc(jemalloc, program):
    answer = jemalloc.rerun(program, ["--quick"])
    assert answer["results"] == [{"options": ["--quick", jemalloc.OPTION]}]


def test_where_jemalloc_is_missing_its_package_is_named(jemalloc, program, monkeypatch, capsys):
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert jemalloc.rerun(program, []) is None
    assert jemalloc.PACKAGE in capsys.readouterr().out


def test_a_process_without_jemalloc_gives_no_results(jemalloc, monkeypatch, capsys):
    monkeypatch.setattr(jemalloc.ctypes, "CDLL", lambda name: object())
    with pytest.raises(RuntimeError, match="not preloaded"):
        jemalloc.answer([])
    assert capsys.readouterr().out == ""
