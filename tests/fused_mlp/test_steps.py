import copy
import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import FLOAT32, FLOAT64, assert_same_bits, clone, make, state, windows
from support import error, mean_error, seeded, spacing, threads

import makemore_ext as mx
from makemore_ext import reference
from makemore_ext.makemore import BACKENDS, Dataset
from makemore_ext.reference import Parameters

DTYPES = (FLOAT32, FLOAT64)
NOTEBOOK = (27, 3, 10, 200)


# The gradients of one step


SIZES = {
    "notebook": (32, *NOTEBOOK),
    "two windows": (2, 27, 3, 10, 64),
    "one unit": (40, 27, 3, 10, 1),
    "one dimension": (9, 5, 2, 1, 33),
    "one character": (5, 1, 1, 1, 7),
    "one of everything": (2, 1, 1, 1, 1),
    "wide embedding": (7, 12, 2, 70, 20),
    "long context": (20, 27, 17, 3, 9),
    "large vocabulary": (10, 3000, 3, 4, 16),
    "deep sums": (300, 27, 3, 10, 300),
    "whole panels": (16, 16, 4, 16, 64),
}
sizes_table = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


# The roundings of a few dot products, of batch norm, tanh and softmax, there and back, which add up
# like a random walk. In float64 the truth has its own.
ROUNDINGS = {FLOAT32: 40, FLOAT64: 80}


@pytest.mark.parametrize("dtype", DTYPES)
@sizes_table
def test_loss_and_gradients_are_those_of_the_atomic_steps(sizes, dtype):
    n, *sizes = sizes
    network, (x, y) = make(sizes, dtype), windows(sizes, n)
    exact = clone(network.parameters(), FLOAT64)
    steps = reference.forward(exact, x, y)
    gradients = reference.backward(exact, x, y, steps)
    # Batch norm magnifies what rounded before: its input is that many standard deviations from 0,
    # and the terms of its gradient all but cancel, as in two windows.
    forward = (steps["hprebn"].abs().amax(0) * steps["bnvar_inv"]).max().item()
    terms, rest = gradients["bnraw"] * steps["bnvar_inv"], gradients["hprebn"]
    backward = max(1.0, (terms.abs().max() / rest.abs().max().clamp(min=1e-300)).item())
    loss, found = network.loss_and_gradients(x, y)
    for name, actual in {"loss": loss, **found._asdict()}.items():
        true = steps["loss"].detach() if name == "loss" else gradients[name].detach()
        magnified = forward * backward if name in ("C", "W1") else forward
        scale = true.abs().max().clamp(min=1e-2)
        assert (actual.dtype, actual.shape) == (dtype, true.shape)
        assert error(actual, true) <= ROUNDINGS[dtype] * magnified * spacing(scale, dtype)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 40),
    vocabulary=st.integers(1, 50),
    context=st.integers(1, 5),
    embedding=st.integers(1, 20),
    hidden=st.integers(1, 70),
    seed=st.integers(0, 2**16),
)
def test_any_sizes(n, vocabulary, context, embedding, hidden, seed):
    sizes = (vocabulary, context, embedding, hidden)
    network, (x, y) = make(sizes, seed=seed), windows(sizes, n, seed)
    expected = BACKENDS["autograd"](network.parameters(), x, y)
    actual = network.loss_and_gradients(x, y)
    # A variance near 0 magnifies rounding by 1/eps in two windows that are nearly alike.
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("n", "hidden", "draws"),
    [(32, 16, 20), (32, 200, 20), (32, 2048, 20), (1024, 16, 10), (1024, 200, 10), (1024, 2048, 3)],
)
def test_no_further_from_the_truth_than_torch(n, hidden, draws):
    """On average over draws and gradients, in half ulps of each.

    Most of the error is that of the matrix products, of which ours and those of a BLAS round alike.
    The margin is for four lanes in place of sixteen: the sums of the portable kernels are longer.
    """
    ours, theirs = 0.0, 0.0
    sizes = (27, 3, 10, hidden)
    for seed in range(draws):
        network, (x, y) = make(sizes, FLOAT32, 2 * seed), windows(sizes, n, 2 * seed + 1)
        truth = BACKENDS["autograd"](clone(network.parameters(), FLOAT64), x, y)[1]
        mine = network.loss_and_gradients(x, y)[1]
        other = BACKENDS["autograd"](network.parameters(), x, y)[1]
        for name in {*Parameters._fields} - {"b1"}:
            ours += mean_error(getattr(mine, name), getattr(truth, name))
            theirs += mean_error(getattr(other, name), getattr(truth, name))
    assert ours <= 1.15 * theirs


