"""What all commands share: JSON files with their provenance, and text without control codes."""

import json
import math
from pathlib import Path

import click
import pytest

from makemore_ext.__main__ import main
from makemore_ext.cli import cli
from makemore_ext.cli.output import write_json

COMPARE = ["compare", "--backends", "fused", "--steps", "2", "--rounds", "1", "--hidden", "8"]
COMPARE += ["--data", "{names}"]
TRAIN = ["train", "--steps", "2", "--hidden", "8", "--data", "{names}"]
COMMANDS = [["check"], ["info"], ["sample", "--checkpoint", "{checkpoint}"], COMPARE, TRAIN]


@pytest.fixture(params=COMMANDS, ids=lambda arguments: arguments[0])
def arguments(request: pytest.FixtureRequest, names_file: Path, checkpoint_file: Path) -> list[str]:
    files = {"names": names_file, "checkpoint": checkpoint_file}
    return [argument.format(**files) for argument in request.param]


def test_json_to_stdout_stands_alone(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*arguments, "--json", "-"]) == 0
    provenance = json.loads(capsys.readouterr().out)["provenance"]
    assert provenance["command"] == " ".join(["makemore-ext", *arguments, "--json", "-"])


def test_no_control_codes_without_a_terminal(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(arguments) == 0
    assert "\x1b" not in "".join(capsys.readouterr())


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    with click.Context(cli, obj=[]):
        write_json(str(file), {"losses": [1.5, math.nan, math.inf], "train": (-math.inf,)})
    found = json.loads(file.read_text())
    assert (found["losses"], found["train"]) == ([1.5, None, None], [None])
