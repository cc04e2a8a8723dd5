import os
import signal

import pytest

# A shell that starts the tests in the background has them ignore SIGINT, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when torch is imported: of several processes that run tests each computes with one thread,
# and threads that wait for others sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, metavar="N", help="draw other data for each N")
    parser.addoption(
        "--examples", type=int, metavar="N", help="draw N random calls each in tests/fuzz"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before pytest imports cuda_bench/tests and takes the folder for the package.
    import cuda_bench  # noqa: F401
    import support  # imports torch, for which the environment is set above

    support.seed_shift = config.getoption("--seed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def _same_draws_every_run() -> None:
    """For draws without a generator of their own, layers' parameters among them."""
    import support

    support.seed_default_generator()
