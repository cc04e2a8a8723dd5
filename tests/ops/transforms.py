"""What the derivatives of every operation are tested for: torch's transforms in eager mode.

A transform is a function of a loss, its `Case` and vmap. Of ours it gives what it gives of torch's
own or of a plain composition, where a loop stands in for vmap.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from transform_cases import IS_NATIVE, Case, Loss, Model

Transform = Callable[[Loss, Case, Any], Any]


# ---- the transforms of torch.func ----


def looped(function: Loss, in_dims: Any = 0) -> Loss:
    """What vmap gives, one sample after the other."""

    def loop(*tensors: Tensor) -> Any:
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(tensors)
        size = next(t.shape[dim] for t, dim in zip(tensors, dims, strict=True) if dim is not None)
        if size == 0:  # of a loss
            return torch.empty(0, dtype=torch.float64)
        results = [
            function(
                *[
                    t if dim is None else t.select(dim, index).contiguous()
                    for t, dim in zip(tensors, dims, strict=True)
                ]
            )
            for index in range(size)
        ]
        return torch.utils._pytree.tree_map(lambda *column: torch.stack(column), *results)

    return loop


def _tangent(function: Loss) -> Loss:
    return lambda *x: jvp(function, x, tuple(tensor.cos() for tensor in x))[1]


def _of_leaves(transform: Callable[[Loss], Loss]) -> Transform:
    return lambda loss, case, _: transform(case.of_leaves(loss))(*case.values())


def _at_leaves(*transforms: Any) -> Transform:
    """The last is applied first."""

    def apply(loss: Loss, case: Case, _: Any) -> Any:
        function = case.of_leaves(loss)
        for transform in reversed(transforms):
            function = transform(function, tuple(range(len(case.leaves))))
        return function(*case.values())

    return apply


def _pulled_back(loss: Loss, case: Case, _: Any) -> Any:
    value, pull = vjp(case.of_leaves(loss), *case.values())
    return pull(torch.full_like(value, 0.7))


def _maml(loss: Loss, case: Case, _: Any) -> Any:
    function, every = case.of_leaves(loss), tuple(range(len(case.leaves)))

    def after_a_step(*leaves: Tensor) -> Tensor:
        steps = grad(function, every)(*leaves)
        return function(*[x - 0.1 * step for x, step in zip(leaves, steps, strict=True)])

    return grad(after_a_step, every)(*case.values())


def _of_a_module(loss: Loss, case: Case, _: Any) -> Any:
    model = Model(loss, case)
    parameters = {name: 0.7 * value.detach() for name, value in model.named_parameters()}
    return grad(lambda given: functional_call(model, given, (torch.tensor(1.3),)))(parameters)


def _batched(which: str, inner: Any = None, outer: Any = None) -> Transform:
    """`outer` of the sum of vmap, over one tensor or all, of `inner` of the loss."""

    def transform(loss: Loss, case: Case, vmap: Any) -> Any:
        in_dims = tuple(0 if which in ("all", name) else None for name in case.names)
        tensors = [
            case.samples[0][name] if dim is None else many
            for name, many, dim in zip(case.names, case.many, in_dims, strict=True)
        ]
        function = case.of_all(loss)
        if inner is not None:
            function = inner(function, case.at)
        if outer is None:
            return vmap(function, in_dims)(*tensors)
        return outer(lambda *x: vmap(function, in_dims)(*x).sum(), case.at)(*tensors)

    return transform


def _over_last_dimensions(loss: Loss, case: Case, vmap: Any) -> Any:
    return vmap(case.of_all(loss), -1)(*[many.movedim(0, -1) for many in case.many])


def _vmap_of_vmap(loss: Loss, case: Case, vmap: Any) -> Any:
    pairs = [torch.stack([many, many.flip(0)]) for many in case.many]
    return vmap(vmap(case.of_all(loss)))(*pairs)


def _vmap_of_size_0(loss: Loss, case: Case, vmap: Any) -> Any:
    return vmap(case.of_all(loss))(*[many[:0] for many in case.many])


FUNCTIONAL: dict[str, Transform] = {
    "grad": _at_leaves(grad),
    "vjp": _pulled_back,
    "jvp": _of_leaves(_tangent),
    "jvp of jvp": _of_leaves(lambda function: _tangent(_tangent(function))),
    "grad of jvp": _at_leaves(grad, lambda function, _: _tangent(function)),
    "hessian": _at_leaves(hessian),
    "jacfwd of jacfwd": _at_leaves(jacfwd, jacfwd),
    "jacfwd of jacrev": _at_leaves(jacfwd, jacrev),
    "jacrev of jacfwd": _at_leaves(jacrev, jacfwd),
    "jacrev of jacrev": _at_leaves(jacrev, jacrev),
    "MAML": _maml,
    "functional_call": _of_a_module,
    "functionalize": _of_leaves(functionalize),
    "functionalize of grad": lambda loss, case, _: functionalize(case.gradient(loss))(
        *case.values()
    ),
    "make_fx": lambda loss, case, _: make_fx(case.gradient(loss))(*case.values())(*case.values(1)),
}


def batching(names: tuple[str, ...]) -> dict[str, Transform]:
    """The transforms with vmap, for a loss of tensors with these names."""
    each = {}
    for name in names:
        each[f"vmap over {name}"] = _batched(name)
        each[f"vmap of grad over {name}"] = _batched(name, inner=grad)
        each[f"grad of vmap over {name}"] = _batched(name, outer=grad)
    return {
        **each,
        "vmap over all": _batched("all"),
        "vmap of grad over all": _batched("all", inner=grad),
        "vmap of hessian over all": _batched("all", inner=hessian),
        "grad of vmap over all": _batched("all", outer=grad),
        "hessian of vmap over all": _batched("all", outer=hessian),
        f"hessian of vmap over {names[0]}": _batched(names[0], outer=hessian),
        "vmap over all last dimensions": _over_last_dimensions,
        "vmap of vmap over all": _vmap_of_vmap,
        "vmap of size 0 over all": _vmap_of_size_0,
    }


# ---- torch.autograd ----


def _projected(tensor: Tensor) -> Tensor:
    """A scalar of the size of the tensor, where its square would grow small with every order."""
    return (
        torch.linspace(-1, 2, tensor.numel(), dtype=tensor.dtype).view_as(tensor) * tensor
    ).sum()


def _backward(order: int) -> Transform:
    def transform(loss: Loss, case: Case, _: Any) -> Any:
        leaves = case.differentiable()
        value, grads = case.of_leaves(loss)(*leaves), ()
        for _ in range(order):
            grads = torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)
            value = sum(_projected(gradient) for gradient in grads)
        return grads

    return transform


def _of_many_upstream_gradients(loss: Loss, case: Case, _: Any) -> Any:
    leaves = case.differentiable()
    upstream = torch.tensor([1.0, -0.3, 0.7], dtype=torch.float64)
    value = case.of_leaves(loss)(*leaves)
    return torch.autograd.grad(value, leaves, upstream, is_grads_batched=True)


def _dual(loss: Loss, case: Case, _: Any) -> Any:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(value, value.cos()) for value in case.values()]
        return forward_ad.unpack_dual(case.of_leaves(loss)(*duals)).tangent


def _dual_of_gradient(loss: Loss, case: Case, _: Any) -> Any:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(leaf, leaf.cos()) for leaf in case.differentiable()]
        grads = torch.autograd.grad(case.of_leaves(loss)(*duals), duals)
        return [forward_ad.unpack_dual(gradient).tangent for gradient in grads]


def _gradient_of_dual(loss: Loss, case: Case, _: Any) -> Any:
    leaves = case.differentiable()
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(leaf, leaf.cos()) for leaf in leaves]
        tangent = forward_ad.unpack_dual(case.of_leaves(loss)(*duals)).tangent
        return torch.autograd.grad(tangent, leaves, materialize_grads=True)


def _checkpointed(use_reentrant: bool) -> Transform:
    def transform(loss: Loss, case: Case, _: Any) -> Any:
        leaves = case.differentiable()
        value = checkpoint(case.of_leaves(loss), *leaves, use_reentrant=use_reentrant)
        value.backward()
        return [leaf.grad for leaf in leaves]

    return transform


def packed_away() -> AbstractContextManager[None]:
    """What autograd saves is kept outside of torch's memory."""
    return saved_tensors_hooks(lambda tensor: tensor.detach().numpy().copy(), torch.from_numpy)


