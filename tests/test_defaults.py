"""No result depends on torch's default device or dtype, which another part of a program may set."""

import copy
import json

import pytest
import torch
from networks import FLOAT32, windows
from torch import Tensor

import makemore_ext as mx
from makemore_ext import bench, check, reference
from makemore_ext.__main__ import main
from makemore_ext.makemore import (
    BACKENDS,
    MLP,
    Dataset,
    Trainer,
    calibrate,
    checkpoint,
    comparison,
    loss,
    sample,
)
from makemore_ext.makemore.peers import PeerTrainer

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "mia", "liam", "noah"]
X, Y = windows()
INPUT = torch.linspace(-1, 1, 12).view(4, 3)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def network(**options) -> mx.FusedMLP:
    return mx.FusedMLP(27, 3, 10, 16, **options)


def trained(backend: str, dtype: torch.dtype = FLOAT32) -> Trainer:
    trainer = Trainer(MLP.init(hidden=16, dtype=dtype), (X, Y), generator(), backend=backend)
    trainer.train(3)
    return trainer


def train(**options) -> tuple[Tensor, dict[str, Tensor]]:
    learner = network(momentum=0.9)
    losses = learner.train(X, Y, steps=3, batch_size=4, generator=generator(), **options)
    return losses, learner.state_dict()


def step_of_a_copy() -> list[float]:
    learner = network(momentum=0.9)
    return [learner.step(X, Y, 0.1), copy.deepcopy(learner).step(X, Y, 0.1)]


def calibrated() -> MLP:
    model = MLP.init(hidden=16)
    calibrate(model, X)
    return model


def resumed(folder) -> list[float]:
    (folder / "names.txt").write_text("\n".join(NAMES))
    dataset = Dataset.load(folder / "names.txt")
    model = MLP.init(len(dataset.vocabulary), hidden=16)
    trainer = Trainer(model, dataset.train, generator(), batch_size=4)
    trainer.train(3)
    checkpoint.save(folder / "checkpoint.pt", trainer, dataset)
    again = checkpoint.load(folder / "checkpoint.pt").resume(dataset)
    again.train(3)
    return again.losses


def sampled() -> list[list[int]]:
    vocabulary = Dataset.load().vocabulary
    names = sample(calibrated(), vocabulary, 3, generator=generator())
    return [vocabulary.encode(name) for name in names]


def checked() -> dict[str, float]:
    tables = check.run().values()
    return {row.name: row.maxdiff for table in tables for row in table}


def compared() -> dict[str, list[float]]:
    runs = comparison.compare_backends(MLP.init(hidden=16), (X, Y), steps=3, rounds=1)
    return {run.backend: [*run.losses, run.maxdiff] for run in runs}


def of_a_peer() -> list[float]:
    def take(minibatches: Tensor, rates: list[float]) -> list[float]:
        return [*minibatches.sum(1).tolist(), *rates]

    trainer = PeerTrainer(take, (X, Y), generator(), batch_size=4, lr=0.1)
    trainer.train(3)
    return trainer.losses


def forms_of_the_reference() -> list[Tensor]:
    parameters = MLP.init(hidden=16).parameters()
    steps = reference.forward(parameters, X, Y)
    return [
        *steps.values(),
        *reference.backward(parameters, X, Y, steps).values(),
        reference.cross_entropy_backward_one_hot(steps["logits"], Y),
        reference.batch_norm_backward_broadcast(steps["h"], steps["hprebn"], parameters.bngain),
    ]


def differentiated(function) -> tuple[Tensor, ...]:
    leaf = INPUT.clone().requires_grad_()
    result = function(leaf)
    (first,) = torch.autograd.grad(result.square().sum(), leaf, create_graph=True)
    return result, first, *torch.autograd.grad(first.square().sum(), leaf)


def command(*arguments: str):
    def run(folder) -> dict:
        file = folder / "out.json"
        assert main([*arguments, "--json", str(file)]) == 0
        content = json.loads(file.read_text())
        return {key: content[key] for key in ("losses", "samples", "tables") if key in content}

    return run


FUNCTIONS = {
    "initialisation": lambda: MLP.init(hidden=16).parameters(),
    "network": lambda: network().parameters(),
    "loss and gradients": lambda: network().loss_and_gradients(X, Y),
    "step": step_of_a_copy,
    "train": lambda: train(lr=0.1),
    "train by a schedule": lambda: train(lr=lambda step: 0.1 / (step + 1)),
    "data": lambda: Dataset.load().test,
    "evaluation": lambda: (loss(calibrated(), X, Y), calibrated().state_dict()),
    "sampling": sampled,
    **{f"backend {name}": lambda name=name: trained(name).losses for name in BACKENDS},
    "comparison": compared,
    "peer": of_a_peer,
    "check": checked,
    "reference": forms_of_the_reference,
    "cross entropy": lambda: differentiated(
        lambda x: mx.cross_entropy(x, Y[:4] % 3, label_smoothing=0.1, lse_square_scale=0.1)
    ),
    "cross entropy of probabilities": lambda: differentiated(
        lambda x: mx.cross_entropy(x, INPUT.softmax(1))
    ),
    "batch norm": lambda: differentiated(
        lambda x: mx.batch_norm(x, None, None, training=True, activation="tanh")
    ),
    "embedding": lambda: differentiated(lambda x: mx.embedding(Y[:9] % 4, x)),
}
IN_A_FOLDER = {
    "checkpoint": resumed,
    "command check": command("check"),
    "command info": command("info"),
    "command bench": command("bench", "--shape", "8x5", "--rounds", "1"),
    "command train": command("train", "--hidden", "16", "--steps", "20"),
    "command compare": command("compare", "--hidden", "16", "--steps", "10", "--backends", "fused"),
}
DEFAULTS = {
    "device": lambda: torch.set_default_device("meta"),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
}


@pytest.fixture(params=DEFAULTS.values(), ids=DEFAULTS)
def change_defaults(request):
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield request.param
    torch.set_default_device(None)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)  # which commands set


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions(function, change_defaults):
    expected = function()
    change_defaults()
    torch.testing.assert_close(function(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("function", IN_A_FOLDER.values(), ids=IN_A_FOLDER)
def test_what_writes_a_file(function, change_defaults, tmp_path):
    expected = function(tmp_path)
    change_defaults()
    assert function(tmp_path) == expected


@pytest.mark.parametrize("operation", bench.OPERATIONS)
def test_benches_measure(operation, change_defaults):
    change_defaults()
    assert all(bench.bench(operation, (8, 5), FLOAT32, 1).values())
