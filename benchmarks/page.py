"""Writes what the result files say: benchmarks/README.md, figures in four other pages, pictures.

    python benchmarks/page.py

Every figure is computed from the files in results/, those in sentences too. In the project's README
and in the pages of docs they stand between two comments.
"""

from pathlib import Path
from typing import Any

import measure
import models
import sections
import small_sizes
from sections import pictures
from sections.prose import beside, table, where, wrapped
from sections.training import NOTEBOOK, step_seconds
from training_step import sizes

from makemore_ext.plots import duration

PAGE = Path(__file__).with_name("README.md")
README = PAGE.parents[1] / "README.md"
DOCS = PAGE.parents[1] / "docs"
DISTRIBUTED, ACCURACY = DOCS / "distributed.md", DOCS / "accuracy.md"
SPEED = DOCS / "speed.md"
BEFORE, AFTER = "<!-- benchmarks/page.py writes from here -->\n\n", "\n<!-- to here -->"
LOGITS, IMAGES = (1024, 50257), (32, 64, 56, 56)
PEERS = ("makemore_ext", "eager torch", "torch.compile", "JAX `lax.scan`")


def page() -> str:
    """benchmarks/README.md."""
    head = """\
# Benchmarks

<!-- Made by `python benchmarks/page.py` from the files in results/: change what is there. -->

How long the package takes, beside torch, torch.compile and JAX. `make benchmark` measures all of it
and makes this page from the files in `benchmarks/results`. Medians of rounds in which the
contenders take turns; the machine has neighbours, so only the ratios within a row stand.
"""
    parts = (
        sections.of_training_step(),
        sections.of_backends(),
        sections.of_cross_entropy(),
        sections.of_batch_norm(),
        sections.of_models(),
        sections.of_small_sizes(),
        sections.of_kernels(),
        sections.of_cuda(),
    )
    return wrapped("\n".join((head, *parts)))


def seconds_of(record: dict[str, Any], *shape: int) -> dict[str, float]:
    """Of the results of this shape the first one's times: float32, contiguous."""
    return next(row["seconds"] for row in record["results"] if row["shape"] == list(shape))


def under_jemalloc(losses: dict[str, Any], norms: dict[str, Any]) -> str:
    """How the large rows of the README stand where torch's memory is kept too."""
    kept = [record["under_jemalloc"] for record in (losses, norms)]
    if None in kept:
        return ""
    loss, norm = seconds_of(kept[0], *LOGITS), seconds_of(kept[1], *IMAGES)
    loss_ratio = min(loss["eager"], loss["compile"]) / loss["fresh"]
    norm_ratio = min(norm["eager tanh"], norm["compile tanh"]) / norm["ours tanh"]
    return f"""\
Part of that is memory, which our results use again: under jemalloc, which keeps torch's as well,
this cross entropy {beside(loss_ratio)} as the faster of its peers, this batch norm
{beside(norm_ratio)}.
"""


def of_models(record: dict[str, Any]) -> str:
    """How much faster whole models are, with the most threads."""
    threads = max(result["threads"] for result in record["results"])
    said = []
    for result in record["results"]:
        if result["threads"] == threads:
            eager, compiled = (
                beside(models.ratio(result, how)) for how in (models.EAGER, models.COMPILED)
            )
            said.append(f"{result['model']} {eager} eager, {compiled} compiled")
    return f"""\
A step of whole models after `mx.convert`, {threads} threads: {"; ".join(said)}, by
`benchmarks/models.py`.
"""


def small_ratio(record: dict[str, Any], operation: str, call: str, *shape: int) -> float:
    """How many times as fast as torch's a call in float32 is, forward and backward."""
    return next(
        small_sizes.ratios(result)[small_sizes.BOTH]
        for result in record["results"]
        if result["operation"] == operation
        and (result["call"], result["dtype"]) == (call, "float32")
        and result["shape"] == list(shape)
    )


def readme_figures() -> str:
    """The figures of README.md."""
    case = measure.load("training_step")["cases"][NOTEBOOK]
    losses, norms = measure.load("cross_entropy"), measure.load("batch_norm")
    small, whole = measure.load("small_sizes"), measure.load("models")
    step = step_seconds(case)
    loss, norm = seconds_of(losses, *LOGITS), seconds_of(norms, *IMAGES)
    small_loss = small_ratio(small, "cross entropy", "mean, smoothing 0", 32, 27)
    small_norm = small_ratio(small, "batch norm", "function, training", 32, 64)
    batch, hidden = sizes(NOTEBOOK)

    def row(what: str, command: str, *seconds: float) -> dict[str, str | None]:
        figures: list[str | None] = [*map(duration, seconds), None]  # JAX is in one of them
        return {"float32": what, **dict(zip(PEERS, figures, strict=False)), "by": f"`{command}`"}

    rows = [
        row(
            f"a training step of the network, batch {batch}, {hidden} hidden units",
            "benchmarks/training_step.py",
            *(step[name] for name in ("fused_mlp", "autograd", "torch_compile", "jax_scan")),
        ),
        row(
            f"cross entropy of {'×'.join(map(str, LOGITS))} logits, forward and backward",
            "benchmarks/cross_entropy.py",
            *(loss[name] for name in ("fresh", "eager", "compile")),
        ),
        row(
            f"batch norm and tanh of {'×'.join(map(str, IMAGES))}, forward and backward",
            "benchmarks/batch_norm.py",
            *(norm[f"{name} tanh"] for name in ("ours", "eager", "compile")),
        ),
    ]
    return f"""\
{table(rows)}

{under_jemalloc(losses, norms)}{of_models(whole)}Small tensors, beside eager torch: cross entropy
of 32×27 {beside(small_loss)}, batch norm of 32×64 {beside(small_norm)}, forward and backward, by
`benchmarks/small_sizes.py`.

The step: {where(case)}. The others: {where(losses, norms, whole)}. Small tensors: {where(small)}.
[All tables](benchmarks/README.md), other sizes and bfloat16 too.
"""


def with_figures(path: Path, figures: str) -> str:
    """A page with other figures between the comments."""
    before, rest = path.read_text(encoding="utf-8").split(BEFORE)
    _, after = rest.split(AFTER)
    return f"{before}{BEFORE}{wrapped(figures)}{AFTER}{after}"


def pages() -> dict[Path, str]:
    """Every page as the result files have it."""
    return {
        PAGE: page(),
        README: with_figures(README, readme_figures()),
        DISTRIBUTED: with_figures(DISTRIBUTED, sections.of_distributed()),
        SPEED: with_figures(SPEED, sections.of_questions()),
        ACCURACY: with_figures(ACCURACY, sections.of_accuracy()),
    }


def main() -> None:
    """Writes the pages, and draws the pictures on them."""
    pictures.draw()
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
