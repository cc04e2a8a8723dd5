"""`makemore-ext check`: the gradients by hand and the fused ones against autograd."""

from typing import Any

import click

from makemore_ext import check as checks
from makemore_ext.cli import options, output


@click.command()
@options.hidden(default=64)
@options.batch_size(checks.MIN_BATCH_SIZE)
@options.seed
@options.dtype
@options.json_file
@options.threads()
def check(json_file: str | None, **settings: Any) -> None:
    """Check every gradient against autograd.

    The tables are those of exercises 1 to 3, by hand, and of the fused functions. Exact is equal
    bit for bit, approximate is as close as torch.allclose asks. Fails where a row is not
    approximate.
    """
    tables = checks.run(**settings)
    console = output.results(json_file)
    for title, comparisons in tables.items():
        rows = [
            (row.name, output.yes(row.exact), output.yes(row.approximate), f"{row.maxdiff:.3g}")
            for row in comparisons
        ]
        output.print_table(
            console, rows, title=title, columns=("name", "exact", "approximate", "maxdiff")
        )

    count = sum(map(len, tables.values()))
    wrong = [
        f"{title}: {comparison.name}"
        for title, comparisons in tables.items()
        for comparison in comparisons
        if not comparison.approximate
    ]
    console.print(f"{count - len(wrong)} of {count} rows agree with autograd")
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
