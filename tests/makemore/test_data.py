import hashlib
import os
import re

import pytest

from makemore_ext.makemore import DataError, Dataset, Vocabulary
from makemore_ext.makemore.data import context_windows, read_names, split_names

SIX = ["emma", "ava", "mia", "zoe", "amy", "eva"]


@pytest.fixture
def write(tmp_path):
    def write(content: bytes):
        path = tmp_path / "names.txt"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        b"emma\nava\nmia\nzoe\namy\neva\n",
        b"emma\nava\nmia\nzoe\namy\neva",
        b"emma\r\nava\r\nmia\r\nzoe\r\namy\r\neva\r\n",
        b"\xef\xbb\xbfEmma\n\n  Ava\t\n\nMIA\nzoe\namy\neva\n\n",
    ],
    ids=["plain", "no last newline", "CRLF", "BOM, blanks, capitals"],
)
def test_read_names_strips_and_lowers(write, content):
    assert read_names(write(content)) == SIX


def test_read_names_keeps_other_letters_and_repetitions(write):
    names = ["zoë", "o'neil", "mary-ann", "zoë", "اسم", "é"]
    assert read_names(write("\n".join(names).encode())) == names


TOO_FEW = " must hold at least 6 names, for training, validation and test, got "
PRINTABLE = ", line {}, must hold printable characters, none of them '.' or a space, got '{}'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", TOO_FEW + "0"),
        (b"\n  \n\t\n", TOO_FEW + "0"),
        (b"emma\n", TOO_FEW + "1"),
        (b"emma\nava\nmia\nzoe\namy\n", TOO_FEW + "5"),
        (b"emma\nav\xffa\n", ", line 2, must be UTF-8, got byte 0xff"),
        (b"emma\n\nzo\xe9", ", line 3, must be UTF-8, got byte 0xe9"),
        (b"emma\na.va\n", PRINTABLE.format(2, "a.va")),
        (b"emma,ava mia\n", PRINTABLE.format(1, "emma,ava mia")),
        (b"emma\n\nav\ta\n", PRINTABLE.format(3, r"av\ta")),
        (b"emma\nav\x00a\n", PRINTABLE.format(2, r"av\x00a")),
        (b"emma\rava\r", PRINTABLE.format(1, r"emma\rava")),
        ("emma\nav\u00a0a\n".encode(), PRINTABLE.format(2, r"av\xa0a")),
    ],
)
def test_read_names_rejects_a_file_and_names_it_and_the_line(write, content, message):
    path = write(content)
    with pytest.raises(DataError, match=f"^{re.escape(str(path) + message)}"):
        read_names(path)


@pytest.mark.parametrize(
    ("name", "message"), [("missing.txt", "No such file"), (".", "Is a directory")]
)
def test_read_names_rejects_what_is_no_file(tmp_path, name, message):
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / name))}: {message}"):
        read_names(tmp_path / name)


def test_read_names_rejects_a_character_outside_the_vocabulary(write):
    path = write("emma\nzoë\n".encode())
    message = f"{path}, line 2, must hold characters of '.aemoz', got 'ë' in 'zoë'"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_names(path, vocabulary=Vocabulary(".aemoz"))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (6, (4, 1, 1)),
        (7, (5, 1, 1)),
        (9, (7, 1, 1)),
        (10, (8, 1, 1)),
        (29_910, (23_928, 2991, 2991)),
    ],
)
def test_split_names_sizes(count, sizes):
    assert tuple(map(len, split_names(range(count)))) == sizes


def test_split_names_leaves_no_name_out_and_its_argument_alone():
    names = SIX.copy()
    split = split_names(names)
    assert names == SIX
    assert sorted(split.train + split.validation + split.test) == sorted(SIX)


@pytest.mark.parametrize(("seed", "same"), [(42, True), (43, False)])
def test_split_names_depends_on_the_seed(seed, same):
    assert (split_names(range(100), seed) == split_names(range(100), 42)) is same


@pytest.mark.parametrize(
    ("names", "context", "x", "y"),
    [
        (["ab", "c"], 2, [[0, 0], [0, 1], [1, 2], [0, 0], [0, 3]], [1, 2, 0, 3, 0]),
        (["ab", "c"], 1, [[0], [1], [2], [0], [3]], [1, 2, 0, 3, 0]),
        (["a"], 3, [[0, 0, 0], [0, 0, 1]], [1, 0]),
        (["abca"], 2, [[0, 0], [0, 1], [1, 2], [2, 3], [3, 1]], [1, 2, 3, 1, 0]),
        ([], 2, [], []),
    ],
)
def test_context_windows(names, context, x, y):
    windows = context_windows(names, Vocabulary(".abc"), context)
    assert [tensor.tolist() for tensor in windows] == [x, y]


@pytest.mark.parametrize(
    ("names", "context", "message"),
    [
        (["ab"], 0, "context must be at least 1, got 0"),
        (["ab", "a.b"], 3, "names must not hold '.', got 'a.b'"),
        (["ab", "ad"], 3, "text must hold characters of '.abc', got 'd' in 'ad'"),
    ],
)
def test_context_windows_rejects(names, context, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        context_windows(names, Vocabulary(".abc"), context)


def test_dataset_of_the_package(dataset):
    windows = [len(y) for _, y in (dataset.train, dataset.validation, dataset.test)]
    assert sum(windows) == sum(len(name) + 1 for name in read_names())


def test_dataset_fingerprint_is_that_of_the_names(write):
    path = write("\n\n".join(SIX).encode())
    expected = hashlib.sha256(b"emma\nava\nmia\nzoe\namy\neva").hexdigest()
    assert Dataset.load(path).fingerprint == expected


@pytest.mark.parametrize("path_type", [str, os.fspath, lambda path: path])
def test_dataset_load_takes_any_path_and_a_given_vocabulary(write, path_type):
    vocabulary = Vocabulary(".zyxwvutsrqponmlkjihgfedcba")
    dataset = Dataset.load(
        path_type(write("\n".join(SIX).encode())), context=5, vocabulary=vocabulary
    )
    assert (dataset.vocabulary, dataset.train[0].shape[1]) == (vocabulary, 5)
