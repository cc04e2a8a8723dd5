import inspect
import sys
from copy import deepcopy
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from makemore_ext import check, reference
from makemore_ext.check import exercises
from makemore_ext.makemore import Dataset

DTYPES = [torch.float32, torch.float64]

# One mistake in every formula of exercise 1, as text: the row, what the formula says, the mistake.
# The gradient of logit_maxes and of b1 is 0 in truth, so a mere factor would not be one.
MISTAKES = [
    ("logprobs", "-1 / n * one_hot(y, V)", "1 / n * one_hot(y, V)"),
    ("probs", "dlogprobs / s.probs", "dlogprobs * s.probs"),
    ("counts_sum_inv", "(dprobs * s.counts).sum", "(dprobs * s.probs).sum"),
    ("counts_sum", "-(s.counts_sum**-2)", "-(s.counts_sum**-1)"),
    ("counts", "s.counts_sum_inv * dprobs + dcounts_sum", "s.counts_sum_inv * dprobs"),
    ("norm_logits", "s.counts * dcounts", "s.probs * dcounts"),
    ("logit_maxes", "-dnorm_logits.sum(1, keepdim=True)", "-dnorm_logits[:, :1]"),
    ("logits", "dlogits = dnorm_logits + ", "dlogits = -dnorm_logits + "),
    ("h", "dlogits @ W2.T", "-dlogits @ W2.T"),
    ("W2", "s.h.T @ dlogits", "(1 - s.h).T @ dlogits"),
    ("b2", "dlogits.sum(0)", "dlogits.mean(0)"),
    ("hpreact", "(1 - s.h**2)", "(1 - s.h)"),
    ("bngain", "(s.bnraw * dhpreact)", "(s.bndiff * dhpreact)"),
    ("bnbias", "dbnbias = dhpreact.sum(0)", "dbnbias = dhpreact.mean(0)"),
    ("bnraw", "bngain * dhpreact", "dhpreact"),
    ("bnvar_inv", "(s.bndiff * dbnraw)", "(s.bnraw * dbnraw)"),
    ("bnvar", "** -1.5", "** -0.5"),
    ("bndiff2", "(1 / (n - 1) * dbnvar)", "(1 / n * dbnvar)"),
    ("bndiff", "2 * s.bndiff * dbndiff2", "s.bndiff * dbndiff2"),
    ("bnmeani", "-dbndiff.sum(0, keepdim=True)", "dbndiff.sum(0, keepdim=True)"),
    ("hprebn", "dbndiff + 1 / n * dbnmeani", "dbndiff + 1 / (n - 1) * dbnmeani"),
    ("embcat", "dhprebn @ W1.T", "-dhprebn @ W1.T"),
    ("W1", "s.embcat.T @ dhprebn", "s.embcat.T @ dhpreact"),
    ("b1", "dhprebn.sum(0)", "dhprebn[0]"),
    ("emb", "dembcat.view_as(s.emb)", "dembcat.view_as(s.emb).flip(1)"),
    ("C", "dC[x[i, k]] += demb[i, k]", "dC[x[i, k]] = demb[i, k]"),
]
FORM_MISTAKES = [
    (
        check.exercise_2,
        "logits, closed form",
        "- one_hot(target, V)) / n",
        "+ one_hot(target, V)) / n",
    ),
    (check.exercise_2, "logits, one-hot form", "p.unsqueeze(2) - 1", "p.unsqueeze(2)"),
    (
        check.exercise_3,
        "hpreact",
        "_normalise(hprebn, eps)[0] + bnbias",
        "_normalise(hprebn, eps)[0]",
    ),
    (check.exercise_3, "hprebn, closed form", "n / (n - 1) * bnraw", "bnraw"),
    (check.exercise_3, "hprebn, broadcast form", "1 / (n - 1) * bnraw", "1 / n * bnraw"),
]


# What reference is made of, each after what it imports.
FILES = (
    reference.parameters,
    reference.checks,
    reference.embedding,
    reference.exercise_1_every_step,
    reference.exercise_2_cross_entropy,
    reference.exercise_3_batch_norm,
    reference,
)


@pytest.fixture(scope="module", autouse=True)
def _names_read_once():
    """The embedded names, read once for all tests of this file."""
    dataset = Dataset.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercises.Dataset, "load", lambda: dataset)
        yield


def with_mistake(monkeypatch, right, wrong):
    """The reference with one piece of its text replaced, each file made anew from its text."""
    sources = [inspect.getsource(file) for file in FILES]
    assert sum(source.count(right) for source in sources) == 1, f"{right!r} must occur once"
    for file, source in zip(FILES, sources, strict=True):
        module = ModuleType(file.__name__)
        monkeypatch.setitem(sys.modules, file.__name__, module)  # for those that import it
        exec(source.replace(right, wrong), vars(module))
    return module


