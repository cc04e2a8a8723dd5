import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from networks import FLOAT64, assert_same_bits, make, state, windows

import makemore_ext as mx
from makemore_ext.makemore import MLP
from makemore_ext.reference import Parameters


def test_constructor_draws_as_the_model_does():
    drawn = MLP.init(20, context=2, embedding=4, hidden=9, dtype=FLOAT64)
    network = mx.FusedMLP(20, 2, 4, 9, dtype=FLOAT64)
    assert_same_bits(network.parameters(), drawn.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_steps_change_the_tensors_given_and_what_shares_their_memory():
    model, (x, y) = MLP.init(hidden=8), windows()
    network = mx.FusedMLP.from_parameters(model.parameters())
    shared = network.state_dict()
    before = state(network)
    network.step(x, y, 0.5)
    for name, parameter in model.parameters()._asdict().items():
        assert network.parameters()._asdict()[name] is parameter
        assert_same_bits(shared[name], parameter.detach())
        assert torch.equal(parameter, before[name]) is (name == "b1")


def test_a_step_is_noticed_by_autograd():
    network = make()
    loss = (network.parameters().b2 ** 2).sum()
    network.step(*windows(), 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_dict_round_trip_goes_on_bit_for_bit(momentum):
    network, other = make(momentum=momentum), make(seed=5, momentum=momentum)
    network.step(*windows(), 0.1)
    own = other.parameters()
    other.load_state_dict(state(network))
    assert other.parameters() is own
    assert network.step(*windows(seed=6), 0.1) == other.step(*windows(seed=6), 0.1)
    assert_same_bits(state(network), state(other))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))]
)
def test_a_copy_is_a_network_of_its_own(copied):
    network = make(momentum=0.9, weight_decay=0.1)
    network.step(*windows(), 0.1)
    other = copied(network)
    before = state(other)
    expected = network.step(*windows(), 0.1)
    assert_same_bits(state(other), before)
    assert other.step(*windows(), 0.1) == expected
    assert_same_bits(state(network), state(other))


def test_layout_of_the_windows_does_not_matter():
    network, (x, y) = make(), windows()
    wide = torch.stack([y, y + 100], dim=1)
    transposed = x.t().contiguous().t()
    expected = network.loss_and_gradients(x, y)
    assert_same_bits(network.loss_and_gradients(transposed, wide[:, 0]), expected)


# Bad input


X, Y = windows()
X[0], Y[0] = 0, 0  # the least that there is
BAD_WINDOWS = {
    "x too large": ((X + 27, Y), IndexError, "x must hold indices in [0, 27), got "),
    "x negative": ((X - 27, Y), IndexError, "x must hold indices in [0, 27), got "),
    "y too large": ((X, Y + 27), IndexError, "y must hold indices in [0, 27), got "),
    "x shape": ((X[:, :2], Y), ValueError, "x and y must be of shapes [n, 3] and [n]"),
    "y shape": ((X, X), ValueError, "x and y must be of shapes [n, 3] and [n]"),
    "y scalar": ((X, Y[0]), ValueError, "x and y must be of shapes [n, 3] and [n]"),
    "lengths": ((X, Y[1:]), ValueError, "x and y must be of shapes [n, 3] and [n]"),
    "empty": ((X[:0], Y[:0]), ValueError, "n at least "),
    "x dtype": ((X.int(), Y), TypeError, "x must be an int64 Tensor, got torch.int32"),
    "y type": ((X, Y.tolist()), TypeError, "y must be an int64 Tensor, got list"),
    "x device": ((X.to("meta"), Y), ValueError, "x must be dense and on cpu"),
    "x layout": ((X.to_sparse(), Y), ValueError, "x must be dense and on cpu"),
}
BAD_RATES = {
    "nan": (math.nan, "lr must be finite and at least 0, got nan"),
    "infinite": (math.inf, "lr must be finite and at least 0, got inf"),
    "negative": (-0.1, "lr must be finite and at least 0, got -0.1"),
}


def train(network, x, y, **options):
    defaults = {"steps": 9, "batch_size": 4, "lr": 0.1}
    network.train(x, y, **{**defaults, "generator": torch.Generator(), **options})


