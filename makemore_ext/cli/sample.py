"""`makemore-ext sample`: draw names from a trained network."""

import click
import torch

from makemore_ext.cli import options, output
from makemore_ext.makemore import checkpoint
from makemore_ext.makemore import sample as draw


@click.command()
@click.option(
    "--checkpoint",
    "checkpoint_file",
    metavar="FILE",
    required=True,
    help="What `train --checkpoint` wrote.",
)
@click.option("--count", type=click.IntRange(min=0), metavar="N", default=20, help="Names to draw.")
@click.option(
    "--seed",
    type=options.seed_type,
    metavar="N",
    default=options.SAMPLE_SEED,
    help="Seed of the draws.",
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    default=100,
    help="Characters a name is cut at.",
)
@options.json_file
def sample(
    checkpoint_file: str, count: int, seed: int, max_length: int, json_file: str | None
) -> None:
    """Draw new names from a trained network, one a line."""
    saved = checkpoint.load(checkpoint_file)
    generator = torch.Generator().manual_seed(seed)
    names = draw(saved.model, saved.vocabulary, count, generator=generator, max_length=max_length)
    output.print_lines(output.results(json_file), names)
    output.write_json(json_file, {"seed": seed, "samples": names})
