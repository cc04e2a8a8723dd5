"""A reader's own gradients against autograd."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from makemore_ext.check.comparison import Comparison, compare, ratio
from makemore_ext.check.exercises import differentiate, summed
from makemore_ext.reference import Parameters

# The 26 names, in the order of the backward pass.
NAMES = (
    *("logprobs", "probs", "counts_sum_inv", "counts_sum", "counts", "norm_logits", "logit_maxes"),
    *("logits", "h", "W2", "b2", "hpreact", "bngain", "bnbias", "bnraw", "bnvar_inv", "bnvar"),
    *("bndiff2", "bndiff", "bnmeani", "hprebn", "embcat", "W1", "b1", "emb", "C"),
)


def gradients(
    gradients: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    parameters: Parameters | Mapping[str, Tensor] | Iterable[Tensor],
    *,
    verbose: bool = True,
) -> list[Comparison]:
    """Compare gradients of the notebook's network that you derived with those of autograd.

    The network is that of `makemore_ext.reference.forward`: embedding, linear layer, batch norm
    with the unbiased variance and eps 1e-5, tanh, linear layer, mean cross entropy.

    Args:
        gradients: Any of the 26, by the notebook's names, as ``{"logits": dlogits, "W2": dW2}``, or
            with the d: ``{"dlogits": dlogits}``. Each of the shape of what it belongs to, where a
            dimension of 1 may be there or not, as in [1, H] and [H].
        x: Indices of the preceding characters, int64 [n, context], n >= 2.
        y: Index of the character that follows, int64 [n].
        parameters: C, W1, b1, W2, b2, bngain and bnbias, by name or in this order; they may be
            [1, H] too. They are not changed, nor are their ``.grad``.
        verbose: Whether to print the table.

    Returns:
        A row for each, in the order of the backward pass. A gradient that is not approximate is
        named in the table's last line, and its remark says what is off: a shape, a factor, or the
        element that is furthest.

    Raises:
        ValueError: A name is not among the 26, or a shape of x, y or the parameters does not fit.
        TypeError: A gradient is no tensor, or of another dtype than the parameters; x or y is not
            int64.
        IndexError: x or y holds an index outside 0 … V-1.
    """
    given = {_name(key): (key, gradient) for key, gradient in gradients.items()}
    found = differentiate(_parameters(parameters), x, y).gradients
    rows = []
    for name in NAMES:
        if name in given:
            key, gradient = given[name]
            rows.append(_row(key, gradient, found[name], len(x), summed(name, found)))
    if verbose:
        print("\n".join(lines(rows)))
    return rows


def lines(rows: list[Comparison]) -> list[str]:
    """The rows as the lines of a table, and what came of them."""
    cells = [("name", "exact", "approximate", "maxdiff", "remark")]
    for row in rows:
        exact, approximate = ("yes" if value else "no" for value in (row.exact, row.approximate))
        cells.append((row.name, exact, approximate, f"{row.maxdiff:.3g}", row.remark))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = [
        f"{name:{widths[0]}}  {exact:>{widths[1]}}  {approximate:>{widths[2]}}  "
        f"{maxdiff:>{widths[3]}}  {remark}".rstrip()
        for name, exact, approximate, maxdiff, remark in cells
    ]
    wrong = [row.name for row in rows if not row.approximate]
    agreeing = f"{len(rows) - len(wrong)} of {len(rows)} agree with autograd"
    return [*table, f"{agreeing}; off: {', '.join(wrong)}" if wrong else agreeing]


def _name(key: str) -> str:
    name = key if key in NAMES else key.removeprefix("d")
    if name not in NAMES:
        names = ", ".join(NAMES)
        raise ValueError(
            f"gradients must be named as {names}, with a d before it or not, got {key!r}"
        )
    return name


def _parameters(given: Parameters | Mapping[str, Tensor] | Iterable[Tensor]) -> Parameters:
    """With [H] for [1, H]."""
    values = [given[name] for name in Parameters._fields] if isinstance(given, Mapping) else given
    parameters = Parameters(*values)
    vectors = {name: getattr(parameters, name) for name in ("b1", "b2", "bngain", "bnbias")}
    rows = {name: vector.squeeze(0) for name, vector in vectors.items() if vector.dim() == 2}
    return parameters._replace(**rows)


def _row(name: str, gradient: Tensor, expected: Tensor, n: int, terms: float) -> Comparison:
    """Of a gradient in its own shape, which need not be right."""
    if not isinstance(gradient, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(gradient).__name__}")
    if gradient.dtype != expected.dtype:
        raise TypeError(f"{name} must be {expected.dtype} as the parameters, got {gradient.dtype}")
    gradient = gradient.detach()
    if gradient.squeeze().shape == expected.squeeze().shape:  # [1, H] for [H], or the reverse
        gradient = gradient.reshape(expected.shape)
        row = compare(name, gradient, expected, terms=terms)
        factor = None if row.approximate else ratio(gradient, expected)
        return row if factor is None else row._replace(remark=row.remark + _known(factor, n))
    remark = (
        f"is {[*gradient.shape]}, must be {[*expected.shape]}{_hint(gradient, expected, terms)}"
    )
    return Comparison(name, False, False, torch.inf, remark)


def _known(factor: float, n: int) -> str:
    """Which factor of the notebook's formulas it is, where it is one."""
    candidates = {
        "n": n,
        "1/n": 1 / n,
        "n - 1": n - 1,
        "1/(n - 1)": 1 / (n - 1),
        "n/(n - 1)": n / (n - 1),
        "(n - 1)/n": (n - 1) / n,
    }
    near = [name for name, value in candidates.items() if abs(factor / value - 1) < 1e-4]
    return f": {near[0]}" if near else ""


def _hint(gradient: Tensor, expected: Tensor, terms: float) -> str:
    """What makes another shape right, where something simple does."""

    def is_right(other: Tensor) -> bool:
        return compare("", other.reshape(expected.shape), expected, terms=terms).approximate

    if gradient.dim() == 2 and gradient.mT.shape == expected.shape:
        return ": is transposed" if is_right(gradient.mT) else ""
    for dim in range(gradient.dim()):
        total = gradient.sum(dim)
        if total.numel() == expected.numel() and is_right(total):
            return f": the sum over dimension {dim} is missing"
    return ""
