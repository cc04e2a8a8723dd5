"""Reads PTX text into functions, instructions and variables. Nothing is interpreted here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..faults import Fault
from .types import SIZES

VARIABLE = re.compile(
    r"(?:\.(?:extern|visible|weak|common)\s+)*\.(?P<space>shared|local|global|const|param)\s+"
    r"(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\s+)?(?:\.(?:global|shared|const|local)\s+)?(?:\.align\s+\d+\s+)?"
    r"(?P<name>[\w$%]+)\s*(?P<extent>(?:\[\d*\])*)\s*(?:=\s*(?P<value>.*))?$",
    re.DOTALL,
)
REGISTERS = re.compile(r"\.reg\s*\.(?P<type>\w+)\s+(?P<names>.*)$", re.DOTALL)
INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)(?P<predicate>[\w%$]+)\s+)?(?P<opcode>[a-z]\w*)"
    r"(?P<modifiers>(?:\.[\w:]+)*)\s*(?P<operands>.*)$",
    re.DOTALL,
)
LOCATION = re.compile(r"\.loc\s+(\d+)\s+(\d+)")
FUNCTION = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(?P<kind>entry|func)\s*(?:\((?P<returns>[^)]*)\)\s*)?"
    r"(?P<name>[\w$]+)\s*(?:\((?P<parameters>.*?)\))?(?P<directives>[^()]*)$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Instruction:
    """One line of PTX: `@p opcode.modifiers operands;`."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str | None
    negated: bool
    text: str
    source: str  # "kernel.cu:12", empty without -lineinfo

    @property
    def type(self) -> str:
        """The last type among the modifiers: for cvt the source's, else the operands'."""
        return next((name for name in reversed(self.modifiers) if name in SIZES), "")


@dataclass(frozen=True)
class Variable:
    """A name for memory: a parameter, or a variable in shared, local, global or constant memory."""

    name: str
    space: str
    align: int
    size: int  # 0 for `extern __shared__ x[]`
    value: bytes = b""


@dataclass
class Function:
    """A kernel (`entry`) or a device function."""

    name: str
    entry: bool
    parameters: list[Variable]
    returns: list[Variable]
    registers: dict[str, str] = field(default_factory=dict)  # name: type
    variables: dict[str, Variable] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # name: index of an instruction
    branch_tables: dict[str, list[str]] = field(default_factory=dict)


@dataclass(eq=False)
class Module:
    """Everything in one PTX file."""

    target: str
    functions: dict[str, Function]
    variables: dict[str, Variable]

    def kernel(self, *fragments: str) -> Function:
        """The one kernel whose (mangled) name is the fragment, or contains every fragment."""
        kernels = [function for function in self.functions.values() if function.entry]
        found = [kernel for kernel in kernels if all(part in kernel.name for part in fragments)]
        exact = [kernel for kernel in found if kernel.name == fragments[0]]
        if len(exact) == 1 or len(found) == 1:
            return (exact or found)[0]
        names = ", ".join(kernel.name for kernel in found or kernels)
        raise KeyError(f"{len(found)} kernels match {fragments}; there are: {names}")


