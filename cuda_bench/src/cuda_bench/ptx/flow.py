"""Where threads that part at a branch meet again: the branch's immediate post-dominator."""

from __future__ import annotations

from collections.abc import Container

from ..faults import Fault
from .parser import Function, Instruction

RETURNS = ("ret", "exit")


def targets(function: Function, instruction: Instruction) -> list[int]:
    """The instructions that a branch may jump to."""
    if instruction.opcode == "brx":
        names = function.branch_tables[instruction.operands[1]]
    else:
        names = [instruction.operands[0]]
    return [function.labels[name] for name in names]


def successors(function: Function, index: int) -> list[int]:
    """What may run after an instruction; nothing after a return or a trap."""
    instruction = function.instructions[index]
    after = targets(function, instruction) if instruction.opcode in ("bra", "brx") else []
    if instruction.opcode not in (*RETURNS, "bra", "brx", "trap") or instruction.predicate:
        after.append(index + 1)
    return after


def reconvergence(function: Function) -> dict[int, int]:
    """For every branch, the instruction where its threads meet again.

    That is the immediate post-dominator among the ways that lead to the return that most of the
    function can reach: threads that leave by another one are not waited for, as on a device. Ways
    that cannot reach that return are looked at by themselves, up to the next return, and so on.
    Where a branch has no meeting point that is len(instructions).
    """
    end = len(function.instructions)
    following = [successors(function, index) for index in range(end)]
    if any(index > end for after in following for index in after):
        raise Fault("unsupported", f"a branch out of {function.name}")
    exits = [
        index
        for index, instruction in enumerate(function.instructions)
        if instruction.opcode in RETURNS and instruction.predicate is None
    ]
    meeting: dict[int, int] = {}
    while exits:
        ways = [_postdominators(last, following, excluded=meeting) for last in exits]
        longest = max(range(len(ways)), key=lambda index: len(ways[index]))
        meeting.update(ways[longest])
        exits = [last for last in exits if last not in meeting]
    return {
        index: meeting.get(index, end)
        for index, instruction in enumerate(function.instructions)
        if instruction.opcode in ("bra", "brx")
    }


def _postdominators(
    root: int, following: list[list[int]], excluded: Container[int]
) -> dict[int, int]:
    """The immediate post-dominator of all instructions that can reach the root.

    Dominators of the reversed graph by the iteration of Cooper, Harvey and Kennedy ("A simple,
    fast dominance algorithm", 2001).
    """
    preceding: list[list[int]] = [[] for _ in range(len(following) + 1)]
    for index, after in enumerate(following):
        for successor in after:
            if index not in excluded:
                preceding[successor].append(index)
    order = _postorder(root, preceding)  # the root comes last
    number = {node: position for position, node in enumerate(order)}
    immediate: dict[int, int] = {root: root}
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            candidates = [after for after in following[node] if after in immediate]
            meeting = candidates[0]
            for other in candidates[1:]:
                while meeting != other:
                    if number[meeting] < number[other]:
                        meeting = immediate[meeting]
                    else:
                        other = immediate[other]
            if immediate.get(node) != meeting:
                immediate[node] = meeting
                changed = True
    return immediate


def _postorder(root: int, edges: list[list[int]]) -> list[int]:
    order: list[int] = []
    seen = {root}
    stack = [(root, iter(edges[root]))]
    while stack:
        node, remaining = stack[-1]
        unseen = next((edge for edge in remaining if edge not in seen), None)
        if unseen is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(unseen)
            stack.append((unseen, iter(edges[unseen])))
    return order