class TestRun:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("hidden", [1, 64, 200])
    def test_all_rows_agree(self, dtype, hidden):
        tables = check.run(dtype=dtype, hidden=hidden)
        assert not [row for rows in tables.values() for row in rows if not row.approximate]

    @pytest.mark.parametrize("batch_size", [8, 33, 256])
    def test_all_rows_agree_at_other_batch_sizes(self, batch_size):
        tables = check.run(batch_size=batch_size, seed=1)
        assert not [row for rows in tables.values() for row in rows if not row.approximate]

    def test_tables(self):
        assert {title: len(rows) for title, rows in check.run().items()} == {
            "Exercise 1: every step by hand": 26,
            "Exercise 2: cross entropy in one expression": 3,
            "Exercise 3: batch norm in one expression": 3,
            "Fused functions": 20,
        }

    def test_names_within_a_table_differ(self):
        for rows in check.run().values():
            assert len({row.name for row in rows}) == len(rows)

    def test_same_seed_same_rows(self):
        assert check.run(seed=3) == check.run(seed=3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": 7}, "batch_size must be at least 8, got 7"),
            ({"hidden": 0}, "hidden must be at least 1, got 0"),
            ({"dtype": torch.float16}, "dtype must be float32 or float64, got torch.float16"),
        ],
    )
    def test_refuses(self, arguments, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            check.run(**arguments)


class TestExercise1:
    @pytest.mark.parametrize("hidden", [64, 200])
    def test_from_the_logits_back_within_1e_8_in_float32(self, hidden):
        rows = check.exercise_1(*check.example(hidden=hidden))
        names = [row.name for row in rows]
        chosen = rows[names.index("logits") : names.index("emb") + 1]
        assert not [row for row in chosen if row.maxdiff > 1e-8]

    @pytest.mark.parametrize(("name", "right", "wrong"), MISTAKES)
    def test_a_mistake_fails_its_row_first(self, monkeypatch, name, right, wrong):
        monkeypatch.setattr(exercises, "reference", with_mistake(monkeypatch, right, wrong))
        rows = check.exercise_1(*check.example())
        assert next(row.name for row in rows if not row.approximate) == name

    def test_every_row_has_its_mistake(self):
        assert [name for name, _, _ in MISTAKES] == [
            row.name for row in check.exercise_1(*check.example())
        ]


@pytest.mark.parametrize(("exercise", "name", "right", "wrong"), FORM_MISTAKES)
def test_a_mistake_in_one_form_fails_its_row_alone(monkeypatch, exercise, name, right, wrong):
    monkeypatch.setattr(exercises, "reference", with_mistake(monkeypatch, right, wrong))
    rows = exercise(*check.example())
    assert [row.name for row in rows if not row.approximate] == [name]


class TestFused:
    def test_a_wrong_correction_fails_batch_norm(self, monkeypatch):
        def biased(*arguments, correction, **options):
            return batch_norm(*arguments, correction=0, **options)

        batch_norm = exercises.batch_norm
        monkeypatch.setattr(exercises, "batch_norm", biased)
        assert failing_functions() == {"batch_norm", "batch_norm tanh"}

    def test_an_activation_left_out_fails_batch_norm_tanh(self, monkeypatch):
        def linear(*arguments, activation, **options):
            return batch_norm(*arguments, activation=None, **options)

        batch_norm = exercises.batch_norm
        monkeypatch.setattr(exercises, "batch_norm", linear)
        assert failing_functions() == {"batch_norm tanh"}

    def test_a_sum_for_a_mean_fails_cross_entropy(self, monkeypatch):
        def summed(input, target):
            return cross_entropy(input, target, reduction="sum")

        cross_entropy = exercises.cross_entropy
        monkeypatch.setattr(exercises, "cross_entropy", summed)
        assert failing_functions() == {"cross_entropy"}

    def test_a_wrong_gradient_fails_embedding(self, monkeypatch):
        def scaled(input, weight):
            output = embedding(input, weight)
            return output.detach() + 2 * (output - output.detach())

        embedding = exercises.embedding
        monkeypatch.setattr(exercises, "embedding", scaled)
        assert failing_functions() == {"embedding"}


def failing_functions():
    rows = check.fused(*check.example())
    return {row.name.partition(":")[0] for row in rows if not row.approximate}


@pytest.mark.parametrize(
    "comparisons", [check.exercise_1, check.exercise_2, check.exercise_3, check.fused]
)
def test_nothing_given_is_changed(comparisons):
    parameters, x, y = check.example()
    before = deepcopy((parameters, x, y))
    comparisons(parameters, x, y)
    assert_close((*parameters, x, y), (*before[0], *before[1:]), rtol=0, atol=0)


def test_no_gradient_is_left_on_the_parameters():
    parameters, x, y = check.example()
    check.fused(parameters, x, y)
    assert [parameter.grad for parameter in parameters] == [None] * 7
