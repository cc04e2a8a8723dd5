"""Ctrl-C that takes effect between two steps, never within one."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Hold back SIGINT inside the block until the function it yields is called, or its end.

    The handler in place before then runs, as if the signal had come at that moment. In a thread
    other than the main one, which never sees a signal, and where SIGINT is ignored or has its
    default action, nothing changes.
    """
    pending: list[tuple[int, FrameType | None]] = []
    handler = signal.getsignal(signal.SIGINT)

    def raise_if_interrupted() -> None:
        if pending and callable(handler):
            handler(*pending.pop())

    deferred = callable(handler)
    if deferred:
        try:
            signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
        except ValueError:  # not the main thread
            deferred = False
    try:
        yield raise_if_interrupted
    finally:
        if deferred:
            signal.signal(signal.SIGINT, handler)
    raise_if_interrupted()
