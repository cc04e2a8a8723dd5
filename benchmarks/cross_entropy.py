"""Cross entropy, forward and backward: torch eager, torch.compile, ours, ours in place.

    python benchmarks/cross_entropy.py [--quick] [--device cuda]

Each contender takes logits that an operation computed and gives their gradient. The byte model is
the least that must move: the logits read once and the gradient written once, 2 N C elements, which
is what the warm copy moves. In place the gradient cannot be formed before backward, so that the
logits are read twice: 3 N C elements.

The copy, into memory that is used again, is the floor. Three contenders stand beside it: "clone",
the same bytes into memory that torch allocates; "loss alone", one read and all the exponentials,
without a gradient; "hollow", an autograd Function without a kernel, for tiny sizes. On a CUDA
device Liger and quack take part where they are installed, on logits [N, C].

On the CPU large logits are then measured once more, in a process that has jemalloc for malloc
(measure/jemalloc.py).
"""

import argparse
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import measure
import torch
from measure import jemalloc
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext.bench import interleaved

SHAPES = (
    *((32, 27), (1024, 27), (256, 1000), (4096, 1000)),
    *((512, 32000), (1024, 50257), (64, 128256), (8, 21, 128, 128)),
)
SEEN_MEMORY = 2**26  # bytes; less may be there already, kept by malloc
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Logits(torch.autograd.Function):
    """A tensor as an operation gives it to the loss: not a leaf, and nobody else's."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


def peers(logits: Tensor) -> dict[str, Callable[..., Tensor]]:
    """Other kernels for CUDA, called as F.cross_entropy is. Each may overwrite the logits."""
    found: dict[str, Callable[..., Tensor]] = {}
    if not logits.is_cuda or logits.dim() != 2:
        return found
    if find_spec("liger_kernel"):
        from liger_kernel.transformers.functional import liger_cross_entropy

        found["liger"] = liger_cross_entropy
    if find_spec("quack"):
        from quack.cross_entropy import cross_entropy

        found["quack"] = lambda input, target: cross_entropy(input, target, reduction="mean")
    return found


def contenders(logits: Tensor, target: Tensor) -> dict[str, Any]:
    """What takes turns, each a call without arguments."""
    anchor = torch.zeros((), device=logits.device, requires_grad=True)
    scratch = torch.empty_like(logits)
    overwritten = logits.clone()
    compiled = measure.compiled(F.cross_entropy)

    def step(function: Any, values: Tensor, **options: Any) -> None:
        function(Logits.apply(anchor, values), target, **options).backward()

    hollow = measure.hollow(torch.zeros_like(anchor, requires_grad=False), scratch)
    return {
        "copy": lambda: scratch.copy_(logits),
        "clone": lambda: logits.clone(),
        "loss alone": lambda: mx.cross_entropy(logits, target),
        "hollow": lambda: hollow(Logits.apply(anchor, logits)).backward(),
        "eager": lambda: step(F.cross_entropy, logits),
        "compile": lambda: step(compiled, logits),
        "fresh": lambda: step(mx.cross_entropy, logits),
        "in place": lambda: step(mx.cross_entropy, overwritten, inplace_backward=True),
        **{name: lambda f=f: step(f, overwritten) for name, f in peers(logits).items()},
    }


def bench(shape: tuple[int, ...], name: str, rounds: int, device: str) -> dict[str, Any]:
    """Measures one shape in one dtype."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(device, DTYPES[name])
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator).to(device)
    functions = contenders(logits, target)
    seconds = interleaved(functions, rounds, device)
    memory = {}
    for key in ("eager", "fresh", "in place"):
        mx.empty_cache()  # what is idle there was in use before
        memory[key] = measure.peak_memory(functions[key], device)
    return {
        "shape": list(shape),
        "dtype": name,
        "logits_bytes": logits.numel() * logits.element_size(),
        "seconds": seconds,
        "peak_bytes": memory,
    }


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The row of the table for a result."""
    seconds, size = result["seconds"], result["logits_bytes"]
    best_peer = min(seconds["eager"], seconds["compile"])

    def in_logits(key: str) -> str:
        peak = result["peak_bytes"][key]
        return "-" if peak is None or size < SEEN_MEMORY else f"{peak / size:.1f}"

    return {
        "logits": "x".join(map(str, result["shape"])),
        "dtype": result["dtype"],
        "copy ms": seconds["copy"] * 1e3,
        "clone ms": seconds["clone"] * 1e3,
        "loss ms": seconds["loss alone"] * 1e3,
        "hollow ms": seconds["hollow"] * 1e3,
        "eager ms": seconds["eager"] * 1e3,
        "compile ms": seconds["compile"] * 1e3,
        "fresh ms": seconds["fresh"] * 1e3,
        "in place ms": seconds["in place"] * 1e3,
        **{f"{name} ms": seconds[name] * 1e3 for name in ("liger", "quack") if name in seconds},
        "best peer / fresh": best_peer / seconds["fresh"],
        "best peer / copy": best_peer / seconds["copy"],
        "fresh / copy": seconds["fresh"] / seconds["copy"],
        "eager / in place": seconds["eager"] / seconds["in place"],
        "in place / copy": seconds["in place"] / seconds["copy"],
        "fresh GB/s": 2 * size / seconds["fresh"] / 1e9,
        "in place GB/s": 3 * size / seconds["in place"] / 1e9,
        "memory eager": in_logits("eager"),
        "memory fresh": in_logits("fresh"),
        "memory in place": in_logits("in place"),
    }


def main() -> None:
    """Measures every shape and dtype, prints the table, writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds, no result file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(jemalloc.OPTION, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    least_bytes = jemalloc.LARGE if arguments.under_jemalloc else 0
    results = [
        bench(shape, dtype, rounds=3 if arguments.quick else 11, device=arguments.device)
        for dtype in DTYPES
        for shape in SHAPES
        if math.prod(shape) * DTYPES[dtype].itemsize >= least_bytes
    ]
    title = f"cross entropy on {arguments.device}, {arguments.threads} threads"
    title += "; memory in sizes of the logits"
    jemalloc.finish("cross_entropy", title, results, summary, arguments)


if __name__ == "__main__":
    main()