def assert_raises_and_changes_nothing(call, kind, message):
    network = make(momentum=0.9)
    before = state(network)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        call(network)
    assert "\n" not in str(caught.value)
    assert_same_bits(state(network), before)


CALLS = {
    "step": lambda network, x, y: network.step(x, y, 0.1),
    "train": train,
    "loss_and_gradients": lambda network, x, y: network.loss_and_gradients(x, y),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("case", "kind", "message"), BAD_WINDOWS.values(), ids=BAD_WINDOWS)
def test_bad_windows(case, kind, message, call):
    assert_raises_and_changes_nothing(lambda network: call(network, *case), kind, message)


def test_a_network_of_too_small_a_vocabulary_is_told_before_the_first_step():
    message = f"got {X.min()} to 31: a network for them has a vocabulary of 32"
    of_32 = X.clone()
    of_32[-1, -1] = 31
    assert_raises_and_changes_nothing(lambda network: train(network, of_32, Y), IndexError, message)


@pytest.mark.parametrize("call", ["step", "loss_and_gradients"])
def test_one_window_has_no_variance(call):
    assert_raises_and_changes_nothing(
        lambda network: CALLS[call](network, X[:1], Y[:1]), ValueError, "n at least 2"
    )


@pytest.mark.parametrize(("lr", "message"), BAD_RATES.values(), ids=BAD_RATES)
def test_bad_rate(lr, message):
    assert_raises_and_changes_nothing(lambda network: network.step(X, Y, lr), ValueError, message)
    assert_raises_and_changes_nothing(
        lambda network: train(network, X, Y, lr=lr), ValueError, message
    )


