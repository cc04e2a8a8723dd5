from collections.abc import Callable, Iterator

import pytest
import torch
from support import seeded

from makemore_ext._parameters import SEED
from makemore_ext.makemore import MLP, Dataset, Trainer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, and wait for them on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return Dataset.load()


@pytest.fixture
def make_trainer(dataset: Dataset) -> Callable[..., Trainer]:
    """A trainer as the notebook sets it up, of a small network unless `hidden` is given."""

    def make(
        backend: str = "autograd",
        *,
        hidden: int = 16,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        **options,
    ) -> Trainer:
        generator = seeded(SEED) if generator is None else generator
        model = MLP.init(hidden=hidden, dtype=dtype, generator=generator)
        return Trainer(model, dataset.train, generator, backend, **options)

    return make
