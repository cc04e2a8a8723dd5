"""The pictures, as far as a test sees them; they are the same every time."""

import math
import re

import pytest

from makemore_ext import plots
from makemore_ext.plots import Error, Panel, Series

TIMES = {"theirs": 3e-3, "ours": 2.5e-5}
FIGURES = {
    "speeds": lambda: plots.speeds([Panel("a step", TIMES, "ours", 1e-5)] * 3, columns=2),
    "against_size": lambda: plots.against_size(
        {
            "float32": {
                "theirs": Series({1e3: 1e-5, 1e6: 1e-2}),
                "ours": Series({1e3: 1e-6, 1e6: 1e-3}, ours=True),
                "copy": Series({1e3: 1e-7, 1e6: 1e-4}, is_limit=True),
            }
        },
        "logits",
    ),
    "losses": lambda: plots.losses(
        [3.3 - i / 1000 for i in range(500)], validation={250: 3.0, 500: 2.8}, drop=300
    ),
    "losses that diverged": lambda: plots.losses([3.3, math.inf, math.nan]),
    "errors": lambda: plots.errors({"float32": [Error("mean", 0.5, 3.0)]}, "roundings"),
    "magnitudes": lambda: plots.magnitudes({"h": (1e-3, 1e-10), "W2": (1.0, 0.0)}, 1e-7),
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_the_same_picture_for_the_same_data(figure, tmp_path):
    files = [tmp_path / name for name in ("once.svg", "again.svg")]
    for file in files:
        with plots.style():
            plots.save(figure(), str(file), "what was drawn")
    once, again = (file.read_text(encoding="utf-8") for file in files)
    assert once == again
    assert "what was drawn" in once


def test_a_dark_page_has_a_dark_picture():
    with plots.style():
        drawn = plots.svg(FIGURES["speeds"]())
    (rules,) = re.findall(r"<style>@media \(prefers-color-scheme:dark\)\{(.*)\}</style>", drawn)
    selected = re.findall(r'\[style\*="([^"]*)"\]', rules)
    assert len(selected) == 6
    used = {selector for selector in selected if selector in drawn.replace(rules, "")}
    assert {"fill: #ffffff", "fill: #1f2328", "stroke: #c8ccd1"} <= used


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.0, "2 s"),
        (1.2345, "1.23 s"),
        (0.09996, "100 ms"),
        (2.31e-5, "23.1 µs"),
        (9.199e-4, "920 µs"),
        (3e-8, "30 ns"),
        (0.0, "0 ns"),
    ],
)
def test_duration(seconds, text):
    assert plots.duration(seconds) == text
