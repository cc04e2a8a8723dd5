from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore_ext.__main__ import main
from makemore_ext.makemore.backends import BACKENDS

RunJson = Callable[..., dict[str, Any]]
TINY = ["compare", "--steps", "6", "--rounds", "2", "--hidden", "8", "--batch-size", "4"]
TINY += ["--backends", ",".join(BACKENDS)]  # without the peers that happen to be installed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_backend_agrees(dtype: str, run_json: RunJson) -> None:
    found = run_json(*TINY, "--dtype", dtype)["backends"]
    assert {run["backend"]: run["agrees"] for run in found} == dict.fromkeys(BACKENDS, True)


def test_autograd_is_always_there(run_json: RunJson) -> None:
    found = run_json(*TINY, "--backends", "vectorized")["backends"]
    assert [run["backend"] for run in found] == ["vectorized", "autograd"]


def test_wrong_backend_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: Any) -> Any:
        loss, gradients = BACKENDS["autograd"](*arguments)
        return loss, gradients._replace(C=torch.zeros_like(gradients.C))

    monkeypatch.setitem(BACKENDS, "fused", wrong)
    assert main(TINY) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [
        "makemore-ext: error: fused: losses are not those of autograd"
    ]


def test_plot_is_a_png(tmp_path: Path) -> None:
    file = tmp_path / "speed.png"
    assert main([*TINY, "--plot", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_one_thread_unless_told(run_json: RunJson) -> None:
    threads = [
        run_json(*TINY, *options)["provenance"]["threads"] for options in ([], ["--threads", "2"])
    ]
    assert threads == [1, 2]
