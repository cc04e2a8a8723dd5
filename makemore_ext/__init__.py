"""Fused cross entropy and batch norm for PyTorch, and the network they were derived from.

`cross_entropy`, `batch_norm` and `embedding` take the place of torch.nn.functional's;
`makemore_ext.reference` derives their gradients step by step; `makemore_ext.makemore` trains with
them; `FusedMLP` takes whole training steps in one call. Importing needs torch alone.
"""

from importlib.metadata import version as _version
from typing import Any as _Any

from makemore_ext import check, makemore, reference
from makemore_ext._native import autograd_kind as _autograd_kind
from makemore_ext._native import cpu_capability as _cpu_capability
from makemore_ext._native import cuda_architectures as _cuda_architectures
from makemore_ext._native import torch_version as _torch_version
from makemore_ext.conversion import ConversionReport, convert, patch, revert, unpatch
from makemore_ext.fused_mlp import FusedMLP
from makemore_ext.memory import CacheInfo, cache_info, empty_cache, set_cache_limit
from makemore_ext.ops.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BatchNormFunction,
    SyncBatchNorm,
    batch_norm,
    sync_batch_norm,
)
from makemore_ext.ops.cross_entropy import (
    CrossEntropyFunction,
    CrossEntropyLoss,
    cross_entropy,
    parallel_cross_entropy,
)
from makemore_ext.ops.embedding import EmbeddingFunction, embedding

__version__ = _version("makemore_ext")
__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormFunction",
    "CacheInfo",
    "ConversionReport",
    "CrossEntropyFunction",
    "CrossEntropyLoss",
    "EmbeddingFunction",
    "FusedMLP",
    "SyncBatchNorm",
    "batch_norm",
    "build_info",
    "cache_info",
    "check",
    "convert",
    "cross_entropy",
    "embedding",
    "empty_cache",
    "makemore",
    "parallel_cross_entropy",
    "patch",
    "reference",
    "revert",
    "set_cache_limit",
    "sync_batch_norm",
    "unpatch",
]


def build_info() -> dict[str, _Any]:
    """What was built: version, torch built against, CPU capability in use, CUDA architectures.

    `cpu_capability` is "default", "avx2" or "avx512": the best this processor has, or what the
    environment variable MAKEMORE_EXT_CPU_CAPABILITY asked for. `cuda_architectures` is a list as
    ["8.0", "9.0+PTX"], None where the kernels for CUDA were not built. `autograd` is "native", or
    "python" and why.
    """
    return {
        "version": __version__,
        "torch": _torch_version,
        "cpu_capability": _cpu_capability,
        "cuda_architectures": _cuda_architectures,
        "autograd": _autograd_kind,
    }
