"""What `check --html` writes: one page that needs nothing beside it, in light and dark."""

import base64
import html
from collections.abc import Mapping, Sequence

from makemore_ext import plots
from makemore_ext.check import Comparison
from makemore_ext.cli import output

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; --off: #b3261e; }}
  @media (prefers-color-scheme: dark) {{ :root {{ --off: #ff8a80; }} }}
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
    padding: 0 1rem; }}
  table {{ border-collapse: collapse; margin: 0.5rem 0 2rem; }}
  th, td {{ padding: 0.15rem 0.8rem; text-align: right; font-variant-numeric: tabular-nums; }}
  th {{ border-bottom: 1px solid gray; }}
  th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left; }}
  tr.off {{ color: var(--off); font-weight: bold; }}
  img {{ max-width: 100%; }}
  footer {{ color: gray; font-size: 0.85rem; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<h2>Size and error of every gradient</h2>
<p>The largest element of each gradient of exercise 1, and its largest difference from autograd's.
What differs by a rounding lies near the bar, the element times the dtype's eps. The true gradients
of logit_maxes and b1 are 0: all of theirs is rounding.</p>
<img alt="A row for each of the 26 gradients" src="{picture}">
{tables}
<p>Exact: equal bit for bit. Approximate: within 32 eps of the largest element. Eps: the distance
from 1 to the next number of the dtype.</p>
<footer>{provenance}</footer>
</html>
"""
_COLUMNS = ("name", "exact", "approximate", "maxdiff", "remark")


def page(
    tables: Mapping[str, Sequence[Comparison]],
    magnitudes: Mapping[str, tuple[float, float]],
    eps: float,
    summary: str,
) -> str:
    """The tables of `check`, and a picture of the gradients' magnitudes; see `plots.magnitudes`."""
    return _PAGE.format(
        title="Gradients by hand, and fused, against autograd",
        summary=html.escape(summary),
        picture=_picture(magnitudes, eps),
        tables="\n".join(_table(title, rows) for title, rows in tables.items()),
        provenance=html.escape(output.provenance()),
    )


def _table(title: str, rows: Sequence[Comparison]) -> str:
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    body = "\n".join(_row(row) for row in rows)
    return f"<h2>{html.escape(title)}</h2>\n<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _row(row: Comparison) -> str:
    cells = (row.name, output.yes(row.exact), output.yes(row.approximate), f"{row.maxdiff:.3g}")
    line = "".join(f"<td>{html.escape(cell)}</td>" for cell in (*cells, row.remark))
    return f"<tr>{line}</tr>" if row.approximate else f'<tr class="off">{line}</tr>'


def _picture(magnitudes: Mapping[str, tuple[float, float]], eps: float) -> str:
    with plots.style():
        drawn = plots.svg(plots.magnitudes(magnitudes, eps))
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()
