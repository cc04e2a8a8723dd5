"""The structs that launchers and kernels take, as ctypes: their fields are read where csrc defines
them, so that none can be forgotten here."""

from __future__ import annotations

import ctypes
import re
from typing import Any

from launched import CSRC

SCALARS = {
    "bool": ctypes.c_bool,
    "int": ctypes.c_int,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
}
FIELD = re.compile(
    r"(?:const )?(?P<type>\w+)(?:<[^<>]*>)?(?P<pointer>\*?) (?P<name>\w+)(?:\[(?P<count>\w+)\])?"
)


class Structure(ctypes.Structure):
    """Takes a value for each of its fields, or none at all: then all are zeros."""

    def __init__(self, *values: Any, **named: Any) -> None:
        names = [name for name, _ in self._fields_]
        if len(values) + len(named) not in (0, len(names)):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(names)}")
        super().__init__(*values, **named)


class Types(dict[str, Any]):
    """By name in C++ source: scalars, enums and structs, each read when it is first asked for.

    A struct may be a template only if its layout is the same for all arguments.
    """

    def __init__(self, source: str) -> None:
        super().__init__(SCALARS)
        self._source = re.sub(r"//.*", "", source)

    def __missing__(self, name: str) -> Any:
        if enum := re.search(rf"enum class {name} : (\w+)", self._source):
            self[name] = self[enum[1]]
        else:
            self[name] = type(name, (Structure,), {"_fields_": self._fields(name)})
        return self[name]

    def _fields(self, name: str) -> list[tuple[str, Any]]:
        found = re.findall(rf"^struct {name} {{\n(.*?)^}};", self._source, re.M | re.S)
        if len(found) != 1:
            raise KeyError(f"{len(found)} structs {name}")
        body = found[0]
        while "{" in body:
            body = re.sub(r"\{[^{}]*\}", ";", body)  # what functions do
        members = [" ".join(member.split()) for member in body.split(";")]
        return [self._field(member) for member in members if member and "(" not in member]

    def _field(self, member: str) -> tuple[str, Any]:
        match = FIELD.fullmatch(member)
        if match is None:
            raise ValueError(f"not understood: {member}")
        kind = ctypes.c_void_p if match["pointer"] else self[match["type"]]
        return match["name"], kind * self._count(match["count"]) if match["count"] else kind

    def _count(self, text: str) -> int:
        constant = re.search(rf"constexpr int {text} = (\d+);", self._source)
        return int(constant[1] if constant else text)


TYPES = Types(
    "\n".join(
        path.read_text() for path in (CSRC / "arguments.h", *sorted((CSRC / "cuda").rglob("*.*h")))
    )
)
