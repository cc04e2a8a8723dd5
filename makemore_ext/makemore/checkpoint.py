"""Training saved to a file, and taken up again from it."""

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from makemore_ext._arguments import require
from makemore_ext.makemore.data import Dataset
from makemore_ext.makemore.model import MLP
from makemore_ext.makemore.training import Trainer
from makemore_ext.makemore.vocabulary import Vocabulary

FORMAT = "makemore_ext checkpoint"
VERSION = 1
HYPERPARAMETERS = ("backend", "batch_size", "lr", "decay_step", "decay")

File = str | PathLike[str]


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message names the file."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        model: with its statistics if it was calibrated.
        vocabulary: the one the model was trained with.
        losses: of every step done.
        hyperparameters: the arguments of `Trainer` named in `HYPERPARAMETERS`.
        generator: draws the minibatches.
        fingerprint: of the names, see `Dataset`.
        seed: of the split, see `Dataset`.
    """

    path: File
    model: MLP
    vocabulary: Vocabulary
    losses: list[float]
    hyperparameters: dict[str, Any]
    generator: torch.Generator
    fingerprint: str
    seed: int

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def resume(self, dataset: Dataset, **changes: Any) -> Trainer:
        """A trainer that goes on, bit for bit, as the saved one would have; it owns copies.

        Args:
            dataset: as in the run before: the same names, split and vocabulary.
            changes: hyperparameters to change from here on.

        Raises:
            CheckpointError: `dataset` is another.
            ValueError: a hyperparameter is out of its range.
        """
        for name in ("vocabulary", "fingerprint", "seed"):
            if getattr(self, name) != getattr(dataset, name):
                raise CheckpointError(
                    f"dataset must be the one that {self.path} was trained on, of {name} "
                    f"{getattr(self, name)!r}, got {getattr(dataset, name)!r}"
                )
        return Trainer(
            MLP.from_state_dict(self.model.state_dict()),
            dataset.train,
            self.generator.clone_state(),
            losses=self.losses.copy(),
            **{**self.hyperparameters, **changes},
        )


def save(path: File, trainer: Trainer, dataset: Dataset) -> None:
    """Write a checkpoint; a file that is there already is replaced at once or left whole.

    Args:
        path: the file to write.
        trainer: as it stands.
        dataset: the one it trains on.

    Raises:
        CheckpointError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": trainer.model.state_dict(),
        "vocabulary": dataset.vocabulary.characters,
        "losses": torch.tensor(trainer.losses, dtype=torch.float64, device="cpu"),
        "hyperparameters": {name: getattr(trainer, name) for name in HYPERPARAMETERS},
        "generator": trainer.generator.get_state(),
        "fingerprint": dataset.fingerprint,
        "seed": dataset.seed,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with _file_beside(path) as (beside, target):
        with beside.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)


def ensure_writable(path: File) -> None:
    """Find out, before hours of training, whether `save` could write `path`.

    Raises:
        CheckpointError: it is a directory or a device, or its folder is missing or not writable.
    """
    with _file_beside(path):
        pass


@contextmanager
def _file_beside(path: File) -> Iterator[tuple[Path, Path]]:
    """Make an empty file in the folder of `path`, and remove it at the end if it is still there.

    Yields:
        The new file, and the one that `path` leads to, which is a regular file or missing.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise CheckpointError(f"{path} must be a regular file or new, got another kind of file")
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        beside.touch()
        try:
            yield beside, target
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None


def load(path: File) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing, damaged, of another version or not a checkpoint.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    try:
        # torch writes checksums but does not compare them.
        damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
        content = None if damaged else torch.load(io.BytesIO(data), weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} must be a checkpoint of this package, got another file or a damaged one"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} must be of format version {VERSION}, got {content.get('version')!r}"
        )
    try:
        return _parse(path, content)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} must be a checkpoint of this package, got a damaged one: {error}"
        ) from None


def _parse(path: File, content: dict[str, Any]) -> Checkpoint:
    model = MLP.from_state_dict(content["model"])
    vocabulary = Vocabulary(content["vocabulary"])
    size = model.vocabulary_size
    require(len(vocabulary) == size, "vocabulary", len(vocabulary), f"of the model's size {size}")
    generator = torch.Generator()
    generator.set_state(content["generator"])
    return Checkpoint(
        path=path,
        model=model,
        vocabulary=vocabulary,
        losses=content["losses"].tolist(),
        hyperparameters={name: content["hyperparameters"][name] for name in HYPERPARAMETERS},
        generator=generator,
        fingerprint=content["fingerprint"],
        seed=content["seed"],
    )
