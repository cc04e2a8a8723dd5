"""Training by several processes: the losses of one, whatever becomes of the others."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from ranks import ranks_fixture
from train_calls import trained

from makemore_ext.makemore import checkpoint

TRAIN = ["-m", "makemore_ext", "train"]
SMALL = ["--hidden", "16", "--samples", "2"]
STEPS = {2: 1000, 3: 100}  # of how many processes


ranks = ranks_fixture({str(count): [1] * count for count in STEPS})


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("backend", ["fused", "autograd"])
def test_every_loss_is_that_of_one_process(ranks, backend, dtype, bound):
    steps = STEPS[ranks.count]
    alone = torch.tensor(trained("autograd", dtype, steps), dtype=torch.float64)
    first, *others = ranks.results(trained, backend, dtype, steps)
    assert all(losses == first for losses in others)
    assert (torch.tensor(first, dtype=torch.float64) - alone).abs().max() <= bound


def test_a_backend_of_one_process_is_refused(ranks):
    for answer in ranks.run(trained, "fused_mlp", torch.float32, 1):
        with pytest.raises(ValueError, match="backend must be one of autograd, fused for several"):
            raise answer


def start(*arguments, count=2):
    """The processes that torchrun would start, by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, *TRAIN, *arguments],
            env={**os.environ, **where, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(processes):
    """What each printed, and its status."""
    printed = [process.communicate(timeout=100) for process in processes]
    return [(*texts, p.returncode) for texts, p in zip(printed, processes, strict=True)]


def losses_of(tmp_path, *arguments):
    file = tmp_path / "result.json"
    for _, errors, status in ended(start(*arguments, "--json", str(file))):
        assert status == 0, errors
    result = json.loads(file.read_text())
    assert result["processes"] == 2
    return result["minibatch_losses"]


def test_the_first_process_alone_prints(tmp_path):
    first, second = ended(start(*SMALL, "--steps", "20", "--json", str(tmp_path / "result.json")))
    assert "20 steps, fused, 2 processes" in first[0]
    assert "step 20 of 20" in first[1]
    assert second == ("", "", 0)


def test_resumed_training_goes_on_as_if_never_stopped(tmp_path):
    file = str(tmp_path / "out.pt")
    straight = losses_of(tmp_path, *SMALL, "--steps", "60")
    begun = losses_of(tmp_path, *SMALL, "--steps", "40", "--checkpoint", file)
    assert begun == straight[:40]
    assert losses_of(tmp_path, "--resume", file, "--steps", "60") == straight


WRONG = {
    "a backend of one process": (["--backend", "fused_mlp"], "backend must be one of autograd"),
    "no such file": (["--data", "missing.txt"], "missing.txt: No such file"),
    "a folder": (["--checkpoint", "."], r"must be a regular file or new"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_an_error_is_said_once(arguments, message):
    results = ended(start(*SMALL, *arguments))
    assert all(status != 0 for *_, status in results)
    said = [line for _, errors, _ in results for line in errors.splitlines() if "error" in line]
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.parametrize("rank", range(2))
def test_an_interrupt_of_one_process_ends_all_after_the_same_step(rank, tmp_path):
    file = tmp_path / "out.pt"
    every = ["--checkpoint", str(file), "--checkpoint-every", "20"]
    processes = start(*SMALL, "--steps", "1000000", *every)
    wait_for(file, processes)
    processes[rank].send_signal(signal.SIGINT)
    results = ended(processes)
    assert [status for *_, status in results] == [130, 130]
    done = checkpoint.load(file).step
    said = "".join(errors for _, errors, _ in results)
    assert said.count(f"interrupted after {done} of 1000000 steps") == 1


def wait_for(file, processes):
    end = time.monotonic() + 100
    while not file.exists():
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def moments():
    """Of which rank is killed and how long after the first checkpoint; 20 in all."""
    draw = random.Random(0)
    for index in range(20):
        marks = pytest.mark.slow if index >= 2 else ()
        seconds = draw.random()
        yield pytest.param(index % 2, seconds, marks=marks, id=f"{index % 2}-{seconds:.2f}")


@pytest.mark.parametrize(("rank", "seconds"), list(moments()))
def test_a_killed_process_ends_all_and_leaves_a_whole_checkpoint(rank, seconds, tmp_path):
    file = tmp_path / "out.pt"
    every = ["--checkpoint", str(file), "--checkpoint-every", "20"]
    processes = start(*SMALL, "--steps", "1000000", *every)
    wait_for(file, processes)
    time.sleep(seconds)
    processes[rank].kill()
    _, errors, status = ended(processes)[1 - rank]
    assert status == 1
    assert errors.splitlines()[-1].startswith(
        "makemore-ext: error: one of 2 processes has ended, or has not answered for 60 seconds"
    )
    done = checkpoint.load(file).step
    assert done % 20 == 0
    steps = ["--steps", str(done + 20)]
    resumed = losses_of(tmp_path, "--resume", str(file), *steps)
    assert resumed == losses_of(tmp_path, *SMALL, *steps)


def test_under_torchrun(tmp_path):
    file = tmp_path / "result.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m"]
    run = subprocess.run(
        [*torchrun, *TRAIN[1:], *SMALL, "--steps", "20", "--json", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("20 steps, fused, 2 processes") == 1
    assert json.loads(file.read_text())["processes"] == 2
