"""The processes of torch.distributed that share a call."""

from typing import Any, NamedTuple

from torch import distributed as dist


class Ranks(NamedTuple):
    """A process group, and which of its processes this one is."""

    group: Any
    rank: int
    size: int


def kept(group: Any) -> Any:
    """`group` as a layer keeps it: that of all ranks as None, which can be copied and pickled."""
    return None if is_distributed() and group is dist.group.WORLD else group


def is_distributed() -> bool:
    """Whether torch.distributed is initialized."""
    return dist.is_available() and dist.is_initialized()


def ranks_of(group: Any) -> Ranks:
    """The processes of `group`, None for all.

    Raises:
        RuntimeError: torch.distributed is not initialized, or this process is not in `group`.
    """
    if not is_distributed():
        raise RuntimeError(
            "torch.distributed must be initialized for group to have any processes, got "
            f"group={group!r} where init_process_group has not been called"
        )
    rank = dist.get_rank(group)
    if rank < 0:
        raise RuntimeError(f"group must have this process in it, got {group!r} without")
    return Ranks(group, rank, dist.get_world_size(group))
