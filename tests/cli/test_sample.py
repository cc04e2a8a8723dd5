from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from makemore_ext.__main__ import main

RunJson = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_count(count: int, checkpoint_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["sample", "--checkpoint", str(checkpoint_file), "--count", str(count)]) == 0
    assert capsys.readouterr().out.count("\n") == count


def test_max_length(checkpoint_file: Path, run_json: RunJson) -> None:
    names = run_json("sample", "--checkpoint", str(checkpoint_file), "--max-length", "2")["samples"]
    assert max(map(len, names)) == 2


@pytest.mark.parametrize(("seeds", "same"), [(("1", "1"), True), (("1", "2"), False)])
def test_seed(seeds: tuple[str, str], same: bool, checkpoint_file: Path, run_json: RunJson) -> None:
    first, second = (
        run_json("sample", "--checkpoint", str(checkpoint_file), "--seed", seed)["samples"]
        for seed in seeds
    )
    assert (first == second) is same
