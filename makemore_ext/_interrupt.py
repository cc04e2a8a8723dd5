"""Ctrl-C that takes effect between two steps, never within one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """A SIGINT that was held back, if there was one, and what to do with it."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._pending: list[tuple[int, FrameType | None]] = []

    @property
    def is_pending(self) -> bool:
        """Whether a signal came."""
        return bool(self._pending)

    def hold(self, number: int, frame: FrameType | None) -> None:
        """What is called in the place of the handler."""
        self._pending.append((number, frame))

    def raise_if_pending(self) -> None:
        """Run the handler as if the signal came now, if one did."""
        if self._pending and callable(self._handler):
            self._handler(*self._pending.pop())


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Hold back SIGINT inside the block until what it yields raises it, or its end.

    In a thread other than the main one, which never sees a signal, and where SIGINT is ignored or
    has its default action, nothing changes.
    """
    handler = signal.getsignal(signal.SIGINT)
    interrupt = Interrupt(handler)
    deferred = callable(handler)
    if deferred:
        try:
            signal.signal(signal.SIGINT, interrupt.hold)
        except ValueError:  # not the main thread
            deferred = False
    try:
        yield interrupt
    finally:
        if deferred:
            signal.signal(signal.SIGINT, handler)
    interrupt.raise_if_pending()
