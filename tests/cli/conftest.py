import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from makemore_ext.__main__ import main

TINY = ["--backend", "autograd", "--hidden", "8", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def names_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "names.txt"
    file.write_text("emma\nolivia\nava\nisabella\nsophia\nmia\nliam\nnoah\nmason\njacob\n")
    return file


@pytest.fixture(scope="session")
def checkpoint_file(names_file: Path) -> Path:
    file = names_file.with_name("checkpoint.pt")
    train = ["train", *TINY, "--steps", "5", "--data", str(names_file)]
    assert main([*train, "--checkpoint", str(file)]) == 0
    return file


@pytest.fixture
def run_json(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a command that succeeds and returns what it writes to --json FILE."""

    def run(*arguments: str) -> dict[str, Any]:
        file = tmp_path / "out.json"
        assert main([*arguments, "--json", str(file)]) == 0
        return json.loads(file.read_text(encoding="utf-8"))

    return run
