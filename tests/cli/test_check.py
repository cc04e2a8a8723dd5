from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore_ext import reference
from makemore_ext.__main__ import main

RunJson = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    "options", [[], ["--dtype", "float64"], ["--hidden", "5", "--batch-size", "8", "--seed", "1"]]
)
def test_every_row_agrees(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *options]) == 0
    assert capsys.readouterr().out.endswith("\n52 of 52 rows agree with autograd\n")


def test_json_holds_the_26_rows_of_exercise_1(run_json: RunJson) -> None:
    tables = run_json("check")["tables"]
    assert len(next(iter(tables.values()))) == 26


def test_wrong_formula_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(dhpreact: torch.Tensor, *_: object) -> torch.Tensor:
        return dhpreact

    monkeypatch.setattr(reference, "batch_norm_backward", wrong)
    assert main(["check"]) == 1
    out, err = capsys.readouterr()
    assert "51 of 52 rows agree with autograd" in out
    assert err.count("\n") == 1
    assert "hprebn, closed form" in err


def test_html_is_one_page_with_every_row(tmp_path: Path) -> None:
    file = tmp_path / "check.html"
    assert main(["check", "--html", str(file)]) == 0
    page = file.read_text(encoding="utf-8")
    assert page.count("<tr><td>") == 52
    assert page.count("data:image/svg+xml;base64,") == 1
    assert 'src="http' not in page
    assert "52 of 52 rows agree with autograd" in page


def test_html_marks_what_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "check.html"
    monkeypatch.setattr(reference, "batch_norm_backward", lambda dhpreact, *_: dhpreact)
    assert main(["check", "--html", str(file)]) == 1
    assert file.read_text(encoding="utf-8").count('<tr class="off"><td>hprebn, closed form') == 1


def test_html_file_has_that_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--html", str(tmp_path / "check.txt")]) == 2
    assert "must end in .html" in capsys.readouterr().err
