"""All calls of the operations' tables: what is run for every architecture, and must take every
branch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import batch_norm_check
import batch_norm_table
import cross_entropy_check
import cross_entropy_table
import embedding_table


@dataclass(frozen=True)
class Call:
    """Launchers of an operation on some tensors, and a check of what comes of it."""

    operation: str
    name: str
    check: Callable[..., Any]  # of the launchers and a device
    is_large: bool = False  # and takes seconds

    @property
    def id(self) -> str:
        return f"{self.operation}-{self.name}"


CALLS = [
    *(
        Call("batch_norm", case.id, partial(batch_norm_check.check, case), case.is_large)
        for case in batch_norm_table.CASES
    ),
    *(
        Call("batch_norm", case.id, partial(batch_norm_check.check_part, case))
        for case in batch_norm_table.PARTS
    ),
    *(
        Call("batch_norm", f"doubles-{shape}", partial(batch_norm_check.check_huge_doubles, shape))
        for shape in batch_norm_table.HUGE_DOUBLES
    ),
    *(
        Call("cross_entropy", case.id, partial(cross_entropy_check.check, case), case.is_large)
        for case in cross_entropy_table.CASES
    ),
    *(
        Call("cross_entropy", case.id, partial(cross_entropy_check.check_outside, case, target))
        for case, target in cross_entropy_table.OUTSIDE
    ),
    *(
        Call("cross_entropy", scale.id, partial(cross_entropy_check.check_scale, scale))
        for scale in cross_entropy_table.SCALES
    ),
    *(
        Call("embedding", case.id, partial(embedding_table.check, case))
        for case in embedding_table.CASES
    ),
]
