"""Two processes: batch norm synchronised or not, cross entropy sharded or gathered."""

import distributed
import measure

from sections.prose import table, where


def of_distributed() -> str:
    """The figures of docs/distributed.md."""
    record = measure.load("distributed")
    return f"""\
Forward and backward, by `python benchmarks/distributed.py`, in
[distributed.json](../benchmarks/results/distributed.json): two processes of gloo on one machine, a
thread each, so that a message is a copy. torch's batch norm is not synchronised, as its
SyncBatchNorm takes no CPU tensors: what ours takes longer is messages, two for each layer, which
gloo takes long for whatever their size. ResNet-20 is a training step under
DistributedDataParallel. torch's cross entropy is
that of the logits of both, which it gathers. Peaks are those of one process. {where(record)}.

{table([distributed.summary(result) for result in record["results"]])}
"""
