"""The modules: torch's own in everything but the kernels."""

import copy
import io

import pytest
import torch
from support import seeded
from torch import nn

import makemore_ext as mx

MODULES = {
    "1d": (mx.BatchNorm1d, nn.BatchNorm1d, (8, 5)),
    "1d length": (mx.BatchNorm1d, nn.BatchNorm1d, (8, 5, 3)),
    "2d": (mx.BatchNorm2d, nn.BatchNorm2d, (4, 5, 3, 3)),
    "3d": (mx.BatchNorm3d, nn.BatchNorm3d, (4, 5, 2, 3, 2)),
}
OPTIONS = {
    "plain": {},
    "not affine": {"affine": False},
    "no bias": {"bias": False},
    "batch statistics": {"track_running_stats": False},
    "cumulative": {"momentum": None},
    "momentum and eps": {"momentum": 0.3, "eps": 1e-2},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
}
modules = pytest.mark.parametrize(("ours", "theirs", "shape"), MODULES.values(), ids=MODULES)
options_table = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def train(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, steps: int) -> list:
    generator = seeded()
    optimizer = None
    if list(module.parameters()):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    outputs = []
    for _ in range(steps):
        input = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        output = module(input)
        output.square().mean().backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        outputs += [output.detach(), input.grad]
    module.eval()
    return [*outputs, module(torch.randn(shape, generator=generator).to(dtype)).detach()]


@modules
@options_table
def test_ten_steps_as_torch(ours, theirs, shape, options):
    dtype = options.get("dtype", torch.float32)
    mine, other = ours(5, **options), theirs(5, **options)
    narrow = {"rtol": 3e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(
        train(mine, shape, dtype, 10), train(other, shape, dtype, 10), **narrow
    )
    assert list(mine.state_dict()) == list(other.state_dict())
    torch.testing.assert_close(dict(mine.state_dict()), dict(other.state_dict()), **narrow)


@modules
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_input_for_float32_parameters(ours, theirs, shape, dtype):
    results = (train(module(5), shape, dtype, 3) for module in (ours, theirs))
    torch.testing.assert_close(*results, rtol=2e-2, atol=2e-2)


@modules
@options_table
def test_repr_names_what_torch_names(ours, theirs, shape, options):
    assert repr(ours(5, **options)) == repr(theirs(5, **options))


def test_repr_names_the_keywords():
    module = mx.BatchNorm1d(5, correction=1, activation="tanh")
    assert repr(module).endswith("track_running_stats=True, correction=1, activation='tanh')")


@modules
def test_checkpoints_go_both_ways(ours, theirs, shape):
    mine, other = ours(5), theirs(5)
    train(other, shape, torch.float32, 2)
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    mine.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(dict(mine.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    theirs(5).load_state_dict(mine.state_dict())


def test_checkpoint_of_version_1():
    state = {k: v for k, v in nn.BatchNorm1d(5).state_dict().items() if "tracked" not in k}
    module = mx.BatchNorm1d(5)
    module.load_state_dict(state)
    assert module.num_batches_tracked == 0


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how):
    module = mx.BatchNorm2d(5, correction=1, activation="relu", momentum=None)
    input = torch.randn(4, 5, 3, 3, generator=seeded())
    module(input)
    if how == "deepcopy":
        other = copy.deepcopy(module)
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert repr(other) == repr(module)
    assert torch.equal(other(input), module(input))
    torch.testing.assert_close(dict(other.state_dict()), dict(module.state_dict()))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_keywords_are_those_of_the_function(activation):
    module = mx.BatchNorm1d(5, correction=1, activation=activation)
    input = torch.randn(8, 5, generator=seeded())
    expected = mx.batch_norm(
        input,
        torch.zeros(5),
        torch.ones(5),
        module.weight,
        module.bias,
        training=True,
        correction=1,
        activation=activation,
    )
    assert torch.equal(module(input), expected)
    assert isinstance(module, nn.BatchNorm1d)


@modules
def test_wrong_dimensions_as_torch(ours, theirs, shape):
    input = torch.randn(6)
    with pytest.raises(ValueError) as expected:  # noqa: PT011
        theirs(5)(input)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ours(5)(input)
    assert str(caught.value) == str(expected.value)


def test_bad_keyword():
    with pytest.raises(ValueError, match="correction must be 0 or 1, got 3"):
        mx.BatchNorm1d(5, correction=3)
    with pytest.raises(ValueError, match="activation must be None, 'tanh' or 'relu', got 'elu'"):
        mx.BatchNorm1d(5, activation="elu")


def test_switching_tracking_off_later_as_torch():
    results = []
    for kind in (mx.BatchNorm1d, nn.BatchNorm1d):
        module = kind(5)
        module.track_running_stats = False
        input = torch.randn(8, 5, generator=seeded())
        outputs = [module(input)]
        module.eval()
        results.append([*outputs, module(input), module.running_mean])
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:.* should not be instantiated")
@pytest.mark.parametrize("mode", [True, False])
def test_compile(mode):
    results = []
    for compiled in (False, True):
        module = mx.BatchNorm1d(5, momentum=0.2)
        module.train(mode)
        function = (
            torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module
        )
        input = torch.randn(8, 5, generator=seeded(), requires_grad=True)
        output = function(input)
        output.square().sum().backward()
        results.append([output, input.grad, *module.state_dict().values()])
    torch.testing.assert_close(*results)
