"""Integer and bit instructions against Python's integers."""

import numpy as np
import pytest
from cuda_bench import Device, Fault, parse
from operand_values import values
from snippets import HEADER, evaluate


def signed(number: int, bits: int) -> int:
    number %= 2**bits
    return number - 2**bits if number >= 2 ** (bits - 1) else number


def toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def left(a: int, n: int, bits: int) -> int:
    return a << n if n < bits else 0


def right(a: int, n: int, bits: int) -> int:
    return a >> min(n, bits)  # Python's >> keeps the sign


def byte_permute(a: int, b: int, selector: int) -> int:
    source = (a | b << 32).to_bytes(8, "little")
    chosen = []
    for position in range(4):
        choice = selector >> 4 * position & 15
        byte = source[choice & 7]
        chosen.append((255 if byte >> 7 else 0) if choice & 8 else byte)
    return int.from_bytes(bytes(chosen), "little")


def extract(a: int, start: int, length: int, bits: int, is_signed: bool) -> int:
    start, length = start & 255, length & 255
    pattern = a % 2**bits
    if length == 0:
        return 0
    sign = pattern >> min(start + length - 1, bits - 1) & 1 if is_signed else 0
    picked = 0
    for position in range(bits):
        inside = position < length and start + position < bits
        picked |= (pattern >> (start + position) & 1 if inside else sign) << position
    return picked


def insert(field: int, base: int, start: int, length: int, bits: int) -> int:
    start, length = start & 255, length & 255
    for position in range(length):
        if start + position < bits and position < bits:
            place = 1 << (start + position)
            base = base & ~place | (place if field >> position & 1 else 0)
    return base


def funnel(low: int, high: int, n: int, to_left: bool, clamp: bool) -> int:
    n = min(n, 32) if clamp else n & 31
    both = high << 32 | low
    return both << n >> 32 if to_left else both >> n


def dot_of_bytes(a: int, b: int, c: int, signs: str) -> int:
    rows = []
    for word, is_signed in ((a, signs[0] == "s"), (b, signs[1] == "s")):
        data = (word % 2**32).to_bytes(4, "little")
        rows.append([signed(byte, 8) if is_signed else byte for byte in data])
    return c + sum(x * y for x, y in zip(*rows, strict=True))


def highest(a: int, bits: int) -> int:
    a = ~a if a < 0 else a
    return a.bit_length() - 1