def parse(text: str) -> Module:
    """Reads a whole PTX file."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    target = re.search(r"\.target\s+(\w+)", text)
    files = {
        number: name.rsplit("/", 1)[-1]
        for number, name in re.findall(r'\.file\s+(\d+)\s+"([^"]*)"', text)
    }
    module = Module(target.group(1) if target else "", {}, {})
    for header, body in _top_level(text):
        function = FUNCTION.match(header)
        if function is not None:
            parsed = _function(function, body, files)
            if body is not None or parsed.name not in module.functions:
                module.functions[parsed.name] = parsed
        elif (match := VARIABLE.match(header)) is not None:
            variable = _variable(match)
            module.variables[variable.name] = variable
        elif not header.startswith((".section", ".pragma", ".alias")):
            raise Fault("unsupported", f"PTX at the top level: {header[:80]}")
    return module


def _top_level(text: str) -> Iterator[tuple[str, str | None]]:
    """Declarations with their body (None where there is none); initial values stay in the text."""
    position = 0
    skipped = re.compile(r"\s+|\.(?:version|target|address_size|file)\b[^\n]*")
    while position < len(text):
        if blank := skipped.match(text, position):
            position = blank.end()
            continue
        end = position
        while text[end] not in ";{":
            end += 1
        header = text[position:end].strip()
        if text[end] == "{" and "=" not in header:
            close = _closing_brace(text, end)
            yield header, text[end + 1 : close]
            position = close + 1
            continue
        while text[end] != ";":
            end = _closing_brace(text, end) + 1 if text[end] == "{" else end + 1
        yield text[position:end].strip(), None
        position = end + 1


def _closing_brace(text: str, opening: int) -> int:
    depth = 0
    for match in re.compile(r'[{}]|"[^"]*"').finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    raise Fault("unsupported", f"unbalanced braces after: {text[opening : opening + 80]}")


def _function(match: re.Match[str], body: str | None, files: dict[str, str]) -> Function:
    def declared(text: str | None) -> list[Variable]:
        return [_declaration(part) for part in split(text or "")]

    function = Function(
        match["name"],
        match["kind"] == "entry",
        declared(match["parameters"]),
        declared(match["returns"]),
    )
    if body is not None:
        _Body(function, files).read(body)
    return function


class _Body:
    """Reads statements. A name declared in an inner `{ }` is renamed: it hides the outer one."""

    def __init__(self, function: Function, files: dict[str, str]) -> None:
        self.function = function
        self.files = files
        self.scopes: list[dict[str, str]] = [{}]
        self.count = 0
        self.source = ""
        self.pending_table = ""

    def read(self, body: str) -> None:
        statement = re.compile(
            r"\s*(?:(?P<location>\.loc\b[^\n]*)|(?P<brace>[{}])|(?P<label>[\w$]+)\s*:(?!:)"
            r'|(?P<text>(?:"[^"]*"|\{[^{}]*\}|[^;{}"])+);)'
        )
        position, end = 0, len(body.rstrip())
        while position < end:
            match = statement.match(body, position)
            if match is None:
                raise Fault("unsupported", f"PTX statement: {body[position : position + 80]}")
            position = match.end()
            if match["location"]:
                self._locate(match["location"])
            elif match["brace"] == "{":
                self.count += 1
                self.scopes.append({})
            elif match["brace"] == "}":
                self.scopes.pop()
            elif match["label"]:
                self._label(match["label"], body, position)
            else:
                self._statement(" ".join(match["text"].split()))

    def _locate(self, text: str) -> None:
        if location := LOCATION.match(text):
            self.source = f"{self.files.get(location[1], '?')}:{location[2]}"

    def _label(self, name: str, body: str, position: int) -> None:
        following = body[position : position + 80].lstrip()
        if following.startswith(".branchtargets"):
            self.pending_table = name
        elif name in self.function.labels:
            raise Fault("unsupported", f"two labels {name} in {self.function.name}")
        elif not following.startswith(".callprototype"):
            self.function.labels[name] = len(self.function.instructions)

    def _declare(self, name: str) -> str:
        unique = name if len(self.scopes) == 1 else f"{name}@{self.count}"
        self.scopes[-1][name] = unique
        return unique

    def _resolve(self, name: str) -> str:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), name)

    def _statement(self, text: str) -> None:
        if text.startswith((".pragma", ".callprototype")):
            return
        if text.startswith(".branchtargets"):
            self.function.branch_tables[self.pending_table] = split(text.split(None, 1)[1])
        elif registers := REGISTERS.match(text):
            for name in split(registers["names"]):
                family = re.fullmatch(r"([\w%$]+)<(\d+)>", name)
                members = (
                    [f"{family[1]}{index}" for index in range(int(family[2]))] if family else [name]
                )
                for member in members:
                    self.function.registers[self._declare(member)] = registers["type"]
        elif text.startswith("."):
            variable = _declaration(text)
            unique = self._declare(variable.name)
            self.function.variables[unique] = variable
        else:
            self._instruction(text)

    def _instruction(self, text: str) -> None:
        match = INSTRUCTION.match(text)
        if match is None:
            raise Fault("unsupported", f"PTX statement: {text}")
        renamed = re.sub(r"[\w%$]+", lambda name: self._resolve(name[0]), match["operands"])
        predicate = match["predicate"]
        self.function.instructions.append(
            Instruction(
                match["opcode"],
                tuple(match["modifiers"].split(".")[1:]),
                tuple(split(renamed)),
                self._resolve(predicate) if predicate else None,
                bool(match["negated"]),
                text,
                self.source,
            )
        )


def _declaration(text: str) -> Variable:
    match = VARIABLE.match(text.strip())
    if match is None:
        raise Fault("unsupported", f"PTX declaration: {text}")
    return _variable(match)


def _variable(match: re.Match[str]) -> Variable:
    element = SIZES[match["type"]]
    size = element
    for extent in re.findall(r"\[(\d*)\]", match["extent"]):
        size *= int(extent or 0)
    align = int(match["align"] or element)
    return Variable(match["name"], match["space"], align, size, _value(match["value"], element))


def _value(text: str | None, element: int) -> bytes:
    """The initial value of a variable of integers; a float is written as its bits, `0f3F800000`."""
    if text is None:
        return b""
    numbers = []
    for part in split(text.strip().strip("{}")):
        bits = re.sub(r"^0[fFdD]([0-9a-fA-F]+)$", r"0x\1", part)
        numbers.append(int(bits, 0) & (1 << 8 * element) - 1)
    return b"".join(number.to_bytes(element, "little") for number in numbers)


def split(text: str) -> list[str]:
    """Splits at the commas outside every bracket."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
