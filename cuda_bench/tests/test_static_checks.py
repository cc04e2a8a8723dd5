"""The sample kernels compile cleanly, within a budget, with 16-byte accesses."""

import pytest
from cuda_bench import static_checks, toolkit
from samples import KERNELS, needs_nvcc

pytestmark = needs_nvcc

needs_nvdisasm = pytest.mark.skipif(
    toolkit.tool("nvdisasm") is None, reason="no nvdisasm: pip install 'nvidia-cuda-nvdisasm>=13.2'"
)
# The oldest, one between and the newest; those of csrc/cuda are checked on all.
ARCHITECTURES = ("7.5", "9.0", "12.0")
# File: most registers a thread, static bytes of shared memory a block.
BUDGETS = {
    "softmax.cu": (40, 32),
    "column_sums.cu": (56, 16),
    "histogram.cu": (32, 0),
    "scale.cu": (32, 0),
}


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_budget(name, architecture):
    registers, shared = BUDGETS[name]
    built = static_checks.build(KERNELS / name, architecture)
    assert built.resources
    for used in built.resources.values():
        assert (used.stack, used.spill_stores, used.spill_loads) == (0, 0, 0)
        assert used.registers <= registers
        assert used.shared == shared


@needs_nvdisasm
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "stores"), [("softmax.cu", False), ("scale.cu", True)])
def test_wide_accesses(name, stores, architecture):
    built = static_checks.build(KERNELS / name, architecture)
    for instructions in static_checks.disassemble(built.cubin).values():
        found = static_checks.accesses(instructions)
        assert found.get("LDG.128")
        assert not stores or found.get("STG.128")
        assert not any(kind.startswith(("LDL", "STL")) for kind in found)


@needs_nvdisasm
def test_local_memory_shows():
    built = static_checks.build(KERNELS / "faults.cu", "8.0")
    assert built.resources["local_memory"].stack == 256
    assert built.resources["copy"].stack == 0
    instructions = static_checks.disassemble(built.cubin)
    assert any(
        kind.startswith("LDL") for kind in static_checks.accesses(instructions["local_memory"])
    )


def test_a_warning_is_an_error(tmp_path):
    source = tmp_path / "unused.cu"
    source.write_text("__global__ void k(int* x) { int unused; *x = 1; }\n")
    with pytest.raises(toolkit.CompileError, match="unused"):
        static_checks.build(source, "8.0")


def test_resources_of_a_log():
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    24 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 2080 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 50.134 ms
"""
    assert static_checks.parse_resources(log) == {
        "k": static_checks.Resources(255, 2080, 24, 12, 16)
    }
