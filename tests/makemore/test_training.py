import math
import re
import signal
import threading

import numpy as np
import pytest
import torch

from makemore_ext._parameters import SEED
from makemore_ext.makemore import BACKENDS, MLP, Trainer, calibrate, learning_rate, loss, training


def state(trainer):
    """Everything that training changes."""
    return (
        trainer.losses,
        trainer.generator.get_state().tolist(),
        {name: tensor.tolist() for name, tensor in trainer.model.state_dict().items()},
    )


@pytest.mark.parametrize(
    ("step", "options", "expected"),
    [
        (0, {}, 0.1),
        (99_999, {}, 0.1),
        (100_000, {}, 0.01),
        (5, {"lr": 0.2, "decay_step": 5, "decay": 0.5}, 0.1),
        (0, {"decay_step": 0}, 0.01),
    ],
)
def test_learning_rate(step, options, expected):
    assert learning_rate(step, **options) == pytest.approx(expected, rel=1e-15)


def test_first_10_000_steps_on_the_names_of_the_package(make_trainer, dataset):
    splits = (dataset.train, dataset.validation, dataset.test)
    found = {}
    for backend in ("autograd", "fused_mlp"):
        generator = torch.Generator().manual_seed(SEED)  # whatever the --seed
        trainer = make_trainer(backend, hidden=200, generator=generator)
        trainer.train(10_000)
        calibrate(trainer.model, dataset.train[0])
        assert trainer.losses[0] == pytest.approx(3.296, abs=5e-4)
        found[backend] = [loss(trainer.model, *windows) for windows in splits]
    assert found["autograd"] == pytest.approx([2.266, 2.293, 2.281], abs=0.02)
    assert found["fused_mlp"] == pytest.approx(found["autograd"], abs=0.002)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_is_gradient_descent_on_the_next_minibatch(backend, make_trainer):
    trainer = make_trainer(backend, lr=0.5, decay_step=0, decay=0.5, batch_size=7)
    generator, (x, y) = trainer.generator.clone_state(), trainer.windows
    batch = torch.randint(0, len(y), (7,), generator=generator)
    first = MLP.from_state_dict(trainer.model.state_dict())
    expected_loss, gradients = BACKENDS[backend](first.parameters(), x[batch], y[batch])
    trainer.train(1)
    assert trainer.losses == [expected_loss.item()]
    for after, before, gradient in zip(
        trainer.model.parameters(), first.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(after, before - 0.25 * gradient)


@pytest.mark.parametrize("parts", [(10, 0), (4, 6), (1, 1, 8)])
def test_training_in_parts_is_training_at_once(parts, make_trainer):
    whole, pieces = make_trainer(), make_trainer()
    whole.train(10)
    for steps in parts:
        pieces.train(steps)
    assert state(pieces) == state(whole)


@pytest.mark.parametrize("backend", ["autograd", "fused_mlp"])
def test_scalars_of_numpy_and_torch(backend, make_trainer):
    options = {"lr": 0.5, "decay": 0.25, "batch_size": 7, "decay_step": 1}
    plain = make_trainer(backend, **options)
    plain.train(3)
    for kind in (torch.tensor, np.asarray):
        trainer = make_trainer(backend, **{name: kind(value) for name, value in options.items()})
        trainer.train(kind(3))
        assert state(trainer) == state(plain)


def test_callback_gets_each_step_and_its_loss(make_trainer):
    trainer, calls = make_trainer(), []
    trainer.train(2)
    trainer.train(3, lambda *call: calls.append(call))
    assert calls == [(3, trainer.losses[2]), (4, trainer.losses[3]), (5, trainer.losses[4])]


@pytest.mark.parametrize(("steps", "kept"), [(0, True), (1, False)])
def test_training_drops_outdated_statistics(steps, kept, make_trainer, dataset):
    trainer = make_trainer()
    calibrate(trainer.model, dataset.test[0])
    trainer.train(steps)
    assert (trainer.model.bnmean is not None) is kept
    assert (trainer.model.bnvar is not None) is kept


def interrupt_in_the_callback(trainer, steps):
    def callback(step, _):
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    trainer.train(steps, callback)


def interrupt_in_the_backend(trainer, steps):
    def backend(*arguments):
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return BACKENDS["autograd"](*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BACKENDS", {"autograd": backend})
        trainer.train(steps)


@pytest.mark.parametrize("interrupted_train", [interrupt_in_the_callback, interrupt_in_the_backend])
def test_an_interrupt_leaves_a_whole_number_of_steps(interrupted_train, make_trainer):
    handler = signal.getsignal(signal.SIGINT)
    trainer, shorter = make_trainer(), make_trainer()
    with pytest.raises(KeyboardInterrupt):
        interrupted_train(trainer, 10)
    shorter.train(5)
    assert state(trainer) == state(shorter)
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_in_the_last_step_is_not_lost(make_trainer):
    trainer = make_trainer()
    with pytest.raises(KeyboardInterrupt):
        interrupt_in_the_callback(trainer, 5)
    assert trainer.step == 5


def test_an_ignored_interrupt_stays_ignored(make_trainer):
    trainer = make_trainer()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt_in_the_callback(trainer, 10)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert trainer.step == 10


def test_training_in_a_thread(make_trainer):
    trainer, here = make_trainer(), make_trainer()
    thread = threading.Thread(target=trainer.train, args=(3,))
    thread.start()
    thread.join()
    here.train(3)
    assert state(trainer) == state(here)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "jax"},
            "backend must be one of manual, vectorized, autograd, fused, fused_mlp, got 'jax'",
        ),
        ({"batch_size": 1}, "batch_size must be an integer of at least 2, got 1"),
        ({"batch_size": 32.0}, "batch_size must be an integer of at least 2, got 32.0"),
        ({"lr": -0.1}, "lr must be finite and at least 0, got -0.1"),
        ({"lr": math.nan}, "lr must be finite and at least 0, got nan"),
        ({"lr": math.inf}, "lr must be finite and at least 0, got inf"),
        ({"decay_step": -1}, "decay_step must be an integer of at least 0, got -1"),
        ({"decay": math.nan}, "decay must be finite and at least 0, got nan"),
    ],
)
def test_trainer_rejects_arguments(options, message, make_trainer):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_trainer(**options)


@pytest.mark.parametrize("steps", [-1, 1.5])
def test_train_rejects_steps(steps, make_trainer):
    with pytest.raises(ValueError, match=f"^steps must be an integer of at least 0, got {steps}$"):
        make_trainer().train(steps)


INDICES = torch.zeros(5, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (INDICES[:0], INDICES[:0, 0]),
        (INDICES[:, :2], INDICES[:, 0]),
        (INDICES, INDICES[:4, 0]),
        (INDICES.int(), INDICES[:, 0]),
        (INDICES + 27, INDICES[:, 0]),
        (INDICES, INDICES[:, 0] - 1),
    ],
    ids=["empty", "other context", "lengths differ", "not int64", "x too large", "y negative"],
)
def test_trainer_rejects_windows(x, y):
    with pytest.raises(ValueError, match=r"^windows must be "):
        Trainer(MLP.init(hidden=4), (x, y), torch.Generator())
