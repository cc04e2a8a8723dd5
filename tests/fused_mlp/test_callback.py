"""What a callback of FusedMLP.train, which runs between two native calls, may do to the tensors."""

import pytest
import torch
from networks import assert_same_bits, make, state, windows

COUNT = 100


@pytest.fixture(autouse=True)
def _ten_steps_a_call(monkeypatch):
    """6 n H (K D + V) operations a step, of networks.make with a minibatch of 32."""
    monkeypatch.setattr(
        "makemore_ext.fused_mlp.network.BLOCK_OPERATIONS", 10.5 * 6 * 32 * 24 * (30 + 27)
    )


def train(network, x, y, callback, steps: int = 30):
    generator = torch.Generator().manual_seed(1)
    return network.train(
        x, y, steps=steps, batch_size=32, lr=0.1, generator=generator, callback=callback
    )


def storage(tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def swap(tensor, other) -> None:
    tensor.data = other


WINDOWS = {
    "x too large": (lambda x, y: x.fill_(27), IndexError, r"x must .* \[0, 27\), got 27"),
    "x far": (lambda x, y: x.fill_(2**62), IndexError, r"x must .* \[0, 27\), got 4611686"),
    "x negative": (lambda x, y: x.fill_(-1), IndexError, r"x must .* \[0, 27\), got -1"),
    "one of x": (lambda x, y: x[70, 1].fill_(28), IndexError, r"x must .* \[0, 27\), got 28"),
    "y too large": (lambda x, y: y.fill_(27), IndexError, r"y must .* \[0, 27\), got 27"),
    "one of y": (lambda x, y: y[70].fill_(-9), IndexError, r"y must .* \[0, 27\), got -9"),
    "unnoticed": (lambda x, y: x.numpy().fill(99), IndexError, r"x must .* \[0, 27\), got 99"),
    "x shorter": (lambda x, y: x.resize_(2, 3), ValueError, r"got \[2, 3\] and \[100\]"),
    "y shorter": (lambda x, y: y.resize_(2), ValueError, r"got \[100, 3\] and \[2\]"),
    "both empty": (lambda x, y: (x.resize_(0, 3), y.resize_(0)), ValueError, "with n at least 1"),
    "x freed": (lambda x, y: storage(x).resize_(0), ValueError, "x must have memory .* 0 bytes"),
    "y freed": (lambda x, y: storage(y).resize_(0), ValueError, "y must have memory .* 0 bytes"),
    "x taken": (lambda x, y: storage(x).resize_(64), ValueError, "x must have memory .* 64 bytes"),
    "x int32": (lambda x, y: swap(x, x.data.int()), TypeError, "x must be an int64 Tensor"),
}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("change", "kind", "message"), WINDOWS.values(), ids=WINDOWS)
def test_unfit_windows(change, kind, message, momentum):
    network, (x, y) = make(momentum=momentum), windows(count=COUNT)
    calls = []

    def callback(done, _):
        calls.append((done, state(network)))
        change(x, y)

    with pytest.raises(kind, match=message):
        train(network, x, y, callback)
    ((done, before),) = calls
    assert done == 10
    assert_same_bits(state(network), before)


def test_an_index_that_a_schedule_makes_unfit():
    network, (x, y) = make(), windows(count=COUNT)
    before = state(network)
    with pytest.raises(IndexError, match="x must hold indices"):
        network.train(
            x, y, steps=3, batch_size=32, lr=lambda _: x.fill_(27).sum() * 0, generator=None
        )
    assert_same_bits(state(network), before)


def test_goes_on_as_if_nothing_had_been_after_an_index_was_unfit():
    network, fresh, (x, y) = make(), make(), windows(count=COUNT)
    kept = x.clone()
    with pytest.raises(IndexError):
        train(network, x, y, lambda *_: x[::2].fill_(30))
    x.copy_(kept)
    fresh.load_state_dict(state(network))
    assert_same_bits(train(network, x, y, None), train(fresh, x, y, None))
    assert_same_bits(state(network), state(fresh))


TENSORS = {
    "parameter freed": (lambda network: storage(network.parameters().W1).resize_(0), "W1"),
    "parameter taken": (lambda network: storage(network.parameters().b2).resize_(8), "b2"),
    "parameter swapped": (lambda network: swap(network.parameters().C, torch.zeros(3)), "C"),
    "momentum freed": (
        lambda network: storage(network.state_dict()["momentum.W2"]).resize_(0),
        "momentum.W2",
    ),
    "momentum taken": (
        lambda network: storage(network.state_dict()["momentum.C"]).resize_(8),
        "momentum.C",
    ),
}


@pytest.mark.parametrize(("change", "name"), TENSORS.values(), ids=TENSORS)
def test_unfit_parameters(change, name):
    network, (x, y) = make(momentum=0.9), windows(count=COUNT)
    before = {}

    def callback(*_):
        before.update(state(network))
        change(network)

    with pytest.raises(ValueError, match=f"^{name} must be a contiguous torch.float64 tensor"):
        train(network, x, y, callback)
    after = {other: tensor for other, tensor in network.state_dict().items() if other != name}
    del before[name]
    assert_same_bits(after, before)


def test_losses_are_the_callbacks_to_keep():
    expected = train(make(), *windows(count=COUNT), None)
    actual = train(make(), *windows(count=COUNT), lambda _, losses: storage(losses).resize_(0))
    assert_same_bits(actual, expected)


def test_new_windows_are_trained_on():
    (x, y), (later_x, later_y) = windows(count=COUNT), windows(count=COUNT, seed=9)
    network, other, generator = make(), make(), torch.Generator().manual_seed(1)

    def callback(done, _):
        swap(x, later_x.t().contiguous().t())
        y.copy_(later_y)

    options = {"batch_size": 32, "lr": 0.1, "generator": generator}
    expected = other.train(*windows(count=COUNT), steps=10, **options)
    expected = torch.cat([expected, other.train(later_x, later_y, steps=20, **options)])
    assert_same_bits(train(network, x, y, callback), expected)
    assert_same_bits(state(network), state(other))
