"""Momentum and weight decay, set on a network that is there; scalars of numpy and torch."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from networks import assert_same_bits, make, state, windows


def assert_steps_are_the_same(network, other):
    for seed in range(3):
        assert network.step(*windows(seed=seed), 0.1) == other.step(*windows(seed=seed), 0.1)
    assert_same_bits(state(network), state(other))


def test_momentum_and_weight_decay_may_be_set_later():
    network = make()
    network.momentum, network.weight_decay = 0.9, 0.1
    assert_steps_are_the_same(network, make(momentum=0.9, weight_decay=0.1))


def test_another_momentum_goes_on_with_the_buffers():
    network, other = make(momentum=0.9), make(momentum=0.5)
    for each in (network, other):
        each.step(*windows(), 0.0)  # fills the buffers
    network.momentum = 0.5
    assert_steps_are_the_same(network, other)


def test_momentum_may_be_taken_away():
    network, other = make(momentum=0.9), make()
    for each in (network, other):
        each.step(*windows(), 0.0)
    network.momentum = 0
    assert_steps_are_the_same(network, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.9), (0.9, 0.0)])
def test_a_copy_has_the_momentum_that_was_set(before, after, copied):
    network = make(momentum=before)
    network.momentum = after
    network.step(*windows(), 0.1)
    assert_steps_are_the_same(copied(network), network)


SCALARS = {
    "float32 of numpy": (np.float32, np.int32),
    "float64 of numpy": (np.float64, np.uint8),
    "tensors": (torch.tensor, torch.tensor),
}


@pytest.mark.parametrize(("number", "integer"), SCALARS.values(), ids=SCALARS)
def test_scalars_of_numpy_and_torch(number, integer):
    results = []
    for as_number, as_integer in ((number, integer), (float, int)):
        network = make(momentum=as_number(0.5), weight_decay=as_number(0.25))
        options = {"steps": as_integer(5), "batch_size": as_integer(4), "lr": as_number(0.125)}
        losses = network.train(*windows(), **options, generator=torch.Generator())
        options["lr"] = lambda step, as_number=as_number: as_number(0.125)
        more = network.train(*windows(), **options, generator=torch.Generator())
        results.append((losses, more, state(network)))
    assert_same_bits(*results)


UNFIT = {
    "momentum 1": ("momentum", 1.0, "in [0, 1), got 1.0"),
    "momentum negative": ("momentum", -0.1, "in [0, 1), got -0.1"),
    "momentum nan": ("momentum", math.nan, "in [0, 1), got nan"),
    "momentum string": ("momentum", "0.9", "in [0, 1), got '0.9'"),
    "weight_decay negative": ("weight_decay", -1.0, "finite and at least 0, got -1.0"),
    "weight_decay nan": ("weight_decay", math.nan, "finite and at least 0, got nan"),
    "weight_decay None": ("weight_decay", None, "finite and at least 0, got None"),
}
unfit = pytest.mark.parametrize(("name", "value", "allowed"), UNFIT.values(), ids=UNFIT)


@unfit
def test_unfit_from_the_start(name, value, allowed):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} must be {allowed}')}$"):
        make(**{name: value})


@unfit
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_unfit_later_changes_nothing(momentum, name, value, allowed):
    network, other = (make(momentum=momentum) for _ in range(2))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} must be {allowed}')}$"):
        setattr(network, name, value)
    assert_steps_are_the_same(network, other)
