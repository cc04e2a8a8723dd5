import importlib.util

import pytest
import torch

from makemore_ext.makemore import MLP, Dataset
from makemore_ext.makemore.comparison import TOLERANCE, compare_backends
from makemore_ext.makemore.peers import PEERS, installed_peers

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="the extra makemore-ext[peers] is not installed"
)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(
            "torch_compile",
            marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")],
        ),
        pytest.param("jax_jit", marks=needs_jax),
        pytest.param("jax_scan", marks=needs_jax),
    ],
)
def test_peer_takes_the_steps_of_autograd(peer: str, dtype: torch.dtype, dataset: Dataset) -> None:
    model = MLP.init(hidden=16, dtype=dtype)
    before = MLP.from_state_dict(model.state_dict())
    run, _ = compare_backends(model, dataset.train, backends=[peer], steps=50, rounds=2)
    assert (run.backend, len(run.losses), run.agrees) == (peer, 50, True)
    assert all(map(torch.equal, model.parameters(), before.parameters()))


@pytest.mark.parametrize(("found", "names"), [(object(), tuple(PEERS)), (None, ())])
def test_peers_are_an_extra(
    found: object, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert installed_peers() == names
