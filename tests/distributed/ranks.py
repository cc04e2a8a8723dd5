"""Processes of a gloo group on this machine, and what they are asked to do."""

import contextlib
import datetime
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

TIMEOUT = datetime.timedelta(seconds=20)


class Ranks:
    """Processes, each a rank; what they are given must be pickled by name.

    They find no test module: it is to be a function of one that the tests share. `sizes` says what
    each has of what they share.
    """

    def __init__(self, sizes: list[int], folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.sizes = sizes
        self.count = count = len(sizes)
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, count, str(folder / "store"), theirs))
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that of a rank that has ended nothing is waited for

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(*arguments)` returns on each rank, or the exception that it raises."""
        for ours in self._pipes:
            ours.send((function, arguments))
        answers = []
        for ours in self._pipes:
            if not ours.poll(120):
                raise TimeoutError("a rank does not answer")
            answers.append(ours.recv())
        return answers

    def results(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `run` returns, which must not be an exception."""
        answers = self.run(function, *arguments)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def close(self) -> None:
        for ours, process in zip(self._pipes, self._processes, strict=True):
            with contextlib.suppress(BrokenPipeError):  # it has ended
                ours.send(None)
            process.join(20)
            process.kill()


def ranks_fixture(sizes: dict[str, list[int]]) -> Any:
    """The fixture of a module whose tests take the processes `ranks`, for each of the sizes."""

    @pytest.fixture(scope="module", params=sizes, ids=sizes)
    def ranks(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Ranks]:
        ranks = Ranks(sizes[request.param], tmp_path_factory.mktemp("ranks"))
        yield ranks
        ranks.close()

    return ranks


def _serve(rank: int, count: int, store: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=TIMEOUT
    )
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            pipe.send(function(*arguments))
        except Exception as error:
            traceback.print_exc()
            pipe.send(error)
    dist.destroy_process_group()
