"""`makemore-ext check`: the gradients by hand and the fused ones against autograd."""

from pathlib import Path
from typing import Any

import click
import torch

from makemore_ext import check as checks
from makemore_ext.cli import html, options, output


@click.command()
@options.hidden(default=64)
@options.batch_size(checks.MIN_BATCH_SIZE)
@options.seed
@options.dtype
@options.json_file
@click.option(
    "--html",
    "html_file",
    type=options.PlotFile((".html",)),
    metavar="FILE",
    help="Write a page with the tables and a picture.",
)
@options.threads()
def check(json_file: str | None, html_file: str | None, **settings: Any) -> None:
    """Check every gradient against autograd.

    The tables are those of exercises 1 to 3, by hand, and of the fused functions. Exact is equal
    bit for bit, approximate is within 32 eps of the largest element, and the remark says what
    a difference comes from. Fails where a row is not approximate.
    """
    tables = checks.run(**settings)
    console = output.results(json_file)
    for title, comparisons in tables.items():
        rows = [
            (
                row.name,
                output.yes(row.exact),
                output.yes(row.approximate),
                f"{row.maxdiff:.3g}",
                row.remark,
            )
            for row in comparisons
        ]
        columns = ("name", "exact", "approximate", "maxdiff", "remark")
        output.print_table(console, rows, title=title, columns=columns, prose=("remark",))

    count = sum(map(len, tables.values()))
    wrong = [
        f"{title}: {comparison.name}"
        for title, comparisons in tables.items()
        for comparison in comparisons
        if not comparison.approximate
    ]
    summary = f"{count - len(wrong)} of {count} rows agree with autograd"
    console.print(summary)
    if html_file is not None:
        eps = torch.finfo(settings["dtype"]).eps
        text = html.page(tables, checks.magnitudes(*checks.example(**settings)), eps, summary)
        Path(html_file).write_text(text, encoding="utf-8")
    output.write_json(
        json_file,
        {
            "tables": {
                title: [comparison._asdict() for comparison in comparisons]
                for title, comparisons in tables.items()
            },
            "rows": count,
            "agreeing": count - len(wrong),
        },
    )
    if wrong:
        raise click.ClickException(f"not as autograd has it: {'; '.join(wrong)}")
