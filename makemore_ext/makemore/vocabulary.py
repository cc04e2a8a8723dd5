"""The characters of the names, and their indices."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from makemore_ext._arguments import require

PAD = "."  # index 0: fills the context before a name, and ends it


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of characters; a character's place is its index.

    Attributes:
        characters: `PAD` followed by the others, each once.

    Raises:
        ValueError: `characters` does not begin with `PAD`, or repeats one.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters.startswith(PAD) or len(self._index) != len(self.characters):
            raise ValueError(
                f"characters must begin with {PAD!r} and hold each character once, "
                f"got {self.characters!r}"
            )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "Vocabulary":
        """`PAD`, then every character of `names`, sorted."""
        return cls(PAD + "".join(sorted(set().union(*names) - {PAD})))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {character: index for index, character in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def unknown(self, text: str) -> str | None:
        """The first character of `text` that is not in the vocabulary, or None."""
        return next((character for character in text if character not in self._index), None)

    def encode(self, text: str) -> list[int]:
        """The index of each character of `text`.

        Raises:
            ValueError: a character is not in the vocabulary.
        """
        try:
            return [self._index[character] for character in text]
        except KeyError:
            raise ValueError(
                f"text must hold characters of {self.characters!r}, "
                f"got {self.unknown(text)!r} in {text!r}"
            ) from None

    def decode(self, indices: Iterable[int]) -> str:
        """The text whose characters have these indices.

        Raises:
            ValueError: an index is not in [0, len(self)).
        """
        indices = list(indices)
        for index in indices:
            require(0 <= index < len(self), "indices", index, f"in [0, {len(self)})")
        return "".join(self.characters[index] for index in indices)