def test_gradient_of_b1_is_0():
    assert not make().loss_and_gradients(*windows())[1].b1.any()


def test_loss_and_gradients_change_nothing():
    network, (x, y) = make(momentum=0.9), windows()
    before = [*state(network).values(), x.clone(), y.clone()]
    network.loss_and_gradients(x, y)
    assert_same_bits([*state(network).values(), x, y], before)


def test_confident_row_keeps_its_digits():
    network, (x, y) = make(dtype=FLOAT32), windows(count=8)
    with torch.no_grad():
        network.parameters().b2[y[0]] = 60
    y[:] = y[0]
    truth = BACKENDS["autograd"](clone(network.parameters(), FLOAT64), x, y)[1]
    gradient = network.loss_and_gradients(x, y)[1].b2
    torch.testing.assert_close(gradient.double(), truth.b2, rtol=1e-3, atol=0)


# Descent


def descend(network, x, y, rates, batch_size, generator, **options) -> list[float]:
    """What torch makes of the same steps, on a copy of the parameters that it returns."""
    parameters = clone(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1.0, **options)
    losses = []
    for rate in rates:
        batch = torch.randint(len(y), (batch_size,), generator=generator)
        loss, gradients = BACKENDS["autograd"](parameters, x[batch], y[batch])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses, parameters


OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "weight decay": {"weight_decay": 1e-3},
    "both": {"momentum": 0.5, "weight_decay": 1e-2},
}
TOLERANCE = {FLOAT32: 1e-5, FLOAT64: 1e-11}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.load()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_follows_autograd_for_1000_steps(options, dtype, dataset):
    x, y = dataset.train
    rates = [0.01 if options.get("momentum") else 0.1 * 0.999**step for step in range(1000)]
    network = mx.FusedMLP(*NOTEBOOK, dtype=dtype, **options)
    with threads(1):
        losses, parameters = descend(network, x, y, rates, 32, seeded(1), **options)
        actual = network.train(
            x,
            y,
            steps=1000,
            batch_size=32,
            lr=rates.__getitem__,
            generator=seeded(1),
        )
    assert error(actual, torch.tensor(losses, dtype=FLOAT64)) <= TOLERANCE[dtype]
    for mine, other in zip(network.parameters(), parameters, strict=True):
        assert error(mine.detach(), other.detach().double()) <= 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("n", [2, 7, 1024])
@pytest.mark.parametrize("hidden", [16, 65, 2048])
def test_follows_autograd_at_other_sizes(hidden, n, options):
    sizes = (27, 3, 10, hidden)
    network, (x, y) = make(sizes, **options), windows(sizes, 2000)
    losses, parameters = descend(network, x, y, [0.05] * 3, n, seeded(1), **options)
    generator = seeded(1)
    actual = network.train(x, y, steps=3, batch_size=n, lr=0.05, generator=generator)
    # Two windows alike in a unit have a variance near 0, where a step of 0.05 may take parameters
    # 0.05/eps = 5000 times as far apart as they were.
    of_losses, of_parameters = (1e-5, 1e-5) if n == 2 else (1e-9, 1e-8)
    torch.testing.assert_close(actual.tolist(), losses, rtol=of_losses, atol=of_losses)
    torch.testing.assert_close(
        network.parameters(), parameters, rtol=of_parameters, atol=of_parameters
    )


