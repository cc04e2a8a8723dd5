"""Processes of a gloo group on this machine, and what they are asked to do."""

import datetime
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

TIMEOUT = datetime.timedelta(seconds=20)


class Ranks:
    """`count` processes, each a rank; what they are given must be pickled by name."""

    def __init__(self, count: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        self._pipes = [context.Pipe() for _ in range(count)]
        self._processes = [
            context.Process(target=_serve, args=(rank, count, str(folder / "store"), pipe[1]))
            for rank, pipe in enumerate(self._pipes)
        ]
        for process in self._processes:
            process.start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(*arguments)` returns on each rank, or the exception that it raises."""
        for ours, _ in self._pipes:
            ours.send((function, arguments))
        answers = []
        for ours, _ in self._pipes:
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
        for (ours, _), process in zip(self._pipes, self._processes, strict=True):
            ours.send(None)
            process.join(20)
            process.kill()


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
