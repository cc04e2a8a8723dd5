"""Derivatives of every kind, against those of torch's own embedding."""

import compilers
import pytest
import torch
import transforms
from support import seeded
from torch import Tensor
from torch.nn import functional as F
from transform_cases import IS_NATIVE, Case, needs_native, torch_warns

import makemore_ext as mx

pytestmark = torch_warns

V, D = 5, 2
INPUT = torch.randint(V, (4, 3), generator=seeded())
WEIGHT = torch.randn(V, D, dtype=torch.float64, generator=seeded(2))


def case(padding_idx: int | None) -> Case:
    def loss(embedding):
        def loss(input, weight):
            rows = embedding(input, weight, padding_idx)
            return (rows.sin() * rows.flip(-1)).sum()

        return loss

    samples = [
        {
            "input": torch.randint(V, (4, 3), generator=seeded(seed)),
            "weight": torch.randn(V, D, dtype=torch.float64, generator=seeded(seed + 10)),
        }
        for seed in range(3)
    ]
    return Case(loss(mx.embedding), loss(F.embedding), samples, ("weight",), ("input",))


CASES = {"every row": case(None), "padding_idx": case(1), "padding_idx from the end": case(-1)}
# What Python's autograd has no need of native derivatives for.
EVERYWHERE = {
    *("grad", "vjp", "backward", "double backward", "triple backward"),
    *("checkpoint", "reentrant checkpoint", "saved_tensors_hooks", "save_on_cpu", "symbolic trace"),
}


@transforms.table(CASES)
def test_transform(case, name):
    if not IS_NATIVE and name not in EVERYWHERE:
        pytest.skip("Python's autograd does not serve it")
    transforms.check(name, case)


@pytest.mark.parametrize("name", compilers.COMPILED)
def test_compiled_transform(name):
    compilers.check_compiled(name, CASES["padding_idx"])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", compilers.COMPILERS)
def test_compiler(name):
    compilers.check_compiler(name, CASES["padding_idx"])


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize(
    ("check", "options"),
    [
        (torch.autograd.gradcheck, {}),
        (torch.autograd.gradgradcheck, {}),
        pytest.param(torch.autograd.gradcheck, {"check_forward_ad": True}, marks=needs_native),
        pytest.param(
            torch.autograd.gradgradcheck, {"check_fwd_over_rev": True}, marks=needs_native
        ),
    ],
    ids=["first", "second", "forward mode", "forward over reverse"],
)
def test_derivatives(check, options, padding_idx):
    weight = WEIGHT.clone().requires_grad_()
    if padding_idx is not None:  # numerically there would be a gradient
        weight = weight.detach()[:padding_idx].clone().requires_grad_()
        embedding = lambda w: mx.embedding(INPUT % padding_idx, w, None)  # noqa: E731
    else:
        embedding = lambda w: mx.embedding(INPUT, w)  # noqa: E731
    assert check(lambda w: embedding(w).sin(), weight, **options)


@needs_native
def test_the_compiled_graphs_hold_our_operators():
    forward, backward = compilers.graphs(
        CASES["padding_idx"].of_leaves(CASES["padding_idx"].ours),
        *CASES["padding_idx"].differentiable(),
    )
    assert compilers.operators_in(forward) == {"embedding": 1}
    assert compilers.operators_in(backward) == {"embedding_backward": 1}


def test_a_subclass_is_asked():
    class Loud(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, arguments=(), options=None):
            return function

    assert mx.embedding(INPUT, WEIGHT.as_subclass(Loud)) is mx.embedding


@needs_native
def test_saved_tensors_go_through_hooks():
    seen = []
    weight = WEIGHT.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        output = mx.embedding(INPUT, weight)
    assert len(seen) == 1
    assert seen[0] is INPUT
    output.sum().backward()


def test_an_index_changed_before_backward_is_noticed():
    input, weight = INPUT.clone(), WEIGHT.clone().requires_grad_()
    output = mx.embedding(input, weight)
    input.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_the_profiler_sees_it():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        mx.embedding(INPUT, WEIGHT)
    assert "makemore_ext::embedding" in {event.key for event in profile.key_averages()}


def gradient(embedding, input, weight):
    weight = weight.clone().requires_grad_()
    embedding(input, weight, 1).sin().sum().backward()
    return weight.grad


def test_compile_for_a_table_of_any_size():
    compiled = torch.compile(mx.embedding, fullgraph=True, backend="aot_eager", dynamic=True)
    generator = seeded(3)
    for tokens, rows in ((4, 5), (7, 9), (3, 11)):
        input = torch.randint(rows, (tokens, 2), generator=generator)
        weight = torch.randn(rows, D, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(
            gradient(compiled, input, weight), gradient(F.embedding, input, weight)
        )


def test_compile_by_dynamo_alone():
    compiled = torch.compile(mx.embedding, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        gradient(compiled, INPUT, WEIGHT), gradient(F.embedding, INPUT, WEIGHT)
    )
