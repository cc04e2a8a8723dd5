"""Tests once more, on the autograd Functions that serve where no autograd is native."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transform_cases import IS_NATIVE

OPERATIONS = ("batch_norm", "cross_entropy", "embedding")
PLACES = (
    *(f"tests/ops/{name}" for name in OPERATIONS),
    *("tests/ops/test_scalars.py", "tests/ops/test_unusual_tensors.py", "tests/conversion"),
)
# Of kernels and formulas, which are the same on either autograd.
ON_EITHER = ("accuracy", "formulas", "layouts", "operator_calls")
IGNORED = [f"--ignore-glob=*/test_{name}.py" for name in ON_EITHER]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.skipif(not IS_NATIVE, reason="this is the run on Python's autograd")
@pytest.mark.parametrize("place", PLACES)
def test_on_the_autograd_of_python(place):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *IGNORED, place],
        env={**environment, "MAKEMORE_EXT_AUTOGRAD": "python"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_every_operation_is_run():
    tested = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert tested == set(OPERATIONS)
