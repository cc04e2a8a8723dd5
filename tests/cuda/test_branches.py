"""Every branch that a size opens is taken by a call of the tables, and every branch of the kernels
goes both ways."""

import functools

import batch_norm_table
import branch_facts
import branches
import cross_entropy_table
import embedding_table
import pytest
from calls import CALLS
from cuda_bench import Coverage, Device, toolkit
from launched import CSRC, launchers, needs_nvcc

pytestmark = needs_nvcc

compiled = functools.cache(launchers)

# Of each list: the launchers, the calls, and where facts of one come from.
LISTS = {
    "columns": ("batch_norm", batch_norm_table.CASES, branch_facts.of_batch_norm),
    "planes": ("batch_norm", batch_norm_table.CASES, branch_facts.of_batch_norm),
    "cross_entropy": ("cross_entropy", cross_entropy_table.CASES, branch_facts.OfCrossEntropy),
    "scale": ("cross_entropy", cross_entropy_table.SCALES, branch_facts.OfScale),
    "embedding": ("embedding", embedding_table.CASES, branch_facts.OfEmbedding),
}
BRANCHES = [
    pytest.param(list_, name, call, holds, id=f"{list_}: {name}")
    for list_ in LISTS
    for name, (call, holds) in getattr(branches, list_.upper()).items()
]


@pytest.mark.parametrize(("list_", "name", "call", "holds"), BRANCHES)
def test_a_branch_that_a_size_opens_is_taken(list_, name, call, holds):
    operation, table, facts_of = LISTS[list_]
    [case] = [case for case in table if case.id == call]
    facts = facts_of(case, compiled(operation))
    assert holds(facts), vars(facts)


# What no call here takes, by how its line begins: the kernels that have it, and why.
EXCEPTIONS = {
    "if (warp >= lanes) {": (
        ("4Half", "8BFloat16"),
        "a vector of two-byte elements has as many lanes as a block has warps",
    ),
    "isinf(variance) ?": (
        ("4Half", "8BFloat16", "PassIfE"),
        "only of doubles the variance may not fit a double",
    ),
    "const T* result = gradients.grad_input.data": (
        ("batch_norm_apply_planes",),
        "what applies writes the gradient of the input: it is not launched without",
    ),
    "for (; row + run - task.step < task.end;": (
        ("batch_norm_sum_columns",),
        "a second run takes 262,000 rows: see `several runs and a rest`, one of the large calls",
    ),
    "for (int i = first; i < count; i += warps)": (
        ("cross_entropy_rowsId",),
        "a second row a warp takes 8,192 of them, which for doubles is a large call",
    ),
    "for (; c < classes; c += step_)": (
        ("cross_entropy_columns",),
        "fewer than go at once are left: no more than the compiler unrolls",
    ),
}


def source_line(operation, place):
    """What stands at `file:line`; compilers have code of no line, too."""
    name, line = place.split(":")
    folders = (CSRC / "cuda" / operation, CSRC / "cuda", CSRC)
    file = next(folder / name for folder in folders if (folder / name).is_file())
    return file.read_text().splitlines()[int(line) - 1].strip() if int(line) else ""


def exception(operation, branch):
    """How the line begins for which there is an exception, or "division"."""
    if branch.missed.opcode in ("div", "rem") and branch.missed.type in ("s64", "u64"):
        return "division"  # what fits 32 bits is divided by other code, and no size here does not
    line = source_line(operation, branch.branch.source)
    for begin, (kernels, _) in EXCEPTIONS.items():
        if line.startswith(begin) and any(name in branch.kernel for name in kernels):
            return begin
    return None


@pytest.mark.long
@pytest.mark.skipif(
    toolkit.missing() is None and toolkit.release() != "13.0",
    reason="the exceptions are of what nvcc 13.0 makes of loops",
)
def test_every_branch_of_the_kernels_goes_both_ways():
    missed, used = set(), set()
    for operation in ("batch_norm", "cross_entropy", "embedding"):
        coverage = Coverage()
        for call in CALLS:
            if call.operation == operation and not call.is_large:
                call.check(compiled(operation), Device(coverage=coverage, races=False))
        functions = compiled(operation).module.functions.values()
        assert coverage.launched() == {function.name for function in functions if function.entry}
        for branch in coverage.one_way():
            found = exception(operation, branch)
            used.add(found)
            if found is None:
                missed.add(str(branch))
    assert not missed, "\n".join(sorted(missed))
    assert used == {*EXCEPTIONS, "division"}
