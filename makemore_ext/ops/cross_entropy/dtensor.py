"""Cross entropy of a DTensor: each rank's kernel takes the part of the logits that it has.

The classes may be sharded over one dimension of the mesh, which is `parallel_cross_entropy`, rows
over any others, where losses and what the mean divides by are added up.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from makemore_ext.ops.cross_entropy.options import class_dim
from makemore_ext.ops.cross_entropy.parallel import parallel_cross_entropy
from makemore_ext.ops.tensors import compute_dtype, is_dtensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement


def of_dtensor(
    input: "DTensor",
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    *,
    return_lse: bool,
    **options: Any,
) -> Any:
    """`cross_entropy` of a DTensor; `target` and `weight` are DTensors, or whole on every rank.

    Returns:
        DTensors on the mesh of `input`: a reduced loss replicated, losses and lse of rows sharded
        as the rows of `input` are.

    Raises:
        NotImplementedError: the placements are others than Shard and Replicate, or shard the
            classes more than once.
        As `parallel_cross_entropy` where the classes are sharded.
    """
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    mesh, dim = input.device_mesh, class_dim(input)
    over_classes = [place == Shard(dim) for place in input.placements]
    over_rows = [isinstance(p, Shard) and p != Shard(dim) for p in input.placements]
    known = all(type(place) in (Shard, Replicate) for place in input.placements)
    if not known or sum(over_classes) > 1:
        raise NotImplementedError(
            "input must be replicated or sharded, over its classes by at most one dimension of the "
            f"mesh, got placements {input.placements}"
        )

    everywhere: list[Placement] = [Replicate()] * mesh.ndim
    to_add_up = [Partial() if is_row else Replicate() for is_row in over_rows]

    def of_rows(place: "Placement") -> "Placement":
        """Where something with the dimensions of `input` but the classes is."""
        if not isinstance(place, Shard) or place.dim == dim:
            return Replicate()
        return Shard(place.dim - (place.dim > dim))

    def part(tensor: Tensor, placements: list["Placement"]) -> Tensor:
        if not is_dtensor(tensor):
            tensor = DTensor.from_local(tensor, mesh, everywhere, run_check=False)
        return tensor.redistribute(mesh, placements).to_local()  # type: ignore[attr-defined]

    rows = [of_rows(place) for place in input.placements]
    is_indices = not target.is_floating_point()
    target = part(target, rows if is_indices else list(input.placements))
    whole_weight = None if weight is None else part(weight, everywhere)
    if weight is not None:
        weight = part(weight, [Shard(0) if is_class else Replicate() for is_class in over_classes])

    local = input.to_local()
    is_mean_of_parts = reduction == "mean" and any(over_rows)
    share = 1.0
    if is_mean_of_parts:
        divisor = _divisor(local, target, whole_weight, ignore_index).view(1)
        total = DTensor.from_local(divisor, mesh, to_add_up, run_check=False).full_tensor()
        reduction = "mean" if divisor > 0 else "sum"  # of nothing there is no mean
        share = (divisor / total).item()
    options |= {
        "ignore_index": ignore_index,
        "reduction": reduction,
        "return_lse": return_lse,
    }
    if any(over_classes):
        group = mesh.get_group(over_classes.index(True))
        result = parallel_cross_entropy(local, target, weight, group=group, **options)
    else:
        from makemore_ext.ops.cross_entropy.functional import cross_entropy  # which calls this

        result = cross_entropy(local, target, weight, **options)
    loss, *lse = result if return_lse else (result,)

    def global_rows(tensor: Tensor) -> "DTensor":
        shape = torch.Size((*input.shape[:dim], *input.shape[dim + 1 :]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(tensor, mesh, rows, run_check=False, shape=shape, stride=stride)

    if reduction == "none":
        loss = global_rows(loss)
    else:
        loss = loss.to(compute_dtype(local)) * share if is_mean_of_parts else loss
        of_parts = DTensor.from_local(loss, mesh, to_add_up, run_check=False)
        loss = of_parts.redistribute(mesh, everywhere).to(local.dtype)
    return (loss, global_rows(lse[0])) if return_lse else loss


def _divisor(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What the mean of these rows divides by, in float64."""
    if target.is_floating_point():
        rows = input.numel() // max(1, input.shape[class_dim(input)])
        return torch.tensor(float(rows), dtype=torch.float64, device=input.device)
    valid = target != ignore_index
    if weight is None:
        return valid.sum(dtype=torch.float64)
    inside = valid & (target >= 0) & (target < len(weight))
    return weight.double()[target.long().where(inside, 0)].where(inside, 0.0).sum()
