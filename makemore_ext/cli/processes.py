"""The processes that torchrun starts, of which a command is one."""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from typing import Any

import click
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from makemore_ext.ops.ranks import Ranks, ranks_of

TIMEOUT = datetime.timedelta(seconds=60)
PATIENCE = datetime.timedelta(seconds=5)
NOTICED = "makemore_ext/errors"  # in the store: how many processes have ended in an error


def are_several() -> bool:
    """Whether torchrun has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def all_ranks() -> Iterator[Ranks | None]:
    """Joins the processes to a group of gloo's, for a command of which each runs the whole.

    The first process that an error ends says so, the others end without a word.

    Yields:
        The group; None where torchrun has not started several processes.

    Raises:
        click.ClickException: a message failed, or took longer than TIMEOUT, as another process has
            ended or does not answer.
        click.exceptions.Exit: another process said why.
    """
    if not are_several():
        yield None
        return
    store, rank, size = next(iter(rendezvous("env://")))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        yield ranks_of(None)
    except click.exceptions.Exit:
        raise
    except Exception as error:
        if not _is_first(store):
            raise click.exceptions.Exit(getattr(error, "exit_code", 1)) from error
        if isinstance(error, RuntimeError) and "gloo" in str(error):
            raise click.ClickException(
                f"one of {size} processes has ended, or has not answered for {TIMEOUT.seconds} "
                "seconds; the last checkpoint is whole, if one was written"
            ) from error
        dist.destroy_process_group()  # which is how the others notice
        _wait_for_others(store, size)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _wait_for_others(store: Any, size: int) -> None:
    """Until they have looked who is first, as the store may be this process's, or for a while."""
    end = time.monotonic() + PATIENCE.seconds
    with contextlib.suppress(RuntimeError):
        while store.add(NOTICED, 0) < size and time.monotonic() < end:
            time.sleep(0.01)


def _is_first(store: Any) -> bool:
    with contextlib.suppress(RuntimeError):  # the store may have ended with torchrun
        return store.add(NOTICED, 1) == 1
    return True
