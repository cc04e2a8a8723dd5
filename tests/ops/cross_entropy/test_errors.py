"""Bad input: torch's error types and words, before any kernel starts."""

import pytest
import torch
from cross_entropy_cases import indices, logits, probabilities
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext.ops.tensors import check_indices

LOGITS, TARGET = logits((4, 3), torch.float32), indices((4, 3))
IMAGE, PIXELS = logits((2, 3, 4, 5), torch.float32), indices((2, 3, 4, 5))
PROBABILITIES = probabilities((4, 3), torch.float32)
AS_TORCH = {
    "target too large": {"target": torch.tensor([0, 1, 3, 2])},
    "target negative": {"target": torch.tensor([0, -1, 2, 2])},
    "target too large, uint8": {"target": torch.tensor([0, 1, 200, 2], dtype=torch.uint8)},
    "target length": {"target": TARGET[:3]},
    "target int32": {"target": TARGET.int()},
    "target bool": {"target": TARGET.bool()},
    "target of one more dimension": {"target": TARGET[:, None]},
    "target list": {"target": [0, 1, 2, 0]},
    "probabilities of another shape": {"target": torch.rand(4, 2)},
    "probabilities, ignore_index": {"target": PROBABILITIES, "ignore_index": 1},
    "pixels of another shape": {"input": IMAGE, "target": PIXELS[:, :3]},
    "pixels of another batch": {"input": IMAGE, "target": PIXELS[:1]},
    "input integer": {"input": LOGITS.long()},
    "input complex": {"input": LOGITS.to(torch.complex64)},
    "input without dimensions": {"input": LOGITS[0, 0], "target": TARGET[0]},
    "input list": {"input": [[0.0]]},
    "input sparse": {"input": LOGITS.to_sparse()},
    "one row, several targets": {"input": LOGITS[0]},
    "weight length": {"weight": torch.rand(2)},
    "weight matrix": {"weight": torch.rand(1, 3)},
    "weight dtype": {"weight": torch.rand(3).double()},
    "weight length, probabilities": {"weight": torch.rand(2), "target": PROBABILITIES},
    "weight list": {"weight": [1.0, 1.0, 1.0]},
    "weight that requires grad": {"weight": torch.rand(3, requires_grad=True)},
    "reduction": {"reduction": "avg"},
    "reduction None": {"reduction": None},
    "label_smoothing above 1": {"label_smoothing": 1.5},
    "label_smoothing string": {"label_smoothing": "0.1"},
    "ignore_index float": {"ignore_index": 0.5},
}


@pytest.mark.parametrize("arguments", AS_TORCH.values(), ids=AS_TORCH)
def test_the_same_error_as_torch(arguments):
    arguments = {"input": LOGITS, "target": TARGET, **arguments}
    try:
        F.cross_entropy(**arguments)
    except Exception as error:
        theirs = error
    with pytest.raises(type(theirs)) as ours:
        mx.cross_entropy(**arguments)
    assert str(ours.value) == str(theirs)


def test_a_target_beyond_the_pixels_names_it():
    # Torch reads the message off its kernel, which does not name the target of an image.
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        mx.cross_entropy(IMAGE, PIXELS.clone().fill_(7))


OURS = {
    "label_smoothing below 0": (  # torch takes it for 0
        {"label_smoothing": -0.1},
        NotImplementedError,
        r"label_smoothing in \[0, 1\], got .* -0.1",
    ),
    "lse_square_scale": ({"lse_square_scale": "1"}, TypeError, "lse_square_scale must be a number"),
    "a leaf, in place": (
        {"input": LOGITS.clone().requires_grad_(), "inplace_backward": True},
        RuntimeError,
        "a leaf that requires grad",
    ),
    "a view of a leaf, in place": (
        {"input": LOGITS.clone().requires_grad_()[:], "inplace_backward": True},
        RuntimeError,
        "a leaf that requires grad",
    ),
    "expanded, in place": (
        {"input": LOGITS.clone().requires_grad_().sum(0).expand(4, 3), "inplace_backward": True},
        RuntimeError,
        "must not overlap itself",
    ),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), OURS.values(), ids=OURS)
def test_errors_of_our_own(arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        mx.cross_entropy(**{"input": LOGITS, "target": TARGET, **arguments})
    assert "\n" not in str(caught.value)


def test_the_look_at_indices_takes_no_class_for_one_to_ignore():
    # Of a CUDA device, where MAKEMORE_EXT_CHECK=1 asks for it. 156 is -100 as a uint8.
    target = torch.tensor([3, 156], dtype=torch.uint8)
    check_indices("target", target, 200, -100)
    with pytest.raises(
        IndexError, match=r"target must hold indices in \[0, 100\), got 156 in row 1"
    ):
        check_indices("target", target, 100, -100)
