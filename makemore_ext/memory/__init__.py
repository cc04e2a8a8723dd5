"""Memory of large results on the CPU, which is used again: see csrc/memory/block_cache.h.

Outputs and gradients of 1 MiB and more take blocks that earlier results gave back, as pages that
the system has to map and clear on every step cost more than the kernels that write them. Smaller
results, and everything that torch allocates itself, are left to torch.
"""

import os
import re
from typing import NamedTuple

from makemore_ext import _C
from makemore_ext._arguments import checked_integer
from makemore_ext._native import autograd

_VARIABLE = "MAKEMORE_EXT_CACHE_LIMIT"
_MOST = 2**63 - 1


class CacheInfo(NamedTuple):
    """The cache at one moment, in bytes but for the last two, which count since the start.

    Attributes:
        in_use: of results that are alive, each rounded up to 128 KiB.
        idle: held for the next results.
        peak: the most in use at once during the last 10 to 20 s; rounded up to 2 MiB the
            bound of `idle`.
        limit: what `set_cache_limit` or MAKEMORE_EXT_CACHE_LIMIT said; None where neither did, 0
            where the cache is off.
        reused: results that took a block.
        missed: results for which memory had to be mapped.
    """

    in_use: int
    idle: int
    peak: int
    limit: int | None
    reused: int
    missed: int


def cache_info() -> CacheInfo:
    """What the cache of large results on the CPU holds, and how often it served."""
    return CacheInfo(*_C.cache_info())


def empty_cache() -> None:
    """Give what is idle back to the system. Results that are alive keep their memory."""
    _C.empty_cache()


def set_cache_limit(limit: int | None) -> None:
    """Bound the bytes that lie idle for the next large results on the CPU.

    Args:
        limit: 0 turns the cache off, and torch allocates every result. None, the default, leaves
            the bound to what was in use at once during the last 10 to 20 s, which holds besides
            every other limit. What is idle beyond it goes back to the system at once.

    On another torch than the one built with, where autograd is Python's, the cache stays off.

    Raises:
        ValueError: `limit` is no integer of at least 0.
    """
    if limit is not None:
        limit = min(checked_integer("limit", limit, minimum=0), _MOST)
    _C.set_cache_limit(limit if autograd is not None else 0)


def _limit_of_environment() -> int | None:
    value = os.environ.get(_VARIABLE, "")
    if re.fullmatch("[0-9]*", value) is None:
        raise ImportError(f"{_VARIABLE} must be a number of bytes, 0 or more, got {value!r}")
    return int(value) if value else None


set_cache_limit(_limit_of_environment())
