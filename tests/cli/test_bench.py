import json
from pathlib import Path

import pytest
import torch

from makemore_ext import bench
from makemore_ext.__main__ import main
from makemore_ext.bench import changes, interleaved


@pytest.mark.parametrize("operation", ["cross_entropy", "batch_norm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_measures_what_is_asked_for(
    operation: str, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--operation", operation, "--shape", "8x5", "--shape", "2x3x4", "--dtype", dtype]
    assert main(["bench", *arguments, "--rounds", "1", "--json", "-"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert [m["shape"] for m in measured] == [[8, 5], [2, 3, 4]]
    for m in measured:
        assert m["operation"] == operation
        assert m["seconds"].keys() == {"copy", "torch", "makemore_ext"}
        assert all(seconds > 0 for seconds in m["seconds"].values())


@pytest.mark.parametrize("operation", bench.OPERATIONS)
def test_shapes_of_its_own(operation: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--operation", operation, "--rounds", "1", "--json", "-"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert [tuple(m["shape"]) for m in measured] == [*bench.SHAPES[operation]]


@pytest.mark.parametrize("shape", ["", "7", "4x", "4x0", "axb", "-1x2"])
def test_bad_shape(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--shape", shape]) == 2
    assert "must be two sizes or more" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda"]) == 2
    assert "--device must be cpu where torch finds no CUDA device" in capsys.readouterr().err


def test_turns_of_as_many_calls_for_each() -> None:
    called = ""

    def contender(name: str) -> None:
        nonlocal called
        called += name

    functions = {name: lambda name=name: contender(name) for name in "ab"}
    assert interleaved(functions, rounds=2, calls=3).keys() == {"a", "b"}
    assert called == "ab" + 2 * "aaabbb"


@pytest.fixture
def _few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind, small."""
    names = ("loss alone, 32x27, float32", "batch_norm tanh, 32x200, bfloat16")
    names = (*names, "embedding, 27x10, float32", "training step, batch 32, 64 hidden units")
    few = {name: bench.QUESTIONS[name] for name in names}
    monkeypatch.setattr("makemore_ext.cli.bench.QUESTIONS", few)


@pytest.mark.usefixtures("_few_questions")
def test_all_measures_every_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--all", "--quick", "--rounds", "2", "--json", "-"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["rounds"] == 2
    assert {"date", "processor", "torch"} <= written["provenance"].keys()
    assert len(written["questions"]) == 4
    for answer in written["questions"]:
        assert {"torch", "makemore_ext"} <= answer["seconds"].keys()
        assert all(len(of_rounds) == 2 for of_rounds in answer["seconds"].values())


@pytest.mark.usefixtures("_few_questions")
def test_compare_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("old.json", "new.json")]
    for file in files:
        assert main(["bench", "--all", "--rounds", "2", "--json", file]) == 0
    capsys.readouterr()
    assert main(["bench", "--compare", *files]) == 0
    assert " of 4 changed beyond noise\n" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"measured": []}'])
def test_compare_refuses_other_files(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    assert main(["bench", "--compare", str(file), str(file)]) == 2
    assert "must be a file of bench --all --json" in capsys.readouterr().err


def answer(torch_seconds: list[float], ours: list[float]) -> list[dict[str, object]]:
    return [{"question": "q", "seconds": {"torch": torch_seconds, "makemore_ext": ours}}]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.0], [0.5, 0.55, 0.45, 0.5], "faster"),
        ([1.0, 1.1, 0.9, 1.0], [2.0, 2.2, 1.8, 2.0], "slower"),
        ([1.0, 1.1, 0.9, 1.0], [0.95, 1.05, 0.85, 0.98], ""),  # within the noise
        ([1.0, 1.0, 1.0, 1.0], [0.92, 0.92, 0.92, 0.92], ""),  # too little
        ([1.0], [0.5], "faster"),
    ],
)
def test_what_is_beyond_noise(before: list[float], after: list[float], verdict: str) -> None:
    slow_machine = [3.0] * len(before), [3 * ours for ours in before]
    (change,) = changes(answer(*slow_machine), answer([1.0] * len(after), after))
    assert change.verdict == verdict


def test_what_one_file_alone_has_is_left_out() -> None:
    assert changes(answer([1.0], [1.0]), [{**answer([1.0], [1.0])[0], "question": "other"}]) == []
