import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from makemore_ext.__main__ import main
from makemore_ext.makemore import BACKENDS, checkpoint

RunJson = Callable[..., dict[str, Any]]
TINY = ["train", "--hidden", "8", "--batch-size", "4", "--dtype", "float64"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend(backend: str, names_file: Path, run_json: RunJson) -> None:
    arguments = [*TINY, "--data", str(names_file), "--steps", "3", "--samples", "4"]
    found = run_json(*arguments, "--backend", backend)
    assert (found["backend"], found["steps"]) == (backend, 3)
    assert (len(found["minibatch_losses"]), len(found["samples"])) == (3, 4)


def test_first_loss_of_the_notebook(run_json: RunJson) -> None:
    losses = run_json("train", "--steps", "1")["losses"]
    assert losses["first"] == pytest.approx(3.296, abs=5e-3)


def test_learning_rate_decays_from_its_step(names_file: Path, run_json: RunJson) -> None:
    arguments = [*TINY, "--data", str(names_file), "--steps", "3"]
    late, early = (
        run_json(*arguments, "--lr-decay-step", step)["minibatch_losses"] for step in "10"
    )
    assert late[0] == early[0]
    assert late[1] != early[1]


def test_the_same_names_as_sample(names_file: Path, tmp_path: Path, run_json: RunJson) -> None:
    file = str(tmp_path / "out.pt")
    arguments = [*TINY, "--data", str(names_file), "--steps", "3", "--checkpoint", file]
    names = run_json(*arguments)["samples"]
    assert run_json("sample", "--checkpoint", file)["samples"] == names


def test_resumed_training_goes_on_as_if_never_stopped(
    names_file: Path, tmp_path: Path, run_json: RunJson
) -> None:
    file, data = str(tmp_path / "out.pt"), ["--data", str(names_file)]
    straight = run_json(*TINY, *data, "--steps", "7")
    run_json(*TINY, *data, "--steps", "4", "--checkpoint", file)
    resumed = run_json("train", *data, "--steps", "7", "--resume", file)
    compared = ("minibatch_losses", "losses", "samples", "batch_size")
    assert {name: resumed[name] for name in compared} == {name: straight[name] for name in compared}


def test_resumed_training_takes_given_options(
    checkpoint_file: Path, names_file: Path, run_json: RunJson
) -> None:
    arguments = ["train", "--resume", str(checkpoint_file), "--data", str(names_file)]
    found = run_json(*arguments, "--steps", "6", "--lr", "0.5", "--backend", "vectorized")
    assert (found["lr"], found["backend"], found["batch_size"]) == (0.5, "vectorized", 4)


def test_nothing_left_to_train(checkpoint_file: Path, names_file: Path, run_json: RunJson) -> None:
    arguments = ["train", "--resume", str(checkpoint_file), "--data", str(names_file)]
    assert run_json(*arguments, "--steps", "5")["steps_per_second"] is None


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG\r\n\x1a\n"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")]
)
def test_plot_has_the_format_of_its_name(
    name: str, start: bytes, names_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / name
    arguments = [*TINY, "--data", str(names_file), "--steps", "3"]
    assert main([*arguments, "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(start)


def test_nothing_is_written_where_nothing_is_asked_for(
    names_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--data", str(names_file), "--steps", "2"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def interrupted(
    tmp_path_factory: pytest.TempPathFactory, names_file: Path
) -> tuple[Path, int, list[str]]:
    """The checkpoint, the exit status and the stderr of a training that SIGINT ended."""
    file = tmp_path_factory.mktemp("interrupted") / "out.pt"
    arguments = [*TINY, "--data", str(names_file), "--steps", "1000000000"]
    save = ["--checkpoint", str(file), "--checkpoint-every", "10"]
    process = subprocess.Popen(
        [sys.executable, "-m", "makemore_ext", *arguments, *save],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not file.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return file, process.returncode, err.splitlines()


def test_interrupt_says_how_to_go_on(interrupted: tuple[Path, int, list[str]]) -> None:
    file, status, err = interrupted
    assert (status, len(err)) == (130, 2)
    assert err[1].startswith("makemore-ext: interrupted after ")
    assert f"--resume {file} --checkpoint {file}" in err[1]


def test_interrupted_training_can_be_resumed(
    interrupted: tuple[Path, int, list[str]], names_file: Path, run_json: RunJson
) -> None:
    file, data = interrupted[0], ["--data", str(names_file)]
    steps = str(checkpoint.load(file).step + 3)
    resumed = run_json("train", *data, "--resume", str(file), "--steps", steps)
    straight = run_json(*TINY, *data, "--steps", steps)
    assert resumed["minibatch_losses"] == straight["minibatch_losses"]
