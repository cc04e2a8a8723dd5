"""Two processes: synchronised batch norm, and cross entropy of sharded classes.

    python benchmarks/distributed.py [--quick]

Each process has one thread, the group is gloo's, and both are on this machine, so a message is a
copy through the loopback device. Batch norm: forward and backward of the layer, and a training
step of ResNet-20 under DistributedDataParallel. torch's SyncBatchNorm takes no CPU tensors, so
torch's side is what one has there: batch norm of each process by itself. Cross entropy: forward and
backward of the loss, float32 and bfloat16, beside gathering all logits for torch's. The peak is
that of one process beyond what it held before, with no memory kept for results.
"""

import argparse
import ctypes
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import measure
import models
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import makemore_ext as mx
from makemore_ext.bench import Contenders, interleaved

PROCESSES, ROUNDS, CALLS = 2, 11, 3
TORCH, ALONE, OURS = "torch", "makemore_ext, each by itself", "makemore_ext"
MESSAGE, MESSAGE_DOUBLES = "all_reduce", 4101  # of batch norm, forward
LAYERS = ((1024, 256), (16, 64, 56, 56))  # rows of each process
LOGITS = ((512, 32000), (2048, 50304))  # classes of all
DTYPES = (torch.float32, torch.bfloat16)

Step = Callable[[], tuple[Tensor, ...]]


def layer(shape: tuple[int, ...]) -> Contenders:
    """Forward and backward of batch norm."""
    input = torch.randn(shape, requires_grad=True)
    weight, bias = (torch.ones(shape[1], requires_grad=True) for _ in range(2))
    running = torch.zeros(shape[1]), torch.ones(shape[1])
    upstream = torch.randn(shape)

    def step(function: Callable[..., Tensor]) -> Step:
        def run() -> tuple[Tensor, ...]:
            output = function(input, *running, weight, bias, True)
            return torch.autograd.grad(output, (input, weight, bias), upstream)

        return run

    message = torch.zeros(MESSAGE_DOUBLES, dtype=torch.float64)
    return {
        TORCH: step(F.batch_norm),
        ALONE: step(mx.batch_norm),
        OURS: step(mx.sync_batch_norm),
        MESSAGE: lambda: dist.all_reduce(message),
    }


def resnet() -> Contenders:
    """A training step of ResNet-20, of other images in each process."""
    everybody = dist.group.WORLD

    def step(change: Callable[[nn.Module], Any]) -> Callable[[], Any]:
        torch.manual_seed(0)
        network, (images, target) = models.resnet()
        model = models.WithLoss(network)
        change(model)
        parallel = DistributedDataParallel(model)
        return models.stepper(parallel, False, (images + dist.get_rank(), target))

    return {
        TORCH: step(lambda model: model),
        ALONE: step(lambda model: mx.convert(model, fuse_activations=True)),
        OURS: step(lambda model: mx.convert(model, fuse_activations=True, process_group=everybody)),
    }


def loss(shape: tuple[int, int], dtype: torch.dtype) -> dict[str, Step]:
    """Forward and backward of cross entropy, and of the gathering where there is one."""
    rows, classes = shape
    torch.manual_seed(dist.get_rank())
    shard = torch.randn(rows, classes // PROCESSES).to(dtype).requires_grad_()
    target = torch.arange(rows) * 7919 % classes

    def gathered() -> tuple[Tensor, ...]:
        shards = [torch.empty_like(shard) for _ in range(PROCESSES)]
        dist.all_gather(shards, shard.detach())
        shards[dist.get_rank()] = shard
        return torch.autograd.grad(F.cross_entropy(torch.cat(shards, 1), target), shard)

    def sharded() -> tuple[Tensor, ...]:
        return torch.autograd.grad(mx.parallel_cross_entropy(shard, target), shard)

    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(sharded(), gathered(), rtol=8 * eps, atol=eps / rows)
    return {TORCH: gathered, OURS: sharded}


def measured(contenders: Contenders, rounds: int) -> dict[str, Any]:
    """Seconds, and the peak of memory in bytes, of each."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)  # glibc's
    seconds = interleaved(contenders, rounds, calls=CALLS)
    peaks = {}
    for name, step in contenders.items():
        mx.empty_cache()
        malloc_trim(0)
        peaks[name] = measure.peak_memory(step)
    return {"seconds": seconds, "peak_bytes": peaks}


def results(rounds: int) -> list[dict[str, Any]]:
    """Of every case, in the process that this is."""
    found = [
        {"what": "batch norm", "shape": list(shape), **measured(layer(shape), rounds)}
        for shape in LAYERS
    ]
    found.append({"what": "ResNet-20", **measured(resnet(), rounds)})
    for shape in LOGITS:
        for dtype in DTYPES:
            case = {"what": "cross entropy", "shape": list(shape), "dtype": str(dtype)[6:]}
            found.append({**case, **measured(loss(shape, dtype), rounds)})
    return found


def run(rank: int, store: str, rounds: int, queue: Any) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    found = results(rounds)
    if rank == 0:
        queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """A row of the table."""
    shape = "×".join(map(str, result.get("shape", [])))
    name = " ".join(filter(None, (result["what"], shape, result.get("dtype"))))
    seconds, peak = result["seconds"], result["peak_bytes"]
    return {
        "": name,
        "torch, ms": seconds[TORCH] * 1e3,
        "ours unsynchronised, ms": seconds[ALONE] * 1e3 if ALONE in seconds else None,
        "ours, ms": seconds[OURS] * 1e3,
        "one message, ms": seconds[MESSAGE] * 1e3 if MESSAGE in seconds else None,
        "torch / ours": seconds[TORCH] / seconds[OURS],
        "peak, torch, MiB": peak[TORCH] / 2**20,
        "peak, ours, MiB": peak[OURS] / 2**20,
    }


def main() -> None:
    """Measures, prints, and writes results/distributed.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, no result file")
    arguments = parser.parse_args()
    queue = get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        rounds = 3 if arguments.quick else ROUNDS
        store = str(Path(folder) / "store")
        spawn(run, (store, rounds, queue), PROCESSES)
        found = queue.get()
    measure.print_rows("two processes, gloo", [summary(result) for result in found])
    if not arguments.quick:
        measure.write("distributed", {"processes": PROCESSES, "threads": 1, "results": found})


if __name__ == "__main__":
    main()
