"""patch() and unpatch(): what stands in torch.nn.functional, and when."""

import pickle

import pytest
import torch
from conversion_models import rows, runs_ours
from torch.nn import functional as F

import makemore_ext as mx

NAMES = ("cross_entropy", "batch_norm", "embedding")
TORCHS = {name: getattr(F, name) for name in NAMES}


def is_patched() -> bool:
    (patched,) = {getattr(F, name) is not TORCHS[name] for name in NAMES}  # all of them, or none
    return patched


def test_there_and_back():
    assert not is_patched()
    mx.patch()
    assert is_patched()
    mx.unpatch()
    assert not is_patched()


def test_twice_is_once():
    mx.patch()
    mx.patch()
    assert is_patched()
    mx.unpatch()
    assert not is_patched()
    mx.unpatch()
    assert not is_patched()


@pytest.mark.parametrize("before", [False, True])
def test_with_puts_back_what_was_before(before):
    if before:
        mx.patch()
    with mx.patch():
        with mx.patch():
            assert is_patched()
        assert is_patched()
    assert is_patched() is before


def test_with_puts_back_what_was_before_an_error():
    with pytest.raises(KeyError), mx.patch():
        raise KeyError
    assert not is_patched()


@pytest.mark.parametrize("before", [False, True])
def test_unpatch_within_with(before):
    if before:
        mx.patch()
    with mx.patch():
        mx.unpatch()
        assert not is_patched()
    assert is_patched() is before


def test_one_patch_for_several_with():
    patch = mx.patch()
    for _ in range(2):
        with patch:
            assert is_patched()
        assert not is_patched()


def test_what_others_put_there_stays():
    def theirs(*arguments, **options):
        return TORCHS["cross_entropy"](*arguments, **options)

    F.cross_entropy = theirs
    mx.patch()
    mx.unpatch()
    assert F.cross_entropy is theirs
    mx.patch()
    F.cross_entropy = theirs
    mx.unpatch()
    assert F.cross_entropy is theirs


def test_what_was_bound_while_patched_is_torchs_again_afterwards():
    input, target = rows().requires_grad_(), torch.tensor([0, 1, 2, 3, 0, 1])
    with mx.patch():
        bound = F.cross_entropy
        assert runs_ours(bound, input, target)
    assert not runs_ours(bound, input, target)


def test_a_reference_is_pickled_as_torchs():
    with mx.patch():
        data = pickle.dumps(F.cross_entropy)
    assert b"makemore_ext" not in data
    assert pickle.loads(data) is F.cross_entropy
