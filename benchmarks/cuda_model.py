"""A model, not a measurement: the bytes the CUDA kernels move, and the time that takes at best.

    python benchmarks/cuda_model.py

The bytes follow from what the kernels read and write (csrc/cuda/); what they read a second time is
left out where the cache can hold it: where a block reads it again at once, and of what batch norm's
second kernel reads again, as much as the second-level cache has room for. The time is the bytes at
the memory bandwidth of an H100 SXM, 3.35 TB/s: no kernel can be faster, and what a launch costs
comes on top. It says which sizes launches dominate, and what benchmarks/cross_entropy.py and
batch_norm.py with --device cuda are to be compared with.
"""

import json
import math
from typing import Any

import batch_norm
import cross_entropy
import measure

BANDWIDTH = 3.35e12  # bytes a second
CACHE_BYTES = 50e6  # of the second level
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
INDEX_BYTES, DOUBLE_BYTES = 8, 8
STATISTICS = 3 * DOUBLE_BYTES  # a row: max, sum of exponentials, A
EMBEDDINGS = ((8192, 50257, 768), (96, 27, 10))  # tokens, vocabulary, features
CHUNK_ROWS = 32  # of csrc/cuda/embedding/embedding.cuh
# Of csrc/cuda/batch_norm/batch_norm.cu and the headers below it.
THREADS, MANY_BLOCKS, MOST_COLUMNS_PER_CHANNEL = 256, 2048, 64
RUN_ROWS, LEAST_ELEMENTS = 8, 8192


def cross_entropy_cost(shape: tuple[int, ...], dtype: str) -> dict[str, tuple[int, int]]:
    """The bytes and the launches of each way through cross entropy, mean over class indices."""
    rows = math.prod(shape) // shape[1]
    logits = math.prod(shape) * ELEMENT_BYTES[dtype]
    target = rows * INDEX_BYTES
    forward = logits + 2 * target + rows * STATISTICS  # the weights' sum reads the targets too
    backward = 2 * logits + target + rows * STATISTICS
    sums = 1 if rows <= 4096 else 2  # csrc/cuda/cross_entropy/cross_entropy.cu: launch_weights
    return {
        "forward": (forward, sums + 2),
        "backward": (backward, 1),
        "forward and backward, gradient formed in forward": (2 * logits + 2 * target, sums + 3),
        "forward and backward, in place": (forward + backward, sums + 3),
    }


def batch_norm_parts(outer: int, channels: int, inner: int, dtype: str) -> int:
    """The parts into which the kernels cut a channel of [outer, channels, inner]."""
    if inner <= MOST_COLUMNS_PER_CHANNEL:
        units = math.ceil(channels * inner / (16 // ELEMENT_BYTES[dtype]))
        width = min(32, 2 ** math.ceil(math.log2(units)))
        rows_at_once, across = THREADS // width, math.ceil(units / width)
        steps = max(RUN_ROWS, math.ceil(outer * across / (rows_at_once * MANY_BLOCKS)))
        return math.ceil(outer / (rows_at_once * steps)) * inner
    elements = outer * channels * inner
    of_part = max(1, math.ceil(elements / (MANY_BLOCKS * LEAST_ELEMENTS))) * LEAST_ELEMENTS
    if inner < of_part:
        return math.ceil(outer / (of_part // inner))
    return outer * math.ceil(inner / of_part)


def batch_norm_cost(
    shape: tuple[int, ...], dtype: str, channels_last: bool
) -> dict[str, tuple[int, int]]:
    """The same for batch norm in training, with parameters and running statistics in float32."""
    outer, channels, inner = shape[0], shape[1], math.prod(shape[2:])
    if channels_last:
        outer, inner = outer * inner, 1
    size = outer * channels * inner * ELEMENT_BYTES[dtype]
    parts = batch_norm_parts(outer, channels, inner, dtype)
    handed_on = channels * 2 * (2 * parts * DOUBLE_BYTES + 4 * 4)  # written and read
    vectors = channels * (STATISTICS + 4 * 4)  # weight and bias or their gradients; running ones

    def cost(read: int, written: int) -> tuple[int, int]:
        again = max(0, read * size - int(CACHE_BYTES))
        return (read + written) * size + again + handed_on + vectors, 3

    return {
        "forward": cost(1, 1),
        "backward": cost(2, 1),
        "backward of a fused activation": cost(3, 1),
    }


def embedding_cost(tokens: int, vocabulary: int, features: int, dtype: str) -> tuple[int, int]:
    """The same for the embedding's gradient, without the sort of the indices, which is torch's."""
    table = vocabulary * features * ELEMENT_BYTES[dtype]
    rows = min(tokens, vocabulary) * features * ELEMENT_BYTES[dtype]
    upstream = tokens * features * ELEMENT_BYTES[dtype] + 2 * tokens * INDEX_BYTES
    parts = 2 * math.ceil(tokens / CHUNK_ROWS) * features * 4  # written and read, one a chunk
    return table + rows + upstream + parts, 3


def row(shape: tuple[int, ...], dtype: str, what: str, moved: int, launches: int) -> dict[str, Any]:
    """One line of the result."""
    return {
        "operation": what,
        "shape": list(shape),
        "dtype": dtype,
        "bytes": moved,
        "launches": launches,
        "microseconds": round(moved / BANDWIDTH * 1e6, 3),
    }


def main() -> None:
    """Writes benchmarks/results/cuda_model.json and prints it."""
    results = [
        row(shape, dtype, f"cross entropy: {name}", *cost)
        for dtype in ELEMENT_BYTES
        for shape in cross_entropy.SHAPES
        for name, cost in cross_entropy_cost(shape, dtype).items()
    ]
    results += [
        row(shape, dtype, f"batch norm{', channels last' if last else ''}: {name}", *cost)
        for dtype in ELEMENT_BYTES
        for shape in batch_norm.SHAPES
        for last in ([False, True] if len(shape) == 4 else [False])
        for name, cost in batch_norm_cost(shape, dtype, last).items()
    ]
    results += [
        row(shape, dtype, "embedding: gradient", *embedding_cost(*shape, dtype))
        for dtype in ELEMENT_BYTES
        for shape in EMBEDDINGS
    ]
    measure.print_rows("a model, not a measurement", results)
    record = {
        "what": "a model, not a measurement: bytes moved, and their time at `bandwidth`",
        "bandwidth": BANDWIDTH,
        "results": results,
    }
    path = measure.RESULTS / "cuda_model.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
