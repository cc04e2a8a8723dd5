"""`makemore-ext info`: versions, processor and threads."""

import click

from makemore_ext import build_info
from makemore_ext._environment import environment
from makemore_ext.cli import options, output


@click.command()
@options.json_file
@options.threads()
def info(json_file: str | None) -> None:
    """Print versions, processor and threads.

    They belong into every report of a bug or of a timing.
    """
    rows = [(name, _text(value)) for name, value in environment().items()]
    rows.append(("autograd", build_info()["autograd"]))
    output.print_table(output.results(json_file), rows)
    output.write_json(json_file, {})


def _text(value: object) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
