"""Every error is one line on stderr and an exit status, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from makemore_ext.__main__ import main

RESUME = ["train", "--resume", "{checkpoint}", "--data", "{names}"]
BAD_USAGE = [
    (["--nonsense"], "No such option"),
    (["nonsense"], "No such command"),
    (["check", "--nonsense"], "No such option"),
    (["check", "--dtype", "float16"], "'float16' is not one of"),
    (["check", "--hidden", "0"], "'--hidden'"),
    (["check", "--seed", "-1"], "'--seed'"),
    (["info", "--threads", "0"], "'--threads'"),
    (["info", "--json", "{folder}/none/out.json"], "must be in a folder that exists, got"),
    (["info", "--json", "{folder}"], "is a directory"),
    (["train", "--backend", "jax"], "'jax' is not one of"),
    (["train", "--lr", "nan"], "lr must be finite"),
    (["train", "--steps", "0"], "'--steps'"),
    (["train", "--data", "{folder}/none.txt"], "none.txt: No such file"),
    (["train", "--data", "{empty}"], "empty.txt must hold at least 6 names"),
    (["train", "--data", "{binary}"], "binary.txt, line 2, must be UTF-8, got byte 0xff"),
    (["train", "--checkpoint", "{folder}/none/out.pt"], "cannot be written"),
    (["train", "--plot", "{folder}/none/out.png"], "must be in a folder that exists, got"),
    (["train", "--plot", "{folder}/out.gif"], "must end in one of"),
    ([*RESUME[:2], "{folder}/none.pt"], "none.pt: No such file"),
    ([*RESUME[:2], "{damaged}"], "damaged"),
    (RESUME[:3], "must hold characters of '."),
    ([*RESUME[:3], "--data", "{other}"], "dataset must be the one that"),
    ([*RESUME[:3], "--data", "{accent}"], "got 'é' in 'noé'"),
    ([*RESUME, "--hidden", "8"], "--hidden must be left to the checkpoint of --resume, got 8"),
    ([*RESUME, "--split-seed", "1"], "of seed 42, got 1"),
    ([*RESUME, "--steps", "4"], "--steps must be at least 5"),
    (["sample"], "Missing option '--checkpoint'"),
    (["sample", "--checkpoint", "{damaged}"], "damaged"),
    (["compare", "--backends", "manual,jax"], "fused_mlp, got 'jax'"),
    (["compare", "--steps", "3", "--rounds", "4"], "--rounds must be at most --steps, 3, got 4"),
]


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, names_file: Path, checkpoint_file: Path
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("errors")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "binary.txt").write_bytes(b"emma\n\xff\n")
    (folder / "accent.txt").write_text(names_file.read_text() + "noé\n", encoding="utf-8")
    (folder / "other.txt").write_text("emma\n" + names_file.read_text(), encoding="utf-8")
    (folder / "damaged.pt").write_bytes(checkpoint_file.read_bytes()[:-100])
    created = {file.stem: file for file in folder.iterdir()}
    return {**created, "folder": folder, "names": names_file, "checkpoint": checkpoint_file}


@pytest.mark.parametrize(("arguments", "message"), BAD_USAGE)
def test_bad_usage_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    files: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    status = main([argument.format(**files) for argument in arguments])
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("makemore-ext: error: ")
    assert message in err


def test_diverged_training_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "out.pt"
    status = main(["train", "--hidden", "8", "--lr", "1e30", "--checkpoint", str(file)])
    out, err = capsys.readouterr()
    assert (status, out, file.exists()) == (1, "", False)
    assert err.splitlines()[1:] == [
        "makemore-ext: error: loss must be finite, got nan at step 2: training diverged, "
        "choose a smaller --lr"
    ]


@pytest.mark.parametrize("package", ["click", "rich"])
def test_missing_package_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("makemore_ext.cli")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    status = main(["info"])
    message = f"makemore-ext: error: {package} is missing: pip install 'makemore_ext[cli]'\n"
    assert (status, capsys.readouterr().err) == (1, message)


def test_unexpected_error_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("makemore_ext.build_info", fail)
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "makemore-ext: error: RuntimeError: two lines\n"


def test_closed_pipe_is_quiet() -> None:
    command = [sys.executable, "-m", "makemore_ext", "info"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait() == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_is_one_line_and_status_1() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "makemore_ext", "info"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    message = "makemore-ext: error: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, message)
