"""Turns operands as text into functions that read and write registers of many threads at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from ..ptx.parser import Function
from ..ptx.types import SIZES, UNSIGNED, dtype_of

if TYPE_CHECKING:
    from .chunk import Activation

Array = NDArray[Any]
Lanes = slice | NDArray[np.intp]  # the threads of a chunk that act; a slice means all of them
Reader = Callable[["Activation", Lanes], Array]
Step = Callable[["Activation", Lanes], None]  # a decoded instruction
Writer = Callable[["Activation", Lanes, Array], None]

ADDRESS = re.compile(r"\[\s*([\w%$@]+)\s*(?:\+\s*(-?\w+))?\s*\]")


class Operands:
    """The names of one function: its registers, and the addresses of its variables."""

    def __init__(self, function: Function, symbols: dict[str, int]) -> None:
        self.symbols = symbols
        self.storage = [
            np.dtype(bool) if type == "pred" else np.dtype(UNSIGNED[SIZES[type]])
            for type in function.registers.values()
        ]
        self._index = {name: index for index, name in enumerate(function.registers)}

    def is_register(self, text: str) -> bool:
        return text in self._index

    def read(self, text: str, type: str) -> Reader:
        if text.startswith("!"):
            plain = self.read(text[1:], type)
            return lambda activation, lanes: ~plain(activation, lanes)
        if text in self._index:
            return self._read_register(self._index[text], type)
        if text.startswith("%"):
            return _read_special(text, type)
        constant = self._constant(text, type)
        return lambda activation, lanes: constant

    def _read_register(self, index: int, type: str) -> Reader:
        dtype, storage = dtype_of(type), self.storage[index]
        if dtype == storage:
            return lambda activation, lanes: activation.registers[index][lanes]
        if dtype.itemsize == storage.itemsize:
            return lambda activation, lanes: activation.registers[index][lanes].view(dtype)
        if dtype.itemsize > storage.itemsize:
            raise Fault("unsupported", f"a register of {storage} read as .{type}")
        low = UNSIGNED[dtype.itemsize]
        return lambda activation, lanes: activation.registers[index][lanes].astype(low).view(dtype)

    def _constant(self, text: str, type: str) -> Array:
        dtype = dtype_of(type)
        if dtype.kind == "b":
            return np.array([bool(int(text, 0))])
        bits = re.fullmatch(r"0([fFdD])([0-9a-fA-F]+)", text)
        if bits and not text.startswith("0x"):
            single = bits[1] in "fF"
            value = np.array([int(bits[2], 16)], np.uint32 if single else np.uint64)
            if value.itemsize == dtype.itemsize:
                return value.view(dtype)
            return value.view(np.float32 if single else np.float64).astype(dtype)
        if text in self.symbols:
            number = self.symbols[text]
        elif text == "WARP_SZ":
            number = 32
        else:
            try:
                number = int(re.sub(r"^(-?)0([0-7]+)$", r"\1\2", text.rstrip("U")), 0)
            except ValueError:
                raise Fault("unsupported", f"operand {text}") from None
        if dtype.kind == "f" and "x" not in text.lower():
            raise Fault("unsupported", f"operand {text} of type .{type}")
        unsigned = UNSIGNED[dtype.itemsize]
        return np.array([number & (1 << 8 * dtype.itemsize) - 1], unsigned).view(dtype)

    def write(self, text: str, type: str) -> Writer:
        """Integers narrower than the register are extended as their type says."""
        if text == "_":
            return lambda activation, lanes, values: None
        if text not in self._index:
            raise Fault("unsupported", f"result {text}")
        index = self._index[text]
        storage, dtype = self.storage[index], dtype_of(type)
        if dtype == storage:

            def write(activation: Activation, lanes: Lanes, values: Array) -> None:
                activation.registers[index][lanes] = values

        elif dtype.itemsize == storage.itemsize:

            def write(activation: Activation, lanes: Lanes, values: Array) -> None:
                activation.registers[index][lanes] = values.view(storage)

        elif dtype.itemsize < storage.itemsize:
            wide = np.dtype(f"{'i' if dtype.kind == 'i' else 'u'}{storage.itemsize}")
            bits = dtype if dtype.kind in "iu" else np.dtype(UNSIGNED[dtype.itemsize])

            def write(activation: Activation, lanes: Lanes, values: Array) -> None:
                activation.registers[index][lanes] = values.view(bits).astype(wide).view(storage)

        else:
            raise Fault("unsupported", f"a .{type} written to a register of {storage}")
        return write

    def address(self, text: str) -> Reader:
        """`[register + offset]` or `[variable + offset]`, in int64."""
        match = ADDRESS.fullmatch(text)
        if match is None:
            raise Fault("unsupported", f"address {text}")
        offset = np.int64(int(match[2] or "0", 0))
        base = match[1]
        if base in self._index:
            index = self._index[base]
            if self.storage[index].itemsize == 8:
                return lambda activation, lanes: (
                    activation.registers[index][lanes].view(np.int64) + offset
                )
            short = np.uint32(int(offset) & 0xFFFFFFFF)  # shared addresses wrap around at 32 bits
            return lambda activation, lanes: (activation.registers[index][lanes] + short).astype(
                np.int64
            )
        constant = self._constant(base, "s64") + offset
        return lambda activation, lanes: np.broadcast_to(constant, activation.count(lanes))


def _read_special(name: str, type: str) -> Reader:
    dtype = dtype_of(type)

    def read(activation: Activation, lanes: Lanes) -> Array:
        values = activation.chunk.special(name)[lanes]
        return values if values.dtype == dtype else values.astype(dtype)

    return read
