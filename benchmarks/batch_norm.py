"""Batch norm, forward and backward: torch eager, torch.compile, ours, with and without activation.

    python benchmarks/batch_norm.py [--quick] [--device cuda]

Each contender takes an input that requires grad, with weight, bias and running statistics in
float32, and gives the gradients of all three, from an upstream gradient that is there. The byte
model is the least that must move where a channel fits the cache: forward reads the input and
writes the output, backward reads the input and the upstream gradient and writes that of the input,
5 passes over the tensor; a fused activation reads the output as well, 6 passes. The warm copy
moves 2. "floor" makes those 5 passes and nothing else, a copy of the input and a sum of input and
gradient, into memory that is used again; "hollow" is an autograd Function without a kernel, the
floor of tiny sizes.

On the CPU large inputs are then measured once more, in a process that has jemalloc for malloc
(measure/jemalloc.py).
"""

import argparse
import math
from typing import Any

import measure
import torch
from measure import jemalloc
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext.bench import interleaved

MATRICES = ((32, 64), (32, 200), (256, 200), (4096, 200), (4096, 1024), (65536, 200))
SHAPES = (*MATRICES, (64, 128, 512), (32, 64, 56, 56), (32, 256, 14, 14))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def torch_tanh(*arguments: Any) -> Tensor:
    """What the fused activation takes the place of."""
    return torch.tanh(F.batch_norm(*arguments))


def contenders(input: Tensor) -> dict[str, Any]:
    """What takes turns, each a call without arguments."""
    channels = input.shape[1]
    device = input.device
    scratch, other = torch.empty_like(input), torch.empty_like(input)
    values, input = input, input.detach().requires_grad_()
    grad_output = torch.randn_like(input, requires_grad=False)
    weight, bias = (torch.ones(channels, device=device, requires_grad=True) for _ in range(2))
    running = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    leaves = (input, weight, bias)

    def step(function: Any, **options: Any) -> None:
        output = function(input, *running, weight, bias, True, **options)
        torch.autograd.grad(output, leaves, grad_output)

    compiled = measure.compiled(F.batch_norm)
    compiled_tanh = torch.compile(torch_tanh, dynamic=False)
    hollow = measure.hollow(scratch, scratch, weight.detach(), bias.detach())
    return {
        "copy": lambda: scratch.copy_(values),
        "floor": lambda: (scratch.copy_(values), torch.add(values, grad_output, out=other)),
        "hollow": lambda: torch.autograd.grad(hollow(*leaves), leaves, grad_output),
        "eager": lambda: step(F.batch_norm),
        "compile": lambda: step(compiled),
        "ours": lambda: step(mx.batch_norm),
        "eager tanh": lambda: step(torch_tanh),
        "compile tanh": lambda: step(compiled_tanh),
        "ours tanh": lambda: step(mx.batch_norm, activation="tanh"),
    }


def bench(
    shape: tuple[int, ...], dtype: str, memory_format: torch.memory_format, rounds: int, device: str
) -> dict[str, Any]:
    """Measures one shape in one dtype and memory format."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(shape, generator=generator)
    input = input.to(device, DTYPES[dtype], memory_format=memory_format)
    return {
        "shape": list(shape),
        "memory_format": str(memory_format).removeprefix("torch.").removesuffix("_format"),
        "dtype": dtype,
        "input_bytes": input.numel() * input.element_size(),
        "seconds": interleaved(contenders(input), rounds, device),
    }


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The row of the table for a result."""
    seconds, size = result["seconds"], result["input_bytes"]
    best = min(seconds["eager"], seconds["compile"])
    best_tanh = min(seconds["eager tanh"], seconds["compile tanh"])
    return {
        "input": "x".join(map(str, result["shape"])),
        "memory": result["memory_format"].replace("_", " "),
        "dtype": result["dtype"],
        "copy µs": seconds["copy"] * 1e6,
        "floor µs": seconds["floor"] * 1e6,
        "hollow µs": seconds["hollow"] * 1e6,
        "eager µs": seconds["eager"] * 1e6,
        "compile µs": seconds["compile"] * 1e6,
        "ours µs": seconds["ours"] * 1e6,
        "best peer / ours": best / seconds["ours"],
        "best peer / floor": best / seconds["floor"],
        "ours / floor": seconds["ours"] / seconds["floor"],
        "ours GB/s": 5 * size / seconds["ours"] / 1e9,
        "tanh: best peer / ours": best_tanh / seconds["ours tanh"],
        "ours tanh / copy": seconds["ours tanh"] / seconds["copy"],
        "ours tanh GB/s": 6 * size / seconds["ours tanh"] / 1e9,
    }


def main() -> None:
    """Measures every shape, dtype and memory format, prints the table, writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds, no result file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(jemalloc.OPTION, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    formats = {2: [torch.contiguous_format], 3: [torch.contiguous_format]}
    least_bytes = jemalloc.LARGE if arguments.under_jemalloc else 0
    results = [
        bench(shape, dtype, memory_format, 3 if arguments.quick else 21, arguments.device)
        for dtype in DTYPES
        for shape in SHAPES
        if math.prod(shape) * DTYPES[dtype].itemsize >= least_bytes
        for memory_format in formats.get(len(shape), [torch.contiguous_format, torch.channels_last])
    ]
    title = f"batch norm, forward and backward, on {arguments.device}, {arguments.threads} threads"
    jemalloc.finish("batch_norm", title, results, summary, arguments)


if __name__ == "__main__":
    main()
