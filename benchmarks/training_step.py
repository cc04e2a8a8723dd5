"""How long does a training step of the notebook's network take, in which framework?

Every framework trains in a process of its own, on one core, from the same network and on the same
minibatches; drawing them is part of the step. The processes take turns, round by round, and the
figure is the median of the rounds. The losses of the first steps must agree.

Beside the frameworks stands the arithmetic floor: the 6 n H (K D + V) floating-point operations of
the step's six matrix products at the rate at which one core multiplies and adds in registers, which
fma_rate.cpp measures in the same run.

    python benchmarks/training_step.py [--case 32x200 ...] [--rounds 7] [--seconds 0.1]

measures, prints, and writes results/training_step.json; a case measured again replaces what the
file held. JAX takes part where the extra `makemore-ext[peers]` is installed.
"""

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results/training_step.json"
FRAMEWORKS = {
    "manual": "the notebook's loop",
    "autograd": "eager torch",
    "torch_compile": "torch.compile",
    "jax_jit": "JAX jit",
    "jax_scan": "JAX lax.scan",
    "fused_mlp": "FusedMLP",
}
CASES = ("32x64", "32x200", "32x1024", "1024x64", "1024x200", "1024x1024")
COMPARED_STEPS = 50
MOST_MANUAL = 32  # windows: the notebook's loop makes products of n² H values, gigabytes beyond
TOLERANCE = 1e-4


def sizes(case: str) -> tuple[int, int]:
    """Batch size and hidden units."""
    batch, hidden = case.split("x")
    return int(batch), int(hidden)


def operations(case: str) -> int:
    """What the matrix products of a step multiply and add, V = 27, K = 3, D = 10."""
    batch, hidden = sizes(case)
    return 6 * batch * hidden * (3 * 10 + 27)


def work(framework: str, case: str) -> None:
    """A framework's process: trains for as many steps as a line on stdin says, until it ends.

    It answers with one line of JSON, the seconds taken and the losses.
    """
    import torch

    from makemore_ext.makemore import MLP, Dataset
    from makemore_ext.makemore.comparison import make_trainer

    torch.set_num_threads(1)
    batch_size, hidden = sizes(case)
    trainer = make_trainer(
        framework,
        MLP.init(hidden=hidden),
        Dataset.load().train,
        batch_size=batch_size,
        lr=0.1,
        seed=1,
    )
    for line in sys.stdin:
        first = len(trainer.losses)
        start = time.perf_counter()
        trainer.train(int(line))
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "losses": trainer.losses[first:]}), flush=True)


class Worker:
    """A framework in a process of its own, on one core."""

    def __init__(self, framework: str, case: str) -> None:
        pin = (
            (lambda: os.sched_setaffinity(0, {core()}))
            if hasattr(os, "sched_setaffinity")
            else None
        )
        self.name = f"{framework}, {case}"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", framework, "--case", case],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=pin,
        )

    def train(self, steps: int) -> dict[str, Any]:
        """Seconds and losses of so many steps more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(steps, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the process failed")
        return json.loads(line)

    def end(self) -> None:
        """Let the process end by itself."""
        self.process.communicate()


def core() -> int:
    """The core that everything is measured on."""
    return max(os.sched_getaffinity(0))


def measure(case: str, frameworks: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds a step of every framework, one value a round."""
    if sizes(case)[0] > MOST_MANUAL:
        frameworks = [name for name in frameworks if name != "manual"]
    workers = {name: Worker(name, case) for name in frameworks}
    first = {name: worker.train(COMPARED_STEPS)["losses"] for name, worker in workers.items()}
    for name, losses in first.items():
        difference = max(abs(a - b) for a, b in zip(losses, first["autograd"], strict=True))
        if not difference <= TOLERANCE:
            raise SystemExit(f"{case}, {name}: its losses differ from autograd's by {difference}")

    steps = {}
    for name, worker in workers.items():
        estimate = worker.train(COMPARED_STEPS)["seconds"] / COMPARED_STEPS
        steps[name] = max(2, math.ceil(seconds / estimate))
        worker.train(steps[name])  # lax.scan is compiled for each number of steps
    taken: dict[str, list[float]] = {name: [] for name in frameworks}
    for index in range(rounds):
        turn = index % len(frameworks)
        for name in frameworks[turn:] + frameworks[:turn]:
            taken[name].append(workers[name].train(steps[name])["seconds"] / steps[name])
    for worker in workers.values():
        worker.end()
    return {"operations": operations(case), "steps": steps, "round_seconds": taken}


def fma_rate(capability: str) -> float:
    """Floating-point operations a second of one core, in the vectors that the kernels use."""
    flags = {
        "avx512": ["-mavx512f", "-mfma", "-DVECTOR_BYTES=64"],
        "avx2": ["-mavx2", "-mfma", "-DVECTOR_BYTES=32"],
        "default": ["-DVECTOR_BYTES=16"],
    }
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "fma_rate")
        compiler = os.environ.get("CXX", "c++").split()
        source = str(FOLDER / "native/fma_rate.cpp")
        subprocess.run([*compiler, "-O2", *flags[capability], source, "-o", program], check=True)
        return float(subprocess.run([program], capture_output=True, check=True).stdout) * 1e9


def report(case: str, result: dict[str, Any]) -> None:
    """Print a case as a table."""
    step = {name: median(rounds) for name, rounds in result["round_seconds"].items()}
    floor = result["operations"] / result["fma_rate"]
    batch, hidden = sizes(case)
    print(f"\nbatch {batch}, {hidden} hidden units; {result['date']}")
    print(
        f"floor {floor * 1e6:.1f} µs: {result['operations'] / 1e6:.2f} MFLOP "
        f"at {result['fma_rate'] / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':14} {'µs a step':>10} {'of the floor':>13} {'FusedMLP is':>13}")
    for name, seconds in step.items():
        times = f"{seconds / floor:8.1f} × {seconds / step['fused_mlp']:9.1f} × faster"
        print(f"{FRAMEWORKS[name]:20}{seconds * 1e6:10.1f} {times}")


def main() -> None:
    """Measure the cases asked for, then print and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES, help="batch x hidden units")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each framework in a round")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = arguments.case or CASES
    if arguments.worker:
        work(arguments.worker, cases[0])
        return

    from makemore_ext._environment import environment
    from makemore_ext.makemore import BACKENDS
    from makemore_ext.makemore.peers import installed_peers

    available = {*BACKENDS, *installed_peers()}
    frameworks = [name for name in FRAMEWORKS if name in available]
    facts = {**environment(), "threads": 1}
    if "jax_jit" in available:
        import jax

        facts["jax"] = jax.__version__
    results = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    for case in cases:
        results[case] = {
            **measure(case, frameworks, arguments.rounds, arguments.seconds),
            "fma_rate": fma_rate(facts["cpu_capability"]),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "environment": facts,
        }
        report(case, results[case])
    content = {"cases": {case: results[case] for case in CASES if case in results}}
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
