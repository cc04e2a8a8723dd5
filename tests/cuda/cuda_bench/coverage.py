"""Which ways threads go at conditional branches. Where all of them always go one way there is code
that nothing has run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import flow
from .ptx import Function, Instruction, Module

if TYPE_CHECKING:
    from .program import DecodedFunction, Program

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

    def of(self, program: Program, decoded: DecodedFunction) -> Ways:
        """Where the threads that run a function enter their ways."""
        function = decoded.function
        key = (program.module, program.kernel.name, function.name)
        return self._found.setdefault(key, (function, {}))[1]

    def launched(self) -> set[str]:
        """The kernels that have run at all."""
        return {kernel for _, kernel, _ in self._found}

    def one_way(self) -> Iterator[OneWay]:
        """The branches of which one way was missed, also by their copies.

        A compiler copies branches, as when it unrolls a loop: those of one line and one kernel.
        """
        gone: dict[tuple[str, str], set[bool]] = defaultdict(set)
        for (_, kernel, _), (function, ways) in self._found.items():
            for index, taken in ways.items():
                gone[kernel, function.instructions[index].source] |= taken
        for (_, kernel, _), (function, ways) in self._found.items():
            for index, taken in ways.items():
                branch = function.instructions[index]
                if len(gone[kernel, branch.source]) == 1:
                    [always] = taken
                    missed = index + 1 if always else flow.targets(function, branch)[0]
                    yield OneWay(kernel, branch, always, function.instructions[missed])