def _within(hooks: Callable[[], AbstractContextManager[None]]) -> Transform:
    def transform(loss: Loss, case: Case, _: Any) -> Any:
        leaves = case.differentiable()
        with hooks():
            value = case.of_leaves(loss)(*leaves)
        return torch.autograd.grad(value, leaves)

    return transform


def _traced(loss: Loss, case: Case, _: Any) -> Any:
    traced = torch.jit.trace(case.of_leaves(loss), case.values())
    leaves = [value.clone().requires_grad_() for value in case.values(1)]
    value = traced(*leaves)
    return value, torch.autograd.grad(value, leaves)


def _traced_symbolically(loss: Loss, case: Case, _: Any) -> Any:
    traced = torch.fx.symbolic_trace(Model(loss, case))
    value = traced(torch.tensor(0.7, dtype=torch.float64))
    return torch.autograd.grad(value, list(traced.parameters()))


AUTOGRAD: dict[str, Transform] = {
    "backward": _backward(1),
    "double backward": _backward(2),
    "triple backward": _backward(3),
    "is_grads_batched": _of_many_upstream_gradients,
    "dual": _dual,
    "dual of gradient": _dual_of_gradient,
    "gradient of dual": _gradient_of_dual,
    "reentrant checkpoint": _checkpointed(True),
    "checkpoint": _checkpointed(False),
    "saved_tensors_hooks": _within(packed_away),
    "save_on_cpu": _within(save_on_cpu),
    "torch.jit.trace": _traced,
    "symbolic trace": _traced_symbolically,
}


