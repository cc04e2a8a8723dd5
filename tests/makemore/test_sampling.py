import re

import pytest
import torch

from makemore_ext.makemore import MLP, Vocabulary, calibrate, sample

ABC = Vocabulary(".abc")


def favouring(index: int) -> MLP:
    """A network that gives nearly all probability to one character, whatever stands before."""
    model = MLP.init(4, hidden=4)
    with torch.no_grad():
        model.b2[index] = 100
    calibrate(model, torch.tensor([[0, 0, 0], [1, 2, 3]]))
    return model


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("index", "name"), [(0, ""), (2, "bbbbb")])
def test_a_name_ends_at_the_pad_or_at_max_length(index, name):
    assert sample(favouring(index), ABC, 3, generator=seeded(), max_length=5) == [name] * 3


@pytest.mark.parametrize("count", [0, 1, 20])
def test_count(count):
    assert len(sample(favouring(0), ABC, count, generator=seeded())) == count


@pytest.mark.parametrize(("seed", "same"), [(1, True), (2, False)])
def test_the_seed_decides_the_names(seed, same):
    model = MLP.init(4, hidden=4)
    calibrate(model, torch.tensor([[0, 0, 0], [1, 2, 3]]))
    names, again = (sample(model, ABC, generator=seeded(s)) for s in (1, seed))
    assert (names == again) is same


def test_names_are_drawn_one_after_the_other_from_the_softmax():
    model, generator, expected = MLP.init(4, hidden=4), seeded(), []
    calibrate(model, torch.tensor([[0, 0, 0], [1, 2, 3]]))
    for _ in range(20):
        context, name = [0, 0, 0], ""
        while True:
            probs = model.logits(torch.tensor([context])).softmax(1)
            index = torch.multinomial(probs, num_samples=1, generator=generator).item()
            if index == 0:
                break
            context, name = [*context[1:], index], name + ABC.characters[index]
        expected.append(name)
    assert sample(model, ABC, 20, generator=seeded()) == expected


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        (ABC, {"count": -1}, "count must be at least 0, got -1"),
        (ABC, {"max_length": 0}, "max_length must be at least 1, got 0"),
        (Vocabulary(".ab"), {}, "vocabulary must be of the model's size 4, got 3"),
    ],
)
def test_rejects(vocabulary, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sample(favouring(0), vocabulary, generator=seeded(), **options)


def test_rejects_a_model_that_diverged():
    model = favouring(0)
    model.b2.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="model must give finite logits"):
        sample(model, ABC, generator=seeded())


def test_rejects_a_model_without_statistics():
    with pytest.raises(RuntimeError, match="call calibrate first"):
        sample(MLP.init(4), ABC, generator=seeded())
