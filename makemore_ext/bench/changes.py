"""What changed between two measurements, beyond their noise."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import NamedTuple

LEAST = 0.1  # of a ratio; alignment and neighbours move it by as much from one process to another


class Change(NamedTuple):
    """How the time of this package beside torch's changed.

    Attributes:
        question: What was measured.
        before: Torch's time over ours, the median of rounds.
        after: The same, later.
        verdict: "faster" or "slower" where the middle halves of the rounds' ratios do not overlap,
            and their medians differ by more than 10 %; else "".
    """

    question: str
    before: float
    after: float
    verdict: str


def changes(before: Iterable[Mapping], after: Iterable[Mapping]) -> list[Change]:
    """Compare what two runs of `makemore-ext bench --all` measured.

    Ratios within a round are compared, not seconds: both contenders of a round have the same
    machine in the same state, and the files may come from two machines.

    Args:
        before: Rows, each with "question" and "seconds", those of rounds by contender.
        after: Rows likewise. What only one of both has is left out.
    """
    earlier = {row["question"]: ratios(row["seconds"]) for row in before}
    return [
        _change(row["question"], earlier[row["question"]], ratios(row["seconds"]))
        for row in after
        if row["question"] in earlier
    ]


def ratios(seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """Torch's time over ours, of each round."""
    pairs = zip(seconds["torch"], seconds["makemore_ext"], strict=True)
    return [torch / ours for torch, ours in pairs]


def _change(question: str, before: list[float], after: list[float]) -> Change:
    old, new = median(before), median(after)
    (old_low, old_high), (new_low, new_high) = _middle_half(before), _middle_half(after)
    verdict = ""
    if new_low > old_high and new > old * (1 + LEAST):
        verdict = "faster"
    elif new_high < old_low and new < old * (1 - LEAST):
        verdict = "slower"
    return Change(question, old, new, verdict)


def _middle_half(ratios: list[float]) -> tuple[float, float]:
    if len(ratios) == 1:
        return ratios[0], ratios[0]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return low, high