CASES = [
    *(
        (f"{name}.{type}", [type, type], type, function)
        for type in ("s16", "u16", "s32", "u32", "s64", "u64")
        for name, function in (
            ("add", lambda a, b: a + b),
            ("sub", lambda a, b: a - b),
            ("min", min),
            ("max", max),
            ("mul.lo", lambda a, b: a * b),
            ("mul.hi", lambda a, b, type=type: a * b >> int(type[1:])),
            ("div", lambda a, b: toward_zero(a, b) if b else -1),
            ("rem", lambda a, b: a - b * toward_zero(a, b) if b else a),
        )
    ),
    *(
        (f"{name}.{type}", [type, type], type, function)
        for type in ("b16", "b32", "b64")
        for name, function in (
            ("and", lambda a, b: a & b),
            ("or", lambda a, b: a | b),
            ("xor", lambda a, b: a ^ b),
        )
    ),
    *(
        (f"{name}.{type}", [type], type, function)
        for type in ("s16", "s32", "s64")
        for name, function in (("neg", lambda a: -a), ("abs", abs))
    ),
    *((f"not.{type}", [type], type, lambda a: ~a) for type in ("b16", "b32", "b64")),
    *((f"cnot.{type}", [type], type, lambda a: int(a == 0)) for type in ("b16", "b32", "b64")),
    *(
        (f"{name}.{type}", [type, "u32"], type, lambda a, n, f=f, type=type: f(a, n, int(type[1:])))
        for name, types, f in (
            ("shl", ("b16", "b32", "b64"), left),
            ("shr", ("s16", "u16", "s32", "u32", "s64", "u64"), right),
        )
        for type in types
    ),
    *(
        (f"{name}.wide.{type}", [type] * 2 + [wide] * extra, wide, function)
        for type, wide in (("s16", "s32"), ("u16", "u32"), ("s32", "s64"), ("u32", "u64"))
        for name, extra, function in (
            ("mul", 0, lambda a, b: a * b),
            ("mad", 1, lambda a, b, c: a * b + c),
        )
    ),
    *(
        (f"mad.lo.{type}", [type] * 3, type, lambda a, b, c: a * b + c)
        for type in ("s16", "u16", "s32", "u32", "s64", "u64")
    ),
    ("mad.hi.u32", ["u32"] * 3, "u32", lambda a, b, c: (a * b >> 32) + c),
    ("mul24.lo.u32", ["u32"] * 2, "u32", lambda a, b: (a % 2**24) * (b % 2**24)),
    ("mul24.lo.s32", ["s32"] * 2, "s32", lambda a, b: signed(a, 24) * signed(b, 24)),
    ("add.sat.s32", ["s32"] * 2, "s32", lambda a, b: max(-(2**31), min(a + b, 2**31 - 1))),
    ("sub.sat.s32", ["s32"] * 2, "s32", lambda a, b: max(-(2**31), min(a - b, 2**31 - 1))),
    ("sad.s32", ["s32"] * 3, "s32", lambda a, b, c: abs(a - b) + c),
    ("sad.u32", ["u32"] * 3, "u32", lambda a, b, c: abs(a - b) + c),
    *(
        (f"{name}.{type}", [type], "u32", lambda a, f=f, type=type: f(a, int(type[1:])))
        for type in ("b32", "b64")
        for name, f in (
            ("popc", lambda a, bits: a.bit_count()),
            ("clz", lambda a, bits: bits - a.bit_length()),
        )
    ),
    *(
        (f"brev.b{bits}", [f"b{bits}"], f"b{bits}", lambda a, b=bits: int(f"{a:0{b}b}"[::-1], 2))
        for bits in (32, 64)
    ),
    *(
        (f"bfind.{type}", [type], "u32", lambda a, type=type: highest(a, int(type[1:])))
        for type in ("s32", "u32", "s64", "u64")
    ),
    (
        "bfind.shiftamt.u32",
        ["u32"],
        "u32",
        lambda a: 31 - highest(a, 32) if a else -1,
    ),
    *(
        (
            f"bfe.{type}",
            [type, "u32", "u32"],
            type,
            lambda a, s, n, t=type: extract(a, s, n, int(t[1:]), t[0] == "s"),
        )
        for type in ("s32", "u32", "s64", "u64")
    ),
    *(
        (
            f"bfi.{type}",
            [type, type, "u32", "u32"],
            type,
            lambda a, b, s, n, t=type: insert(a, b, s, n, int(t[1:])),
        )
        for type in ("b32", "b64")
    ),
    ("prmt.b32", ["b32"] * 3, "b32", byte_permute),
    ("bmsk.clamp.b32", ["u32"] * 2, "b32", lambda s, n: 2 ** min(n, 32) - 1 << s if s < 32 else 0),
    ("bmsk.wrap.b32", ["u32"] * 2, "b32", lambda s, n: 2 ** (n & 31) - 1 << (s & 31)),
    ("dp4a.s32.s32", ["s32"] * 3, "s32", lambda *abc: dot_of_bytes(*abc, "ss")),
    ("dp4a.u32.s32", ["u32", "s32", "s32"], "s32", lambda *abc: dot_of_bytes(*abc, "us")),
    *(
        (
            f"shf.{way}.{mode}.b32",
            ["b32", "b32", "u32"],
            "b32",
            lambda a, b, n, way=way, mode=mode: funnel(a, b, n, way == "l", mode == "clamp"),
        )
        for way in "lr"
        for mode in ("wrap", "clamp")
    ),
    *(
        (f"slct.{type}.s32", [type, type, "s32"], type, lambda a, b, c: a if c >= 0 else b)
        for type in ("s32", "u64")
    ),
    *(
        (f"selp.{type}", [type, type, "pred"], type, lambda a, b, p: a if p else b)
        for type in ("b16", "b32", "s64")
    ),
]
COUNTS = ("shl", "shr", "shf")  # whose last operand is a shift: small, and a few too large


def operand(type: str, position: int, instruction: str) -> np.ndarray:
    if type == "pred":
        return np.arange(128) % 3 == 0
    array = values(type, 10 * position)
    if position and instruction.startswith(COUNTS) and type == "u32":
        return np.arange(128, dtype=np.uint32) % 70
    if position and instruction.startswith(("bfe", "bfi")) and type == "u32":
        return (np.arange(128) * (7 if position % 2 else 5) % 70).astype(np.uint32)
    return array


