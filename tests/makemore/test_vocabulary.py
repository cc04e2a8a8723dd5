import re

import pytest

from makemore_ext.makemore import Vocabulary

ABC = Vocabulary(".abc")


@pytest.mark.parametrize(
    ("names", "characters"),
    [
        (["emma", "ava"], ".aemv"),
        (["zoë", "o'neil", "mary-ann"], ".'-aeilmnoryzë"),
        ([], "."),
    ],
)
def test_from_names_is_the_pad_and_the_sorted_characters(names, characters):
    assert Vocabulary.from_names(names).characters == characters


def test_from_names_of_the_package_has_27_characters(dataset):
    assert dataset.vocabulary.characters == ".abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("text", "indices"), [("", []), ("cab", [3, 1, 2]), ("..a", [0, 0, 1])])
def test_encode_and_decode_are_inverse(text, indices):
    assert (ABC.encode(text), ABC.decode(indices)) == (indices, text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Vocabulary("abc"), "characters must begin with '.'"),
        (lambda: Vocabulary(""), "characters must begin with '.'"),
        (
            lambda: Vocabulary(".aba"),
            "characters must begin with '.' and hold each character once",
        ),
        (lambda: ABC.encode("bad"), "text must hold characters of '.abc', got 'd' in 'bad'"),
        (lambda: ABC.decode([1, 4]), "indices must be in [0, 4), got 4"),
        (lambda: ABC.decode([-1]), "indices must be in [0, 4), got -1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
