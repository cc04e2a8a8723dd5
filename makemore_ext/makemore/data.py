"""Names: read from a file, split in three, cut into context windows."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from makemore_ext._arguments import require
from makemore_ext.makemore.vocabulary import PAD, Vocabulary

EMBEDDED_NAMES = Path(__file__).with_name("names.txt")
MIN_NAMES = 6  # the fewest of which an 80/10/10 split leaves no part empty

Windows = tuple[Tensor, Tensor]


class DataError(ValueError):
    """A file of names that cannot be used; the message names the file, and the line if any."""


def read_names(
    path: str | PathLike[str] | None = None, *, vocabulary: Vocabulary | None = None
) -> list[str]:
    """Read names, one a line, from a UTF-8 file.

    Names are stripped of the white space around them and lower-cased; blank lines are skipped;
    repeated names are kept. A name may hold any printable character except the space and `PAD`.

    Args:
        path: the file; None reads the names that the package carries (see tools/make_names.py).
        vocabulary: when given, names may hold its characters only.

    Raises:
        DataError: the file cannot be read, is not UTF-8, holds an unusable line or fewer than
            `MIN_NAMES` names.
    """
    path = EMBEDDED_NAMES if path is None else path
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise DataError(f"{path}, line {line}, must be UTF-8, got byte 0x{byte:02x}") from None

    names = []
    for line, raw in enumerate(text.split("\n"), start=1):
        name = raw.strip().lower()
        if not name:
            continue
        if PAD in name or " " in name or not name.isprintable():
            raise DataError(
                f"{path}, line {line}, must hold printable characters, none of them {PAD!r} or a "
                f"space, got {name!r}"
            )
        if vocabulary and (character := vocabulary.unknown(name)):
            raise DataError(
                f"{path}, line {line}, must hold characters of {vocabulary.characters!r}, "
                f"got {character!r} in {name!r}"
            )
        names.append(name)
    if len(names) < MIN_NAMES:
        raise DataError(
            f"{path} must hold at least {MIN_NAMES} names, for training, validation and test, "
            f"got {len(names)}"
        )
    return names


class Split(NamedTuple):
    """Names in three parts."""

    train: list[str]
    validation: list[str]
    test: list[str]


def split_names(names: Sequence[str], seed: int = 42) -> Split:
    """Shuffle `names` with `seed` and split them 80/10/10; `names` itself is left as it is."""
    shuffled = random.Random(seed).sample(names, len(names))
    first, second = 8 * len(names) // 10, 9 * len(names) // 10
    return Split(shuffled[:first], shuffled[first:second], shuffled[second:])


def context_windows(names: Iterable[str], vocabulary: Vocabulary, context: int = 3) -> Windows:
    """Each character of the names, and each name's end, with the characters before it.

    Args:
        names: without `PAD`.
        vocabulary: holds every character of `names`.
        context: the number of characters before; `PAD` stands before a name's first.

    Returns:
        x, int64 [N, context], and y, int64 [N], N being the names' characters plus their number.

    Raises:
        ValueError: `context` is below 1, or a name holds `PAD` or an unknown character.
    """
    require(context >= 1, "context", context, "at least 1")
    names = list(names)
    if dotted := next((name for name in names if PAD in name), None):
        raise ValueError(f"names must not hold {PAD!r}, got {dotted!r}")

    # One stream holds every name between runs of `context` pads, and every window is a slice of
    # it. A window is skipped where it would end on any pad of a run but the first. The last pad
    # gives the stream a window's length where there is no name.
    pads = vocabulary.encode(PAD * context)
    stream = pads.copy()
    for name in names:
        stream += vocabulary.encode(name) + pads
    stream += vocabulary.encode(PAD)
    lengths = torch.tensor([len(name) + 1 for name in names], dtype=torch.int64, device="cpu")
    places = torch.arange(len(names), device="cpu").repeat_interleave(lengths)
    slices = torch.tensor(stream, device="cpu").unfold(0, context + 1, 1)
    windows = slices[torch.arange(len(places), device="cpu") + places * (context - 1)]
    return windows[:, :-1].contiguous(), windows[:, -1].contiguous()


@dataclass(frozen=True, eq=False)
class Dataset:
    """The context windows of the three parts of a list of names.

    Attributes:
        vocabulary: the characters of all the names, or those given to `load`.
        train: x, int64 [N, context], and y, int64 [N]; so are `validation` and `test`.
        fingerprint: the SHA-256 of the names in the order of the file.
        seed: of the split.
    """

    vocabulary: Vocabulary
    train: Windows
    validation: Windows
    test: Windows
    fingerprint: str
    seed: int

    @classmethod
    def load(
        cls,
        path: str | PathLike[str] | None = None,
        *,
        seed: int = 42,
        context: int = 3,
        vocabulary: Vocabulary | None = None,
    ) -> "Dataset":
        """Read, split and cut up the names of a file, or those that the package carries.

        Args:
            path: see `read_names`.
            seed: see `split_names`.
            context: see `context_windows`.
            vocabulary: the one to use, a trained model's say; None makes it from the names.

        Raises:
            DataError: see `read_names`.
            ValueError: `context` is below 1.
        """
        names = read_names(path, vocabulary=vocabulary)
        vocabulary = vocabulary or Vocabulary.from_names(names)
        train, validation, test = (
            context_windows(part, vocabulary, context) for part in split_names(names, seed)
        )
        fingerprint = hashlib.sha256("\n".join(names).encode()).hexdigest()
        return cls(vocabulary, train, validation, test, fingerprint, seed)
