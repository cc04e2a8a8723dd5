import json

import pytest
import torch

from makemore_ext.__main__ import main
from makemore_ext.bench import interleaved


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