@pytest.mark.parametrize("operations", [1, 1e7, 1e9])
def test_train_is_a_step_on_each_minibatch_of_randint(operations, monkeypatch):
    monkeypatch.setattr("makemore_ext.fused_mlp.network.BLOCK_OPERATIONS", operations)
    whole, single = make(momentum=0.9), make(momentum=0.9)
    x, y = windows(count=100)
    generators = seeded(1), seeded(1)
    losses = whole.train(
        x, y, steps=70, batch_size=8, lr=lambda step: 0.1 / (1 + step), generator=generators[0]
    )
    expected = []
    for step in range(70):
        batch = torch.randint(len(y), (8,), generator=generators[1])
        expected.append(single.step(x[batch], y[batch], 0.1 / (1 + step)))
    assert losses.tolist() == expected
    assert_same_bits(state(whole), state(single))
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_generator_none_is_the_default_one():
    x, y = windows()
    networks = make(), make()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        default = networks[0].train(x, y, steps=3, batch_size=4, lr=0.1, generator=None)
    seeded = networks[1].train(
        x, y, steps=3, batch_size=4, lr=0.1, generator=torch.Generator().manual_seed(7)
    )
    assert_same_bits(default, seeded)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [NOTEBOOK, (27, 3, 10, 500), (300, 2, 40, 200)])
@pytest.mark.parametrize("n", [32, 700])
def test_same_bits_for_every_thread_count_and_run(n, sizes, dtype):
    results = []
    for count in (1, 2, 3, 2):
        network, (x, y) = make(sizes, dtype, momentum=0.9), windows(sizes, 2000)
        with threads(count):
            generator = seeded(1)
            losses = network.train(x, y, steps=3, batch_size=n, lr=0.1, generator=generator)
        results.append((losses, state(network)))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_minibatch_sizes_may_alternate():
    network, fresh = make(), make()
    for count in (32, 5, 32):
        network.step(*windows(count=count), 0.1)
    for count in (32, 5, 32):
        fresh = copy.deepcopy(fresh)
        fresh.step(*windows(count=count), 0.1)
    assert_same_bits(state(network), state(fresh))


def test_recovers_from_a_loss_that_is_not_finite():
    network, (x, y) = make(dtype=FLOAT32), windows()
    before = state(network)
    expected = [network.step(x, y, 0.1) for _ in range(3)]
    network.parameters().W1.detach().fill_(torch.inf)
    assert math.isnan(network.step(x, y, 0.1))
    network.load_state_dict(before)
    assert [network.step(x, y, 0.1) for _ in range(3)] == expected


def test_callback_gets_every_loss_once(monkeypatch):
    monkeypatch.setattr("makemore_ext.fused_mlp.network.BLOCK_OPERATIONS", 4e5)
    calls = []
    losses = make().train(
        *windows(),
        steps=50,
        batch_size=4,
        lr=0.1,
        generator=seeded(1),
        callback=lambda done, new: calls.append((done, new.clone())),
    )
    assert len(calls) > 2
    assert [done for done, _ in calls] == torch.tensor([len(n) for _, n in calls]).cumsum(
        0
    ).tolist()
    assert_same_bits(torch.cat([new for _, new in calls]), losses)


def test_interrupt_leaves_a_whole_number_of_steps():
    network, shorter, (x, y) = make(), make(), windows()
    done = []
    generators = seeded(1), seeded(1)
    interrupt = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))

    def callback(step, _):
        if not done:
            interrupt.start()
        done.append(step)

    with pytest.raises(KeyboardInterrupt):
        network.train(
            x,
            y,
            steps=10_000_000,
            batch_size=32,
            lr=0.01,
            generator=generators[0],
            callback=callback,
        )
    shorter.train(x, y, steps=done[-1], batch_size=32, lr=0.01, generator=generators[1])
    assert done[-1] < 10_000_000
    assert_same_bits(state(network), state(shorter))
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_two_threads_take_turns():
    network, (x, y) = make((27, 3, 10, 200)), windows()
    expected = network.step(x, y, 0.0)
    with ThreadPoolExecutor(2) as pool:
        losses = pool.map(lambda _: network.step(x, y, 0.0), range(200))
    assert set(losses) == {expected}
