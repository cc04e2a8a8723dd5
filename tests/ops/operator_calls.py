"""What every operator is tested for, given a call that it takes.

It takes that call, passes torch's opcheck with it, and refuses by name what its kernel cannot take,
before it changes anything.
"""

from collections.abc import Callable, Mapping, Set

import pytest
import torch
from torch import Tensor
from transform_cases import needs_native

from makemore_ext._native import operators

# Few and small tensors.
N, C = 6, 5
X = torch.randn(N, C, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(N) % C

Call = Mapping[str, object]  # the arguments by their names
Refusal = tuple[list[str], Call, str]  # operators, what is changed in their calls, the message


def one_longer(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor[-1:]])


# A tensor that does not fit the others, in each place that there is for one.
DAMAGES = {
    "complex": lambda tensor: tensor.to(torch.complex64),
    "int32": lambda tensor: tensor.int(),
    "other width": lambda tensor: tensor.to(
        torch.float32 if tensor.dtype == torch.float64 else torch.float64
    ),
    "one dimension more": lambda tensor: tensor.unsqueeze(0),
    "one longer": lambda tensor: one_longer(tensor) if tensor.dim() else tensor.unsqueeze(0),
    "one class more": lambda tensor: one_longer(tensor.T).T if tensor.dim() == 2 else tensor[None],
    "empty": lambda tensor: tensor.new_empty(0),
}
OTHER_SHAPES = ("one dimension more", "one longer", "one class more", "empty")


def operator_tests(
    calls: Mapping[str, Call],
    fits: Set[tuple[str, str, str]],
    refused: Mapping[str, Refusal],
    not_differentiated: Set[str] = frozenset(),
) -> tuple[Callable[..., None], ...]:
    """Five tests of some operators.

    Args:
        calls: a call that each takes, by its name.
        fits: what is right after all: operator, argument and the name of one of DAMAGES.
        refused: what else they refuse, by a name for it.
        not_differentiated: those that have no derivative.
    """
    damaged = [
        (name, argument, damage)
        for name, arguments in calls.items()
        for argument, value in arguments.items()
        for damage in DAMAGES
        if isinstance(value, Tensor) and (name, argument, damage) not in fits
    ]

    @pytest.mark.parametrize("name", calls)
    def takes_its_call(name):
        getattr(operators, name)(**changed(calls[name], {}))

    @pytest.mark.parametrize(("name", "argument", "damage"), damaged)
    def refuses_a_tensor_that_does_not_fit(name, argument, damage):
        others_may_be_named = argument in ("input", "gradient", "grad_output")
        message = " must " if others_may_be_named else f"{argument} must "
        value = DAMAGES[damage](calls[name][argument].clone())
        check_refused(name, changed(calls[name], {argument: value}), message)

    @pytest.mark.parametrize(
        ("name", "case"), [(name, case) for case, (names, *_) in refused.items() for name in names]
    )
    def refuses(name, case):
        _, changes, message = refused[case]
        taken = {key: value for key, value in changes.items() if key in calls[name]}
        check_refused(name, changed(calls[name], taken), message)

    read = [
        (name, next(key for key in ("input", "grad_output", "gradient") if key in arguments))
        for name, arguments in calls.items()
    ]

    @pytest.mark.parametrize(("name", "argument"), read)
    def refuses_a_tensor_whose_memory_was_freed(name, argument):
        freed = calls[name][argument].clone()
        freed.untyped_storage().resize_(0)
        with pytest.raises(
            RuntimeError, match=f"a tensor of {freed.numel()} elements has no memory"
        ):
            getattr(operators, name)(**changed(calls[name], {argument: freed}))

    @pytest.mark.filterwarnings("ignore:.*should not be instantiated")
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck of torch 2.14
    @pytest.mark.parametrize("requires_grad", [False, pytest.param(True, marks=needs_native)])
    @pytest.mark.parametrize("name", calls)
    def passes_opcheck(name, requires_grad):
        call = changed(calls[name], {})
        operator = getattr(operators, name).default
        if requires_grad:
            if operator._schema.is_mutable:
                pytest.skip("what it writes to is not differentiated")
            if name in not_differentiated:
                pytest.skip("it is a step of an autograd Function")
            for value in call.values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    value.requires_grad_()
        torch.library.opcheck(operator, (), call)

    return (
        takes_its_call,
        passes_opcheck,
        refuses_a_tensor_that_does_not_fit,
        refuses,
        refuses_a_tensor_whose_memory_was_freed,
    )


def changed(call: Call, changes: Call) -> Call:
    """The arguments of a call, some of them changed, the others copied."""
    copies = {
        key: value.clone() if isinstance(value, Tensor) else value for key, value in call.items()
    }
    return {**copies, **changes}


def check_refused(name: str, call: Call, message: str) -> None:
    """Raises AssertionError unless the call does, in one line, and leaves its tensors alone."""
    tensors = [value for value in call.values() if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    with pytest.raises((RuntimeError, IndexError), match=message) as caught:
        getattr(operators, name)(**call)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(tensors, before, rtol=0, atol=0)
