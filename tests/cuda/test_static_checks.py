"""The kernels of csrc/cuda compile cleanly everywhere, within a budget, with 16-byte accesses."""

import pytest
from cuda_bench import static_checks, toolkit
from launched import CSRC, needs_nvcc

pytestmark = needs_nvcc

needs_nvdisasm = pytest.mark.skipif(
    toolkit.tool("nvdisasm") is None, reason="no nvdisasm: pip install 'nvidia-cuda-nvdisasm>=13.2'"
)
# Kernel: most registers a thread, most static bytes of shared memory a block. 64 registers leave a
# multiprocessor room for 1,024 threads; instances for double may have half as many.
BUDGETS = {
    "cross_entropy_rows": (64, 2560),
    "cross_entropy_columns": (64, 18432),
    "cross_entropy_weights": (48, 256),
    "cross_entropy_sum": (48, 256),
    "cross_entropy_scale_kernel": (40, 0),
    "embedding_backward_kernel": (80, 0),
    "batch_norm_sum_columns": (128, 16384),  # two sums in two parts for each of 8 columns
    "batch_norm_apply_columns": (64, 0),
    "batch_norm_sum_planes": (80, 256),
    "batch_norm_apply_planes": (80, 0),
    "batch_norm_finish": (64, 264),
}
# Those that stream tensors: each instance of them loads and stores vectors. That of the embedding
# has two steps, the first of which does.
WIDE = (
    *("18cross_entropy_rows", "26cross_entropy_scale_kernel", "EmbeddingStepE0"),
    *("24batch_norm_apply_columns", "23batch_norm_apply_planes"),
)
WIDE_LOADS = (*WIDE, "22batch_norm_sum_columns", "21batch_norm_sum_planes")
FILES = sorted((CSRC / "cuda").glob("*/*.cu"))


def budget_of(mangled):
    [name] = [name for name in BUDGETS if f"{len(name)}{name}" in mangled]
    return BUDGETS[name]


@pytest.mark.parametrize("architecture", toolkit.ARCHITECTURES)
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_budget(file, architecture):
    resources = static_checks.build(file, architecture).resources
    assert resources
    for mangled, used in resources.items():
        assert (used.stack, used.spill_stores, used.spill_loads) == (0, 0, 0), mangled
        registers, shared = budget_of(mangled)
        assert used.registers <= (128 if "Id" in mangled else registers), mangled
        assert used.shared <= shared, mangled


@needs_nvdisasm
@pytest.mark.parametrize("architecture", toolkit.ARCHITECTURES)
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_wide_accesses_and_no_local_memory(file, architecture):
    built = static_checks.build(file, architecture)
    kernels = static_checks.disassemble(built.cubin)
    assert len(kernels) == len(built.resources)
    for mangled, instructions in kernels.items():
        found = static_checks.accesses(instructions)
        assert not any(kind.startswith(("LDL", "STL")) for kind in found), mangled
        if any(name in mangled for name in WIDE_LOADS):
            assert found.get("LDG.128"), mangled
        if any(name in mangled for name in WIDE):
            assert found.get("STG.128"), mangled