BAD_OPTIONS = {
    "steps": ({"steps": -1}, "steps must be an integer of at least 0, got -1"),
    "batch_size": ({"batch_size": 1}, "batch_size must be an integer of at least 2, got 1"),
    "batch_size type": (
        {"batch_size": 4.0},
        "batch_size must be an integer of at least 2, got 4.0",
    ),
    "batch_size of numpy": (
        {"batch_size": np.float64(4)},
        "batch_size must be an integer of at least 2, got np.float64(4.0)",
    ),
    "steps tensor": (
        {"steps": torch.tensor(-1)},
        "steps must be an integer of at least 0, got tensor(-1)",
    ),
    "schedule": (
        {"lr": lambda step: math.nan if step == 5 else 0.1},
        "lr must be finite and at least 0, got nan at step 5",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options(options, message):
    assert_raises_and_changes_nothing(
        lambda network: train(network, X, Y, **options), ValueError, message
    )


def swap(tensor, other):
    tensor.data = other


NO_NUMBERS = {
    "list": ([0.1, 0.2], "got [0.1, 0.2]"),
    "string": ("0.1", "got '0.1'"),
    "None": (None, "got None"),
    "vector": (torch.tensor([0.1]), "got tensor([0.1000])"),
    "complex": (0.1j, "got 0.1j"),
}


@pytest.mark.parametrize(("value", "got"), NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_a_rate_that_is_no_number(value, got):
    message = f"lr must be a number, or a function that gives one, {got}"
    assert_raises_and_changes_nothing(lambda n: n.step(X, Y, value), TypeError, message)
    assert_raises_and_changes_nothing(lambda n: train(n, X, Y, lr=value), TypeError, message)
    assert_raises_and_changes_nothing(
        lambda n: train(n, X, Y, lr=lambda step: value if step == 5 else 0.1),
        TypeError,
        f"{message} at step 5",
    )


BEHIND_ITS_BACK = {
    "resized": lambda p: p.b2.requires_grad_(False).resize_(30),
    "emptied": lambda p: p.W1.requires_grad_(False).resize_(0),
    "freed": lambda p: p.W1.untyped_storage().resize_(0),
    "memory taken": lambda p: p.bnbias.untyped_storage().resize_(8),
    "other dtype": lambda p: swap(p.C, p.C.data.float()),
    "other shape": lambda p: swap(p.W2, torch.zeros(24, 26, dtype=FLOAT64)),
    "other strides": lambda p: swap(p.W2, p.W2.data.t().contiguous().t()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("change", BEHIND_ITS_BACK.values(), ids=BEHIND_ITS_BACK)
def test_parameters_changed_behind_its_back(change, call):
    network = make()
    change(network.parameters())
    with pytest.raises(ValueError, match=r"must be a contiguous torch.float64 tensor of shape"):
        call(network, X, Y)


def test_parameters_replaced_by_their_like_are_used():
    network, other = make(), make(seed=9)
    for parameter, replacement in zip(network.parameters(), other.parameters(), strict=True):
        parameter.data = replacement.detach().clone()
    assert network.step(X, Y, 0.1) == other.step(X, Y, 0.1)


P = MLP.init(hidden=8).parameters()
BAD_PARAMETERS = {
    "shape": (P._replace(W2=P.b2), ValueError, "W2 must be of shape [8, 27], got [27]"),
    "dtypes": (P._replace(b2=P.b2.double()), ValueError, "dtypes must be all float32"),
    "half": (Parameters(*(p.half() for p in P)), ValueError, "dtypes must be all float32"),
    "type": (P._replace(b1=[0.0] * 8), TypeError, "b1 must be a Tensor, got list"),
    "strides": (P._replace(W2=P.W2.t().contiguous().t()), ValueError, "W2 must be a contiguous"),
    "expanded": (P._replace(b1=torch.zeros(1).expand(8)), ValueError, "b1 must be a contiguous"),
    "devices": (P._replace(b2=P.b2.to("meta")), ValueError, "b2 must be a contiguous"),
    "device": (Parameters(*(p.to("meta") for p in P)), ValueError, "device must be the CPU or"),
    "shared": (P._replace(bnbias=P.bngain), ValueError, "must not share memory"),
    "too few": ([torch.zeros(2)], TypeError, "must be the 7 tensors of reference.Parameters"),
    "no tuple": (P._asdict, TypeError, "must be the 7 tensors of reference.Parameters"),
}


@pytest.mark.parametrize("collect", [list, iter])
def test_parameters_in_another_collection(collect):
    network = mx.FusedMLP.from_parameters(collect(P))
    assert all(ours is given for ours, given in zip(network.parameters(), P, strict=True))


def test_repr():
    assert repr(mx.FusedMLP(27, 3, 10, 200)) == (
        "FusedMLP(vocabulary=27, context=3, embedding=10, hidden=200, dtype=torch.float32, "
        "device='cpu')"
    )


@pytest.mark.parametrize(
    ("parameters", "kind", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS
)
def test_bad_parameters(parameters, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        mx.FusedMLP.from_parameters(parameters)


BAD_ARGUMENTS = {
    "vocabulary": ({"vocabulary": 0}, "vocabulary must be at least 1, got 0"),
    "hidden": ({"hidden": -3}, "hidden must be at least 1, got -3"),
    "dtype": ({"dtype": torch.float16}, "dtype must be float32 or float64, got torch.float16"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments(arguments, message):
    sizes = {"vocabulary": 27, "context": 3, "embedding": 10, "hidden": 8}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mx.FusedMLP(**{**sizes, **arguments})


BAD_STATES = {
    "missing": (lambda state: state.pop("C"), "state must hold"),
    "unknown": (lambda state: state.update(bnmean=state["b1"]), "state must hold"),
    "shape": (lambda state: state.update(b2=state["b1"]), "b2 must be a torch.float64 Tensor"),
    "dtype": (lambda state: state.update(b2=state["b2"].float()), "b2 must be a torch.float64"),
    "type": (lambda state: state.update(C=None), "C must be a torch.float64 Tensor"),
}


@pytest.mark.parametrize(("change", "message"), BAD_STATES.values(), ids=BAD_STATES)
def test_bad_state(change, message):
    unfit = state(make(seed=9, momentum=0.9))
    change(unfit)
    assert_raises_and_changes_nothing(
        lambda network: network.load_state_dict(unfit), ValueError, message
    )