def _of_a_model(loss: Loss, case: Case, _: Any) -> Any:
    model = Model(loss, case)
    value = model(torch.tensor(0.7, dtype=torch.float64))
    return torch.autograd.grad(value, list(model.parameters()))


# What stands for torch's own where that cannot do it.
TRUTH: dict[str, Transform] = {
    "gradient of dual": FUNCTIONAL["grad of jvp"],
    "symbolic trace": _of_a_model,
}


def transforms(case: Case) -> dict[str, Transform]:
    """All that a case is tested for, by name."""
    return {**FUNCTIONAL, **batching(case.names), **AUTOGRAD}


# What Python's autograd may refuse, but not get wrong.
REFUSABLE = ("jvp of jvp", "jacfwd of jacfwd", "functionalize", "functionalize of grad")


def check(name: str, case: Case) -> None:
    """Raises AssertionError unless a transform of ours is as that of theirs."""
    transform = transforms(case)[name]
    expected = TRUTH.get(name, transform)(case.theirs, case, looped)
    try:
        actual = transform(case.ours, case, vmap)
    except RuntimeError:
        if IS_NATIVE or name not in REFUSABLE:
            raise
        return
    torch.testing.assert_close(actual, expected)


def table(cases: dict[str, Case], without: Callable[[str, str], bool] = lambda *_: False) -> Any:
    """A mark with (case, name) for each transform of each case, but for those `without`."""
    return pytest.mark.parametrize(
        ("case", "name"),
        [
            pytest.param(case, name, id=f"{of}-{name}")
            for of, case in cases.items()
            for name in transforms(case)
            if not without(of, name)
        ],
    )


def bytes_kept(function: Callable[[], Tensor]) -> int:
    """How much torch's memory grows by a call beyond its result, which is not freed before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = function()
    grown = sum(event.self_cpu_memory_usage for event in profile.events())
    return grown - result.untyped_storage().nbytes()
