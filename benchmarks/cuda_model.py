"""A model, not a measurement: the bytes the CUDA kernels move, and the time that takes at best.

    python benchmarks/cuda_model.py

The bytes follow from what the kernels read and write (csrc/cuda/); what they read a second time is
left out where a block reads it again at once, from the cache. The time is the bytes at the memory
bandwidth of an H100 SXM, 3.35 TB/s: no kernel can be faster, and what a launch costs comes on top.
It says which sizes launches dominate, and what benchmarks/cross_entropy.py --device cuda is to be
compared with.
"""

import json
import math
from typing import Any

import measure
from cross_entropy import SHAPES

BANDWIDTH = 3.35e12  # bytes a second
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
INDEX_BYTES, DOUBLE_BYTES = 8, 8
STATISTICS = 3 * DOUBLE_BYTES  # a row: max, sum of exponentials, A
EMBEDDINGS = ((8192, 50257, 768), (96, 27, 10))  # tokens, vocabulary, features
CHUNK_ROWS = 32  # of csrc/cuda/embedding.cuh


def cross_entropy(shape: tuple[int, ...], dtype: str) -> dict[str, tuple[int, int]]:
    """The bytes and the launches of each way through cross entropy, mean over class indices."""
    rows = math.prod(shape) // shape[1]
    logits = math.prod(shape) * ELEMENT_BYTES[dtype]
    target = rows * INDEX_BYTES
    forward = logits + 2 * target + rows * STATISTICS  # the weights' sum reads the targets too
    backward = 2 * logits + target + rows * STATISTICS
    sums = 1 if rows <= 4096 else 2  # csrc/cuda/cross_entropy.cu: launch_weights
    return {
        "forward": (forward, sums + 2),
        "backward": (backward, 1),
        "forward and backward, gradient formed in forward": (2 * logits + 2 * target, sums + 3),
        "forward and backward, in place": (forward + backward, sums + 3),
    }


def embedding(tokens: int, vocabulary: int, features: int, dtype: str) -> tuple[int, int]:
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
        for shape in SHAPES
        for name, cost in cross_entropy(shape, dtype).items()
    ]
    results += [
        row(shape, dtype, "embedding: gradient", *embedding(*shape, dtype))
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
