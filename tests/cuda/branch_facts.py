"""What the launchers make of a size: facts for branches.py, of a call that runs no kernel."""

from __future__ import annotations

import math

import batch_norm_table
import cross_entropy_table
import embedding_table
import torch
from cuda_bench.launchers import Launched, Launchers
from launched import Unrun
from launched_cross_entropy import class_dim
from launched_embedding import embedding_backward
from structures import TYPES, Structure


def lanes_of(dtype: torch.dtype) -> int:
    """Elements in 16 bytes."""
    return 16 // dtype.itemsize


def heads(tensor: torch.Tensor, offset: int, along: int) -> set[int]:
    """How many elements lie before the first vector, of each row along a dimension."""
    first = torch.full((1,), offset)
    for dim in range(tensor.dim()):
        if dim != along:
            first = (first[:, None] + torch.arange(tensor.shape[dim]) * tensor.stride(dim)).view(-1)
    return set((-first % lanes_of(tensor.dtype)).tolist())


class Parts:
    """How batch norm cuts channels, and the threads that add up the parts of each."""

    def __init__(self, case: batch_norm_table.Case, cut: Structure, finish: Launched) -> None:
        self.lanes = lanes_of(case.dtype)
        self.rows, self.inner = cut.rows, cut.inner
        self.band_rows, self.chunk_size = cut.band_rows, cut.chunk_size
        self.bands, self.chunks = -(-cut.rows // cut.band_rows), -(-cut.inner // cut.chunk_size)
        self.last_rows = cut.rows - (self.bands - 1) * cut.band_rows
        self.last_chunk = cut.inner - (self.chunks - 1) * cut.chunk_size
        self.parts, self.threads = self.bands * self.chunks, finish.block[0]


class Columns(Parts):
    """A grid of batch_norm/columns.cuh."""

    def __init__(self, case: batch_norm_table.Case, sums: Launched, finish: Launched) -> None:
        grid = TYPES["ColumnGrid"].from_buffer_copy(sums.arguments[1])
        super().__init__(case, grid.cut, finish)
        self.width, self.at_once = grid.width, 256 // grid.width
        self.run = 8 * self.at_once
        self.columns, self.head, self.vectors = grid.split.size, grid.split.head, grid.split.vectors
        self.tail = self.columns - self.head - self.vectors * self.lanes
        self.units = self.head + self.vectors + self.tail
        self.across = sums.grid[0] // self.bands


class Planes(Parts):
    """A grid of batch_norm/planes.cuh."""

    def __init__(self, case: batch_norm_table.Case, sums: Launched, finish: Launched) -> None:
        grid = TYPES["PlaneGrid"].from_buffer_copy(sums.arguments[1])
        super().__init__(case, grid.cut, finish)
        self.width, self.at_once = grid.width, 256 // grid.width
        self.heads = heads(case.input(), case.offset, along=2)
        self.alike = case.result_offset in (None, case.offset)
        self.vectors = (self.chunk_size - max(self.heads)) // self.lanes


def of_batch_norm(case: batch_norm_table.Case, launchers: Launchers) -> Columns | Planes:
    """The forward pass, or, where the input needs no gradient, the backward pass."""
    norm = case.on(Unrun(), launchers)
    output, statistics, *_ = norm.forward(*case.running_statistics())
    if not case.needs_input:
        norm.backward(case.grad_output(), output, statistics, needs_input=False)
    sums, finish, *_ = launchers.launched
    return (Columns if "columns" in sums.kernel else Planes)(case, sums, finish)


class OfCrossEntropy:
    """What forward launches."""

    def __init__(self, case: cross_entropy_table.Case, launchers: Launchers) -> None:
        case.on(Unrun()).forward(launchers)
        launched = {
            launch.kernel.split("cross_entropy_")[1][:3]: launch for launch in launchers.launched
        }
        # Of partial sums, the last time that some are added up.
        self.summed = int.from_bytes(launched["sum"].arguments[1], "little")
        self.weight_blocks = launched["wei"].grid[0] if "wei" in launched else 0
        self.is_columns = "col" in launched
        logits = case.tensors()[0]
        along = class_dim(logits)
        self.classes = logits.shape[along]
        self.rows = logits.numel() // self.classes
        if self.rows == 0:
            return
        main = launched["col" if self.is_columns else "row"]
        self.blocks, self.warps = main.grid[0], math.prod(main.block) // 32
        self.block_rows = 32 if self.is_columns else int.from_bytes(main.arguments[1], "little")
        self.last_rows = self.rows - (self.blocks - 1) * self.block_rows
        self.dimensions = logits.dim() - 1
        # The loops of rows: a warp's or a block's threads share one.
        self.lanes, self.heads = lanes_of(case.dtype), heads(logits, case.offset, along)
        self.alike = case.gradient_offset == case.offset
        self.team = self.warps * 32 if self.block_rows == 1 else 32
        self.vectors = (self.classes - max(self.heads)) // self.lanes
        # The loops of columns: over several classes at once, then over the rest.
        self.at_once = self.lanes * self.warps


class OfScale:
    """What scales a gradient."""

    def __init__(self, scale: cross_entropy_table.Scale, launchers: Launchers) -> None:
        device = Unrun()
        scale.launch(launchers, device, *scale.tensors())
        [launched] = launchers.launched
        self.threads = launched.grid[0] * launched.block[0]
        lanes = lanes_of(scale.dtype)
        self.head = min(-scale.offset % lanes, scale.count)
        self.vectors, self.tail = divmod(scale.count - self.head, lanes)


class OfEmbedding:
    """What sums the gradient of a table, and the runs of equal indices among the sorted."""

    def __init__(self, case: embedding_table.Case, launchers: Launchers) -> None:
        grad_output, indices = case.tensors()
        embedding_backward(launchers, Unrun(), grad_output, indices, case.vocabulary, case.offset)
        self.tokens = case.tokens
        self.launches = len(launchers.launched)
        if self.launches:
            launched = launchers.launched[0]
            self.blocks, self.feature_blocks, _ = launched.grid
            self.has_vectors = any(launched.arguments[1])
            runs = indices.unique(return_counts=True)[1]
            ends = runs.cumsum(0)
            self.chunks = ((ends - 1) // 32 - (ends - runs) // 32 + 1).tolist()  # of each run
