import math
from typing import Any

import pytest
import torch
from support import seeded

from makemore_ext.makemore import MLP
from makemore_ext.makemore.backends import BACKENDS
from makemore_ext.makemore.comparison import compare_backends
from makemore_ext.makemore.data import Windows

CHEAP = ("vectorized", "autograd")


@pytest.fixture
def model() -> MLP:
    return MLP.init(5, hidden=4, dtype=torch.float64)


@pytest.fixture
def windows() -> Windows:
    generator = seeded()
    x = torch.randint(5, (40, 3), generator=generator)
    return x, torch.randint(5, (40,), generator=generator)


def test_every_backend_agrees(model: MLP, windows: Windows) -> None:
    runs = compare_backends(model, windows, steps=20, rounds=2)
    assert {run.backend: run.agrees for run in runs} == dict.fromkeys(BACKENDS, True)


def test_model_is_left_as_it_is(model: MLP, windows: Windows) -> None:
    before = MLP.from_state_dict(model.state_dict())
    compare_backends(model, windows, backends=CHEAP, steps=2, rounds=1)
    assert all(map(torch.equal, before.parameters(), model.parameters()))


@pytest.mark.parametrize(("steps", "rounds"), [(1, 1), (7, 3), (5, 5)])
def test_steps_are_spread_over_rounds(
    steps: int, rounds: int, model: MLP, windows: Windows
) -> None:
    runs = compare_backends(model, windows, backends=CHEAP, steps=steps, rounds=rounds)
    counts = {(len(run.losses), len(run.round_seconds)) for run in runs}
    assert counts == {(steps, rounds)}


@pytest.mark.parametrize(
    ("backends", "ran"),
    [
        (["vectorized"], ["vectorized", "autograd"]),
        (["autograd", "vectorized"], ["autograd", "vectorized"]),
        ([], ["autograd"]),
        (["autograd", "autograd"], ["autograd"]),
    ],
)
def test_autograd_always_runs_once(
    backends: list[str], ran: list[str], model: MLP, windows: Windows
) -> None:
    runs = compare_backends(model, windows, backends=backends, steps=1, rounds=1)
    assert [run.backend for run in runs] == ran


@pytest.mark.parametrize("factor", [1.001, math.nan])
def test_wrong_gradient_does_not_agree(
    factor: float, model: MLP, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        loss, gradients = BACKENDS["autograd"](*arguments)
        return loss, gradients._replace(b2=gradients.b2 * factor)

    monkeypatch.setitem(BACKENDS, "fused", wrong)
    runs = compare_backends(model, windows, backends=["fused"], steps=3, rounds=1)
    assert [run.agrees for run in runs] == [False, True]


def test_median_of_the_rounds(model: MLP, windows: Windows) -> None:
    (run,) = compare_backends(model, windows, backends=["autograd"], steps=3, rounds=3)
    assert run.step_seconds == sorted(run.round_seconds)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds must be from 1 to steps"),
        ({"steps": 3, "rounds": 4}, "rounds must be from 1 to steps"),
        ({"backends": ["jax"]}, "backend must be one of"),
        ({"batch_size": 1}, "batch_size must be"),
    ],
)
def test_bad_arguments(
    arguments: dict[str, Any], message: str, model: MLP, windows: Windows
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_backends(model, windows, **arguments)
