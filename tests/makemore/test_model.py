import math
import re

import pytest
import torch

from makemore_ext import reference
from makemore_ext.makemore import MLP, calibrate


@pytest.mark.parametrize(("hidden", "count"), [(64, 4_137), (200, 12_297)])
def test_parameter_count_is_the_notebooks(hidden, count):
    assert MLP.init(hidden=hidden).parameter_count == count


def test_init_draws_C_W1_W2_in_this_order():
    generator = torch.Generator().manual_seed(2147483647)
    model = MLP.init()
    expected = [
        torch.randn(27, 10, generator=generator),
        torch.randn(30, 200, generator=generator) * (5 / 3 / math.sqrt(30)),
        torch.randn(200, 27, generator=generator) * (0.01 / math.sqrt(200)),
    ]
    assert all(map(torch.equal, (model.C, model.W1, model.W2), expected))


@pytest.mark.parametrize(("name", "value"), [("b1", 0), ("b2", 0), ("bngain", 1), ("bnbias", 0)])
def test_init_constants(name, value):
    assert (getattr(MLP.init(), name) == value).all()


def test_init_begins_alike_in_both_dtypes():
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    single = MLP.init(generator=generators[0])
    double = MLP.init(generator=generators[1], dtype=torch.float64)
    assert torch.equal(single.W1.double(), double.W1)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_describe():
    assert MLP.init(hidden=64).describe() == (
        "embedding [27, 10], 3 characters concatenated, linear [30, 64], batch norm [64], tanh, "
        "linear [64, 27]: 4,137 parameters"
    )


def test_logits_are_the_training_logits_on_the_set_calibrated_on(dataset):
    model, (x, y) = MLP.init(dtype=torch.float64), dataset.test
    calibrate(model, x[:100])
    expected = reference.forward(model.parameters(), x[:100], y[:100])["logits"]
    torch.testing.assert_close(model.logits(x[:100]), expected.detach())


def test_logits_need_calibration():
    with pytest.raises(RuntimeError, match="call calibrate first"):
        MLP.init().logits(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("calibrated", [False, True])
def test_state_dict_round_trip_gives_equal_copies(calibrated):
    model = MLP.init(hidden=8)
    if calibrated:
        calibrate(model, torch.arange(12).view(4, 3))
    state = model.state_dict()
    copy = MLP.from_state_dict(state)
    assert copy.state_dict().keys() == state.keys()
    for name, tensor in copy.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert tensor.data_ptr() != state[name].data_ptr()
    assert all(parameter.requires_grad for parameter in copy.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"C": torch.zeros(27)}, "[V, D] and [K·D, H], got [27] and [30, 8]"),
        ({"W1": torch.zeros(31, 8)}, "[V, D] and [K·D, H], got [27, 10] and [31, 8]"),
        ({"C": torch.zeros(27, 0)}, "[V, D] and [K·D, H], got [27, 0] and [30, 8]"),
        ({"W2": torch.zeros(8, 26)}, "W2 must be of shape [8, 27], got [8, 26]"),
        ({"bngain": torch.zeros(9)}, "bngain must be of shape [8], got [9]"),
        ({"bnmean": torch.zeros(8)}, "bnvar must be of shape [8], got None"),
        ({"b2": torch.zeros(27, dtype=torch.float64)}, "dtypes must be all float32 or all float64"),
        ({"extra": torch.zeros(1)}, "state must hold"),
    ],
)
def test_from_state_dict_rejects(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MLP.from_state_dict(MLP.init(hidden=8).state_dict() | changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1, got 0"),
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"embedding": -1}, "embedding must be at least 1, got -1"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"dtype": torch.float16}, "dtype must be float32 or float64, got torch.float16"),
    ],
)
def test_init_rejects(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MLP.init(**options)
