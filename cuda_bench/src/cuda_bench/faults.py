"""What the bench reports: every error that a kernel can make, one kind each."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "out of bounds",  # outside every allocation, or across the end of one
    "misaligned",  # an address that is no multiple of the access's size
    "uninitialised",  # a read of bytes that nothing has written
    "race",  # two threads, one of them writing, and nothing that orders them
    "barrier",  # a barrier that not every thread of the block reaches
    "warp",  # a warp operation whose mask names lanes that are elsewhere
    "local memory",  # a variable that does not fit registers
    "trap",  # the kernel gave up: trap, or a failed assertion
    "runaway",  # more instructions than the limit: most likely an endless loop
    "end",  # ran off the last instruction without a return
    "launch",  # a grid, block, shared size or argument list that no device accepts
    "unsupported",  # an instruction, type or modifier that the bench does not know
]


class Fault(RuntimeError):
    """An error of the kernel under test: what happened, where, and in which thread."""

    def __init__(self, kind: Kind, detail: str, lane: int | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind: Kind = kind
        self.detail = detail
        self.lane = None if lane is None else int(lane)  # a thread's number in the grid
        self.place = ""

    def at(self, place: str, threads: int) -> Fault:
        """Adds the instruction, and the block and thread in a launch of `threads` a block."""
        if not self.place:
            self.place = place
            if self.lane is not None:
                block, thread = divmod(self.lane, threads)
                self.place += f" in block {block}, thread {thread}"
            self.args = (f"{self.args[0]}\n  {self.place}",)
        return self
