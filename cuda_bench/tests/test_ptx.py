"""Reading PTX, and where threads that part meet again."""

import pytest
from cuda_bench import Fault, parse
from cuda_bench.ptx.flow import reconvergence
from snippets import HEADER

HEAD = HEADER.format(architecture="80")


def body(text: str):
    return parse(HEAD + f".visible .entry k(.param .u64 p) {{\n{text}\n}}").kernel("k")


def test_an_instruction():
    [instruction] = body("@!%p1 ld.global.v2.f32 {%f1, _}, [%rd1+8];").instructions
    assert (instruction.opcode, instruction.modifiers) == ("ld", ("global", "v2", "f32"))
    assert instruction.operands == ("{%f1, _}", "[%rd1+8]")
    assert (instruction.predicate, instruction.negated, instruction.type) == ("%p1", True, "f32")


def test_registers():
    function = body(".reg .pred %p<3>; .reg .b32 %a, %b; {.reg.b16 h; mov.b16 h, 1;}")
    types = {"%p0": "pred", "%p1": "pred", "%p2": "pred", "%a": "b32", "%b": "b32", "h@1": "b16"}
    assert function.registers == types


def test_an_inner_name_hides_the_outer_one():
    function = body(
        ".reg .b32 t; mov.b32 t, 0; { .reg .b32 t; mov.b32 t, 1; }"
        "{ .reg .b64 t; mov.b64 t, 2; } mov.b32 t, 3;"
    )
    assert [i.operands for i in function.instructions] == [
        ("t", "0"), ("t@1", "1"), ("t@2", "2"), ("t", "3")
    ]  # fmt: skip


def test_comments_lines_and_braces_in_strings():
    function = body('// one }\nadd.s32 %a,\n  %b, /* { */ %c;\n.pragma "nounroll };";\nret;')
    assert [i.text for i in function.instructions] == ["add.s32 %a, %b, %c", "ret"]


def test_source_lines():
    text = f'.file 1 "/some/where/kernel.cu"\n{HEAD}.visible .entry k() {{\n.loc 1 12 3\nret;\n}}'
    assert parse(text).kernel("k").instructions[0].source == "kernel.cu:12"


def test_variables_and_their_values():
    module = parse(
        HEAD
        + ".extern .shared .align 16 .b8 dynamic[];\n"
        + ".visible .global .align 4 .u32 counter;\n"
        + ".const .align 4 .b8 table[2][3] = {1, 2, 3, 255, 0x10};\n"
        + ".global .align 4 .f32 one = 0f3F800000;\n"
        + ".visible .entry k() { .shared .align 8 .f64 local[4]; ret; }\n"
    )
    variables = {name: (v.space, v.align, v.size, v.value) for name, v in module.variables.items()}
    assert variables == {
        "dynamic": ("shared", 16, 0, b""),
        "counter": ("global", 4, 4, b""),
        "table": ("const", 4, 6, b"\x01\x02\x03\xff\x10"),
        "one": ("global", 4, 4, b"\x00\x00\x80\x3f"),
    }
    held = module.kernel("k").variables["local"]
    assert (held.space, held.align, held.size) == ("shared", 8, 32)


def test_parameters():
    module = parse(
        HEAD
        + ".visible .entry k(.param .u64 .ptr .global .align 16 a,\n.param .align 8 .b8 b[24], "
        + ".param .f32 c) .maxntid 128, 1, 1 .minnctapersm 2 { ret; }"
    )
    parameters = [(p.name, p.size) for p in module.kernel("k").parameters]
    assert parameters == [("a", 8), ("b", 24), ("c", 4)]


def test_functions():
    module = parse(
        HEAD
        + ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n"
        + ".func (.param .b32 out) half(.param .b32 in);\n"
        + ".func (.param .b32 out) half(.param .b32 in) { ret; }\n"
        + ".visible .entry k() { ret; }"
    )
    assert not module.functions["vprintf"].instructions
    function = module.functions["half"]
    assert (function.entry, len(function.instructions)) == (False, 1)
    assert ([p.name for p in function.returns], [p.name for p in function.parameters]) == (
        ["out"],
        ["in"],
    )


def test_a_kernel_by_a_part_of_its_name():
    module = parse(
        HEAD + "".join(f".visible .entry {name}() {{ ret; }}" for name in ("ab", "abc", "x"))
    )
    assert module.kernel("x").name == "x"
    assert module.kernel("ab").name == "ab"
    assert module.kernel("a", "c").name == "abc"
    with pytest.raises(KeyError, match="2 kernels match"):
        module.kernel("a")
    with pytest.raises(KeyError, match="0 kernels match"):
        module.kernel("y")


@pytest.mark.parametrize(
    "text",
    [
        "add.s32 %a, %b",  # no semicolon
        "L: ret; L: ret;",  # two labels
        ".reg .b32;",
        ".shared .b32 ;",
    ],
)
def test_what_cannot_be_read_is_a_fault(text):
    with pytest.raises(Fault, match="unsupported"):
        body(text)


def test_unbalanced_braces_are_a_fault():
    with pytest.raises(Fault, match="unbalanced"):
        parse(HEAD + ".visible .entry k() { { ret; }")


IF = """@%p bra ELSE;      // 0
        add.s32 %a, %a, 1; // 1
        bra END;           // 2
  ELSE: sub.s32 %a, %a, 1; // 3
  END:  ret;               // 4"""
LOOP = """LOOP: add.s32 %a, %a, 1; // 0
        @%q bra DONE;            // 1
        @%p bra LOOP;            // 2
        sub.s32 %a, %a, 1;       // 3
  DONE: ret;                     // 4"""
EARLY = """@%p ret;  // 0
        @%q bra L;  // 1
        ret;        // 2
     L: ret;        // 3"""
SWITCH = """brx.idx %a, T;  // 0
     T: .branchtargets A, B, C;
     A: bra D;          // 1
     B: mov.b32 %a, 1;  // 2
     C: bra D;          // 3
     D: ret;            // 4"""
LEAVING = """LOOP: add.s32 %a, %a, 1;  // 0
        @%q bra OUT;                // 1: leaves for good
        @%p bra SKIP;               // 2
        add.s32 %a, %a, 2;          // 3
  SKIP: @%r bra LOOP;               // 4
        bar.sync 0;                 // 5
        ret;                        // 6
   OUT: mov.b32 %a, 0;              // 7
        ret;                        // 8"""
ENDLESS = "L: bra L; ret;"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (IF, {0: 4, 2: 4}),
        (LOOP, {1: 4, 2: 4}),
        (EARLY, {1: 2}),
        (LEAVING, {1: 2, 2: 4, 4: 5}),
        (SWITCH, {0: 4, 1: 4, 3: 4}),
        (ENDLESS, {0: 2}),
    ],
)
def test_reconvergence(text, expected):
    assert reconvergence(body(text)) == expected
