"""Batch norm with the activation that follows it."""

from makemore_ext.ops.batch_norm import registrations  # noqa: F401  shapes and batching, for torch
from makemore_ext.ops.batch_norm.function import BatchNormFunction
from makemore_ext.ops.batch_norm.functional import batch_norm
from makemore_ext.ops.batch_norm.modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from makemore_ext.ops.batch_norm.sync import sync_batch_norm

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormFunction",
    "SyncBatchNorm",
    "batch_norm",
    "sync_batch_norm",
]
