"""The command line: each command in a file of its own, which parses, calls and prints."""

import click

from makemore_ext.cli.bench import bench_command
from makemore_ext.cli.check import check
from makemore_ext.cli.compare import compare
from makemore_ext.cli.info import info
from makemore_ext.cli.sample import sample
from makemore_ext.cli.train import train


@click.group(
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.version_option(package_name="makemore_ext", message="%(package)s %(version)s")
@click.pass_context
def cli(context: click.Context, /) -> None:
    """Fused cross entropy and batch norm for PyTorch, and the network they were derived from."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (check, train, sample, compare, bench_command, info):
    cli.add_command(command)