@pytest.mark.parametrize(
    ("instruction", "types", "result", "function"), CASES, ids=[case[0] for case in CASES]
)
def test_result(instruction, types, result, function):
    operands = [(type, operand(type, i, instruction)) for i, type in enumerate(types)]
    names = ", ".join(f"%{name}" for name, _ in zip("abcd", types, strict=False))
    [bits] = evaluate(f"{instruction} %r0, {names};", [result], operands)
    expected = [
        function(*map(int, row)) % 2 ** int(result[1:])
        for row in zip(*(array for _, array in operands), strict=True)
    ]
    assert bits.tolist() == expected


@pytest.mark.parametrize("table", [0x00, 0x96, 0xCA, 0xE8, 0xFF])
def test_lop3(table):
    operands = [("b32", values("b32", seed)) for seed in range(3)]
    [bits] = evaluate(f"lop3.b32 %r0, %a, %b, %c, {table};", ["b32"], operands)
    for place in range(32):
        a, b, c = ((array >> np.uint32(place) & 1).astype(int) for _, array in operands)
        assert ((bits >> np.uint32(place) & 1) == (table >> (4 * a + 2 * b + c) & 1)).all()


def test_carries_reach_the_next_word():
    a, b, c, d = (values("u32", seed) for seed in range(4))
    body = "add.cc.u32 %r0, %a, %c; addc.u32 %r1, %b, %d;"
    operands = [("u32", array) for array in (a, b, c, d)]
    low, high = evaluate(body, ["u32", "u32"], operands)
    wide = (b.astype(object) * 2**32 + a) + (d.astype(object) * 2**32 + c)
    assert [int(number) % 2**64 for number in wide] == [
        int(h) << 32 | int(x) for x, h in zip(low, high, strict=True)
    ]
    body = "sub.cc.u32 %r0, %a, %c; subc.u32 %r1, %b, %d;"
    low, high = evaluate(body, ["u32", "u32"], operands)
    wide = (b.astype(object) * 2**32 + a) - (d.astype(object) * 2**32 + c)
    assert [int(number) % 2**64 for number in wide] == [
        int(h) << 32 | int(x) for x, h in zip(low, high, strict=True)
    ]


COMPARISONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("type", ["s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("name", COMPARISONS)
def test_setp(name, type):
    a, b = values(type, 0), values(type, 50)
    b[::3] = a[::3]
    [holds] = evaluate(f"setp.{name}.{type} %r0, %a, %b;", ["pred"], [(type, a), (type, b)])
    assert (holds == COMPARISONS[name](a, b)).all()


@pytest.mark.parametrize("combine", ["and", "or", "xor"])
def test_setp_with_a_third_predicate_and_a_complement(combine):
    a, b, p = values("s32", 0), values("s32", 50), np.arange(128) % 2 == 1
    body = f"setp.lt.{combine}.s32 %r0|%r1, %a, %b, !%c;"
    holds, other = evaluate(body, ["pred", "pred"], [("s32", a), ("s32", b), ("pred", p)])
    function = getattr(np, f"logical_{combine}")
    assert (holds == function(a < b, ~p)).all()
    assert (other == function(a >= b, ~p)).all()


def test_predicates_combine():
    p, q = np.arange(128) % 2 == 1, np.arange(128) % 3 == 1
    body = "and.pred %r0, %a, %b; not.pred %r1, %a; xor.pred %r2, %r0, %b;"
    both, neither, exclusive = evaluate(body, ["pred"] * 3, [("pred", p), ("pred", q)])
    assert (both == (p & q)).all()
    assert (neither == ~p).all()
    assert (exclusive == (p & q) ^ q).all()


def test_parts_of_a_register():
    a = values("b64", 0)
    body = ".reg .b32 %low, %high; mov.b64 {%low, %high}, %a; mov.b64 %r0, {%high, %low};"
    [swapped] = evaluate(body, ["b64"], [("b64", a)])
    assert (swapped == (a >> np.uint64(32) | a << np.uint64(32))).all()


@pytest.mark.parametrize(
    "instruction",
    ["frobnicate.s32 %r0, %a;", "add.s128 %r0, %a, %a;", "prmt.b32.f4e %r0, %a, %a, %a;",
     "szext.wrap.s32 %r0, %a, %a;", "mov.u32 %r0, %nosuchregister;"],
)  # fmt: skip
def test_an_unknown_instruction_is_a_fault(instruction):
    with pytest.raises(Fault, match="unsupported"):
        evaluate(instruction, ["s32"], [("s32", np.zeros(1, np.int32))])


def test_running_off_the_end_is_a_fault():
    module = parse(HEADER.format(architecture="80") + ".visible .entry k() { membar.gl; }")
    with pytest.raises(Fault, match="ran off the end"):
        Device().launch(module, "k", 1, 1, [])
