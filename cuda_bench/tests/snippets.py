"""Runs one PTX instruction on arrays: each thread loads its operands, and stores the result.

Where ptxas is at hand it must accept the text: no test rests on an instruction that does not exist.
"""

from __future__ import annotations

import functools
import subprocess

import numpy as np
from cuda_bench import Device, parse, toolkit
from cuda_bench.ptx.types import SIZES

HEADER = ".version 9.0\n.target sm_{architecture}\n.address_size 64\n"
INTO = {1: "b16", 2: "b16", 4: "b32", 8: "b64"}  # registers are no narrower than 16 bits


def register(type: str) -> str:
    return "pred" if type == "pred" else INTO[SIZES[type]]


def entry(name: str, body: str, results: list[str], operands: list[str]) -> str:
    """A kernel whose thread t computes %r0, %r1, … from %a, %b, … = the operands' element t."""
    pointers = ", ".join(f".param .u64 p{i}" for i in range(len(results) + len(operands)))
    lines = [
        f".visible .entry {name}({pointers}) {{",
        ".reg .u64 %address, %offset; .reg .u32 %thread; .reg .pred %p; .reg .b32 %flag;",
        "mov.u32 %thread, %tid.x;",
    ]
    for index, type in enumerate(operands):
        name, storage = f"%{'abcd'[index]}", "u32" if type == "pred" else f"b{8 * SIZES[type]}"
        size = 4 if type == "pred" else SIZES[type]
        lines += [
            f".reg .{register(type)} {name};",
            f"ld.param.u64 %address, [p{index}]; mul.wide.u32 %offset, %thread, {size};",
            "add.u64 %address, %address, %offset;",
        ]
        if type == "pred":
            lines += ["ld.global.u32 %flag, [%address];", f"setp.ne.u32 {name}, %flag, 0;"]
        else:
            lines += [f"ld.global.{storage} {name}, [%address];"]
    lines += [f".reg .{register(type)} %r{i};" for i, type in enumerate(results)]
    lines += [body]
    for index, type in enumerate(results):
        name, size = f"%r{index}", 4 if type == "pred" else SIZES[type]
        if type == "pred":
            lines += [f"selp.u32 %flag, 1, 0, {name};"]
        lines += [
            f"ld.param.u64 %address, [p{len(operands) + index}];",
            f"mul.wide.u32 %offset, %thread, {size}; add.u64 %address, %address, %offset;",
            f"st.global.{'u32' if type == 'pred' else f'b{8 * size}'} [%address], "
            f"{'%flag' if type == 'pred' else name};",
        ]
    return "\n".join([*lines, "ret;", "}", ""])


@functools.cache
def assemble(text: str, architecture: str) -> None:
    ptxas = toolkit.tool("ptxas")
    if ptxas is not None:
        command = [ptxas, f"-arch=sm_{architecture}", "-o", "/dev/null", "/dev/stdin"]
        subprocess.run(command, input=text.encode(), check=True, stdout=subprocess.PIPE)


def evaluate(
    body: str,
    results: list[str],
    operands: list[tuple[str, np.ndarray]],
    *,
    device: Device | None = None,
    architecture: str = "100a",
) -> list[np.ndarray]:
    """The results' bits, as unsigned integers (predicates as 0 and 1)."""
    text = HEADER.format(architecture=architecture)
    text += entry("snippet", body, results, [type for type, _ in operands])
    module = parse(text)
    device = device or Device()
    count = len(operands[0][1])
    inputs = [
        device.array(values.astype(np.uint32) if type == "pred" else values)
        for type, values in operands
    ]
    outputs = [
        device.empty(count, np.uint32 if type == "pred" else f"u{SIZES[type]}") for type in results
    ]
    device.launch(module, "snippet", 1, count, [*inputs, *outputs])
    assemble(text, architecture)
    return [buffer.numpy() for buffer in outputs]
