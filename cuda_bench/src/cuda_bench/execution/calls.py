"""The functions that the device's own library provides: printf and failed assertions."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import numpy as np

from ..faults import Fault

if TYPE_CHECKING:
    from .chunk import Activation, Chunk
    from .operands import Lanes
    from .program import Call

MAXIMUM_LINES = 1000
CONVERSION = re.compile(
    r"%[-+ #0]*\d*(?:\.\d+)?(?P<length>hh|h|ll|l|z)?(?P<kind>[diouxXeEfgGcsp%])"
)


def provided(call: Call, activation: Activation, lanes: Lanes) -> None:
    """Vprintf adds to the launch's output; __assertfail is a fault."""
    chunk = activation.chunk
    position = chunk.positions(lanes)
    arguments = [
        activation.parameters[name][position]
        .copy()
        .view(f"u{activation.parameters[name].shape[1]}")[:, 0]
        for name in call.arguments
    ]
    if call.callee == "__assertfail":
        message, file, line = (int(values[0]) for values in arguments[:3])
        detail = f"{_text(chunk, file)}:{line}: assertion {_text(chunk, message)} failed"
        raise Fault("trap", detail, lane=int(chunk.grid_lane[position[0]]))
    for index, place in enumerate(position):
        if len(chunk.launch.printed) >= MAXIMUM_LINES:
            break
        template = _text(chunk, int(arguments[0][index]))
        chunk.launch.printed.append(_format(chunk, template, int(arguments[1][index]), int(place)))
    for name in call.returns:
        activation.parameters[name][lanes] = 0


def _text(chunk: Chunk, address: int) -> str:
    store, span = chunk.launch.memory.span(address, 1)
    rest = store.bytes[span.start :].tobytes()
    return rest[: rest.index(b"\0")].decode()


def _format(chunk: Chunk, template: str, address: int, place: int) -> str:
    """Printf with the arguments that lie, each aligned to its size, in a thread's memory."""
    offset = 0

    def argument(size: int) -> bytes:
        nonlocal offset
        start = -(-offset // size) * size
        offset = start + size
        where = np.array([address + start], np.int64)
        return chunk.load("generic", where, size, 1, np.array([place])).tobytes()

    def convert(match: re.Match[str]) -> str:
        kind, long = match["kind"], match["length"] in ("ll", "l", "z")
        if kind == "%":
            return "%"
        style = match[0].replace(match["length"] or "", "") if match["length"] else match[0]
        if kind == "s":
            return style % _text(chunk, struct.unpack("<Q", argument(8))[0])
        if kind == "p":
            return hex(struct.unpack("<Q", argument(8))[0])
        if kind in "eEfgG":
            return style % struct.unpack("<d", argument(8))[0]
        code = ("q" if long else "i") if kind in "dic" else ("Q" if long else "I")
        return style % struct.unpack(f"<{code}", argument(8 if long else 4))[0]

    return CONVERSION.sub(convert, template)
