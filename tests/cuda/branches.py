"""The branches that a size opens: each with a call of its operation's table that takes it, and what
then holds of the launches, which test_branches.py looks at.

That the kernels' own branches go both ways, in every instance of a kernel, is looked at there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Name of the branch: the call, and what then holds of its facts, see branch_facts.py.
Branches = dict[str, tuple[str, Callable[[Any], Any]]]

COLUMNS: Branches = {
    "one row": ("one row-1x37x1-float16", lambda f: f.rows == 1),
    "blocks of 1 unit": ("one column-37x1x1-float32", lambda f: f.width == 1),
    "blocks of 2 units": ("many rows-1030x8x1-float32", lambda f: f.width == 2),
    "blocks of 4 units": ("columns-37x16x1-float32", lambda f: f.width == 4),
    "blocks of 8 units": ("tanh-37x24x1-float32", lambda f: f.width == 8),
    "blocks of 16 units": ("columns-150x40x1-float32", lambda f: f.width == 16),
    "blocks of 32 units": ("columns-37x27x1-float32", lambda f: f.width == 32),
    "one block across": ("columns-37x27x1-float32", lambda f: f.across == 1),
    "several blocks across": ("columns-33x200x1-float32", lambda f: f.across > 1),
    "threads without a unit": ("columns-33x200x1-float32", lambda f: f.units % f.width > 0),
    "vectors alone": ("columns-33x200x1-float32", lambda f: f.units == f.vectors),
    "no vectors": ("columns-37x27x1-float32", lambda f: f.vectors == 0),
    "a head and a tail": (
        "unaligned by 1-33x40x1-bfloat16",
        lambda f: f.vectors and f.head and f.tail,
    ),
    "not aligned alike": ("unlike alignment-33x40x1-float32", lambda f: f.head == 40),
    "one band": ("columns-37x27x1-float32", lambda f: f.bands == 1),
    "several bands": ("columns-150x40x1-float32", lambda f: f.bands > 1),
    "a shorter last band": ("columns-150x40x1-float32", lambda f: f.last_rows < f.band_rows),
    "threads without a row": ("columns-130x40x1-float32", lambda f: f.last_rows < f.at_once),
    "no run": ("columns-37x27x1-float32", lambda f: f.rows <= f.run - f.at_once),
    "a run": ("columns-150x40x1-float32", lambda f: f.rows >= f.run),
    "several runs and a rest": (
        "most blocks-262200x68x1-float32",
        lambda f: f.band_rows > 2 * f.run and f.band_rows % f.run,
    ),
    "as many blocks as there may be": (
        "most blocks-262200x68x1-float32",
        lambda f: f.band_rows > f.run,
    ),
    "more parts than the next splits": (
        "most parts-65537x50x1-float32",
        lambda f: f.head == 3 and f.parts > 1000,
    ),
    "several columns a channel": ("small planes-5x3x49-float32", lambda f: f.inner > 1),
    "a vector of two channels": (
        "small planes-2x8x49-float16",
        lambda f: f.vectors and f.inner % f.lanes,
    ),
    "fewer parts than threads": ("columns-37x27x1-float32", lambda f: f.parts < f.threads),
    "more parts than threads": ("many channels-1x4096x40-float32", lambda f: f.parts > f.threads),
    "a block finishes": ("columns-37x27x1-float32", lambda f: f.threads == 256),
    "some warps finish": ("many columns-3x1032x1-float32", lambda f: 32 < f.threads < 256),
    "a warp finishes": ("many channels-1x4096x40-float32", lambda f: f.threads == 32),
}

PLANES: Branches = {
    "planes of few elements": (
        "small planes apart-700x3x3-bfloat16",
        lambda f: f.inner < 64 and f.width == 1,
    ),
    "some threads a plane": ("planes-5x7x65-float32", lambda f: 1 < f.width < 256),
    "all threads a plane": ("large planes-1x2x8300-float32", lambda f: f.width == 256),
    "one band": ("planes-5x7x65-float32", lambda f: f.bands == 1),
    "several bands": ("many planes-100x2x100-float64", lambda f: f.bands > 1),
    "a shorter last band": (
        "many planes-100x2x100-float64",
        lambda f: f.last_rows < f.band_rows,
    ),
    "more rows than at once": ("many planes-100x2x100-float64", lambda f: f.rows > f.at_once),
    "threads without a row": ("one plane-1x1x131-float32", lambda f: f.rows < f.at_once),
    "chunks of a plane": ("large planes-1x2x8300-float32", lambda f: f.chunks > 1),
    "a shorter last chunk": (
        "large planes-1x2x8300-float32",
        lambda f: f.last_chunk < f.chunk_size,
    ),
    "vectors alone": (
        "planes-3x2x196-float32",
        lambda f: f.heads == {0} and f.inner % f.lanes == 0,
    ),
    "a head": ("unaligned by 1-3x2x196-float32", lambda f: f.vectors and 0 not in f.heads),
    "every head": ("planes-5x7x65-bfloat16", lambda f: f.vectors and len(f.heads) == f.lanes),
    "a tail": ("planes-5x7x65-float32", lambda f: f.inner % f.lanes),
    "not aligned alike": ("unlike alignment-3x2x196-float32", lambda f: not f.alike),
    "more vectors than threads": (
        "large planes-1x2x8300-float32",
        lambda f: f.vectors > f.width,
    ),
    "as many blocks as there may be": (
        "most blocks-3x2x2800001-float16",
        lambda f: f.chunk_size > 8192,
    ),
}

CROSS_ENTROPY: Branches = {
    "no rows": ("no rows-0x5-float32", lambda f: f.rows == 0 and f.summed == 0),
    "one class": ("plain-3x1-float32", lambda f: f.classes == 1),
    "a logit a lane": ("plain-1x8-float32", lambda f: not f.is_columns and f.classes <= f.team),
    "a warp a row": ("plain-5x33-float32", lambda f: f.block_rows == 8 and f.classes > f.team),
    "a block a row": ("plain-3x1030-float32", lambda f: f.block_rows == 1 and f.warps == 8),
    "a large block a row": (
        "vocabulary-2x50257-bfloat16",
        lambda f: f.block_rows == 1 and f.warps == 16,
    ),
    "several rows a warp": ("many rows-8200x3-float32", lambda f: f.block_rows == 32),
    "a block that is not full": ("plain-5x33-float32", lambda f: f.last_rows < f.block_rows),
    "vectors alone": (
        "plain-1x8-float32",
        lambda f: f.heads == {0} and f.classes % f.lanes == 0,
    ),
    "a head": ("unaligned by 1-3x45-float32", lambda f: f.alike and f.vectors and max(f.heads)),
    "every head": ("everything-37x13-bfloat16", lambda f: len(f.heads) == f.lanes),
    "a tail": ("plain-5x33-float32", lambda f: f.classes % f.lanes),
    "not aligned alike": ("unaligned gradient-3x45-float32", lambda f: not f.alike),
    "more vectors than threads": (
        "vocabulary-2x50257-bfloat16",
        lambda f: f.vectors > f.team,
    ),
    "columns shared by 4 warps": ("plain-7x5x3-float32", lambda f: f.is_columns and f.warps == 4),
    "columns shared by 8 warps": (
        "many columns-3x70x67-float32",
        lambda f: f.is_columns and f.warps == 8,
    ),
    "columns shared by 16 warps": (
        "columns of many classes-2x1027x5-float32",
        lambda f: f.is_columns and f.warps == 16,
    ),
    "several blocks of columns": (
        "many columns-3x70x67-float32",
        lambda f: f.is_columns and f.blocks > 1 and f.last_rows < 32,
    ),
    "no classes at once": (
        "plain-7x5x3-float32",
        lambda f: f.is_columns and f.classes <= f.at_once - f.warps,
    ),
    "several classes at once": (
        "columns of many classes-2x1027x5-float32",
        lambda f: f.is_columns and f.classes > 2 * f.at_once,
    ),
    "no dimension of rows": ("one row-27-float32", lambda f: f.dimensions == 0),
    "all dimensions of rows": (
        "eight row dimensions-1x2x3x2x1x2x2x2x2-float32",
        lambda f: f.dimensions == 8,
    ),
    "one block of weights": ("plain-5x33-float32", lambda f: f.weight_blocks == 1),
    "several blocks of weights": ("many rows-8200x3-float32", lambda f: f.weight_blocks > 1),
    "fewer partial sums than threads": ("plain-5x33-float32", lambda f: f.summed < 256),
    "more partial sums than threads": ("many rows-8200x3-float32", lambda f: f.summed > 256),
}

SCALE: Branches = {
    "no vectors": ("scale-1x-0.75-float32-0", lambda f: f.vectors == 0),
    "a head and a tail": ("scale-1003x-0.75-float32-7", lambda f: f.head and f.tail),
    "as many blocks as there may be": (
        "scale-1080000x-0.75-float32-3",
        lambda f: f.vectors > f.threads,
    ),
}

EMBEDDING: Branches = {
    "no tokens": ("0x5x4-float32", lambda f: f.launches == 0),
    "a chunk that is not full": ("31x3x16-float32", lambda f: f.tokens < 32),
    "several chunks a block": (
        "96x27x10-float32",
        lambda f: f.blocks == 1 and f.tokens > 64,
    ),
    "several blocks": ("200x3x70-float32", lambda f: f.blocks > 1),
    "warps without a chunk": (
        "200x3x70-float32",
        lambda f: f.tokens <= 128 * f.blocks - 32,
    ),
    "a run in one chunk": ("96x27x10-float32", lambda f: 1 in f.chunks),
    "a run in two chunks": ("200x3x70-float32", lambda f: 2 in f.chunks),
    "a run in many chunks": ("300x2x8-float32-only 1", lambda f: max(f.chunks) > 4),
    "vectors": ("70x5x272-float32", lambda f: f.has_vectors),
    "no vectors": ("200x3x70-float32", lambda f: not f.has_vectors),
    "one block of features": (
        "96x27x10-float32",
        lambda f: f.feature_blocks == 1,
    ),
    "several blocks of features": (
        "200x3x70-float32",
        lambda f: f.feature_blocks > 1,
    ),
}
