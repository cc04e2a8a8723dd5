"""Which ways threads go at conditional branches.

Where all of them always go one way there is code that nothing has run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ..ptx import flow
from ..ptx.parser import Function, Instruction, Module

Ways = dict[int, set[bool]]  # by a branch's place in its function: whether it was taken


@dataclass(frozen=True)
class OneWay:
    """A branch that some threads came to, and at which all of them went one way."""

    kernel: str
    branch: Instruction
    taken: bool  # always, or never
    missed: Instruction  # the first instruction of the other way

    def __str__(self) -> str:
        often = "always" if self.taken else "never"
        return f"{self.branch.source}: {self.branch.text} is {often} taken in {self.kernel}"


class Coverage:
    """Gathers over all launches of the devices that are given it."""

    def __init__(self) -> None:
        self._found: dict[tuple[Module, str, str], tuple[Function, Ways]] = {}

    def of(self, module: Module, kernel: str, function: Function) -> Ways:
        """Where the threads that run a function, called by this kernel, enter their ways."""
        key = (module, kernel, function.name)
        return self._found.setdefault(key, (function, {}))[1]

    def launched(self) -> set[str]:
        """The kernels that have run at all."""
        return {kernel for _, kernel, _ in self._found}

    def one_way(self) -> Iterator[OneWay]:
        """The branches of which one way was missed, also by their copies, the others of their line.

        Compilers copy branches, as when they unroll a loop or ask before its first turn whether
        there is one. Among themselves those count that jump back: one of them has to be taken,
        that the loop has a second turn.
        """
        gone: dict[tuple[str, str], set[bool]] = defaultdict(set)
        again: set[tuple[str, str]] = set()
        branches = []
        for (_, kernel, _), (function, ways) in self._found.items():
            for index, taken in ways.items():
                branch = function.instructions[index]
                [target] = flow.targets(function, branch)
                line, jumps_back = (kernel, branch.source), target <= index
                gone[line] |= taken
                if jumps_back and True in taken:
                    again.add(line)
                missed = function.instructions[index + 1 if True in taken else target]
                branches.append((line, jumps_back, OneWay(kernel, branch, True in taken, missed)))
        for line, jumps_back, one in branches:
            if len(gone[line]) == 1 or (jumps_back and line not in again):
                yield one
