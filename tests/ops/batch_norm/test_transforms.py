"""Derivatives of every kind, against those of torch's own batch norm and activation."""

import compilers
import pytest
import torch
import transforms
from batch_norm_cases import ACTIVATIONS, over_channels
from support import seeded
from torch import Tensor
from torch.nn import functional as F
from transform_cases import Case, needs_native, torch_warns

import makemore_ext as mx

pytestmark = torch_warns

AFFINE = ("input", "weight", "bias")


def composed(input, mean, var, weight, bias, training, *, correction=0, activation=None):
    """In torch operations: what torch derives from a tangent of its own batch norm is wrong."""
    if not training:
        return ACTIVATIONS[activation](F.batch_norm(input, mean, var, weight, bias))
    one = torch.ones(input.shape[1], dtype=input.dtype)
    weight, bias = (one, 0 * one) if weight is None else (weight, bias)
    beside = [dim for dim in range(input.dim()) if dim != 1]
    spread = over_channels(input)
    var, mean = torch.var_mean(input, beside, correction=correction)
    normalized = (input - spread(mean)) / (spread(var) + 1e-5).sqrt()
    return ACTIVATIONS[activation](normalized * spread(weight) + spread(bias))


def case(shape, training=True, affine=True, running=None, **options) -> Case:
    """`running`: None, "read" in evaluation, or "updated", copies of what is not a sample's."""

    def loss(function):
        def loss(input, weight=None, bias=None, running_mean=None, running_var=None) -> Tensor:
            if running == "updated":
                running_mean = torch.zeros(shape[1], dtype=torch.float64)
                running_var = torch.ones(shape[1], dtype=torch.float64)
            statistics = running_mean, running_var
            return function(input, *statistics, weight, bias, training, **options).sin().sum()

        return loss

    def sample(seed: int) -> dict[str, Tensor]:
        generator = seeded(seed)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, dtype=torch.float64, generator=generator)

        channels = shape[1]
        tensors = {"input": draw(*shape) * 2}
        if affine:
            tensors |= {"weight": draw(channels) + 2, "bias": draw(channels)}
        if running == "read":
            tensors["running_mean"] = draw(channels)
            tensors["running_var"] = draw(channels).square() + 0.5
        return tensors

    leaves = AFFINE if affine else ("input",)
    samples = [sample(seed) for seed in range(3)]
    return Case(loss(mx.batch_norm), loss(composed), samples, leaves, ("input",))


CASES = {
    "training": case((4, 2)),
    "training, pixels, not affine": case((2, 2, 3), affine=False),
    "training, tanh": case((4, 2), activation="tanh"),
    "training, relu, pixels": case((2, 2, 3), activation="relu"),
    "correction": case((4, 2), correction=1),
    "correction, tanh, pixels": case((2, 2, 3), correction=1, activation="tanh"),
    "correction, relu, not affine": case((4, 2), correction=1, activation="relu", affine=False),
    "updating": case((4, 2), running="updated", activation="tanh"),
    "evaluation": case((4, 2), training=False, running="read"),
    "evaluation, tanh, not affine": case((4, 2), False, False, "read", activation="tanh"),
    "evaluation, relu, pixels": case((2, 2, 3), False, True, "read", activation="relu"),
    "evaluation, correction": case((4, 2), False, True, "read", correction=1),
}


@transforms.table(CASES, without=lambda of, name: of == "updating" and "over" in name)
def test_transform(case, name):
    transforms.check(name, case)


@pytest.mark.parametrize("name", compilers.COMPILED)
@pytest.mark.parametrize("of", ["correction, tanh, pixels", "evaluation"])
def test_compiled_transform(of, name):
    compilers.check_compiled(name, CASES[of])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", compilers.COMPILERS)
@pytest.mark.parametrize("of", ["correction, tanh, pixels", "updating", "evaluation, relu, pixels"])
def test_compiler(of, name):
    compilers.check_compiler(name, CASES[of])


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)], ids=str)
def test_one_value_per_channel_is_refused_where_it_is_compiled(shape):
    torch._dynamo.reset()
    compiled = torch.compile(mx.batch_norm, fullgraph=True, backend="aot_eager")
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(RuntimeError, match="must have more than 1 value per channel in training"):
        compiled(torch.zeros(shape), mean, var, training=True)
    assert (mean == 0).all()
    assert (var == 1).all()


@needs_native
@pytest.mark.parametrize("of", ["correction, tanh, pixels", "updating", "evaluation, relu, pixels"])
def test_the_compiled_graphs_hold_our_operators(of):
    case = CASES[of]
    forward, backward = compilers.graphs(case.of_leaves(case.ours), *case.differentiable())
    assert compilers.kinds_in(forward, "batch_norm") == (1, 0)
    assert compilers.kinds_in(backward, "batch_norm") == (0, 1)
    for decomposed in ("aten.var", "native_batch_norm", "rsqrt"):
        assert decomposed not in forward + backward


@needs_native
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_stays_behind_hooks(activation):
    input, weight, bias = (torch.randn(size).requires_grad_() for size in ((500, 400), 400, 400))

    def output():
        return mx.batch_norm(input, None, None, weight, bias, True, activation=activation)

    kept = transforms.bytes_kept(output)
    with transforms.packed_away():
        rest = transforms.bytes_kept(output)
    assert kept >= 3 * 400 * 8  # the statistics
    assert rest <= 64


@needs_native
@pytest.mark.parametrize("training", [True, False])
def test_a_converted_model_is_traced_symbolically(training):
    layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Tanh()
    model = mx.convert(torch.nn.Sequential(*layers), fuse_activations=True).train(training)
    traced = torch.fx.symbolic_trace(model)
    input = torch.randn(5, 4, generator=seeded())
    torch.testing.assert_close(traced(input), model(input))
