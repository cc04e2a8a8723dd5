"""New names, drawn character by character."""

import torch

from makemore_ext._arguments import require
from makemore_ext.makemore.model import MLP
from makemore_ext.makemore.vocabulary import PAD, Vocabulary


def sample(
    model: MLP,
    vocabulary: Vocabulary,
    count: int = 20,
    *,
    generator: torch.Generator,
    max_length: int = 100,
) -> list[str]:
    """Draw `count` names from a calibrated model, one after the other as the notebook does.

    Args:
        model: calibrated.
        vocabulary: the one the model was trained with.
        count: at least 0.
        generator: the source of chance; the same state gives the same names.
        max_length: the characters after which a name is cut off, at least 1. A name may be empty.

    Raises:
        ValueError: an argument is out of its range, or the model's logits are not finite.
        RuntimeError: the model is not calibrated.
    """
    require(count >= 0, "count", count, "at least 0")
    require(max_length >= 1, "max_length", max_length, "at least 1")
    size = model.vocabulary_size
    require(len(vocabulary) == size, "vocabulary", len(vocabulary), f"of the model's size {size}")
    return [_sample_name(model, vocabulary, generator, max_length) for _ in range(count)]


def _sample_name(
    model: MLP, vocabulary: Vocabulary, generator: torch.Generator, max_length: int
) -> str:
    end = vocabulary.encode(PAD)[0]
    indices = [end] * model.context
    while len(indices) < model.context + max_length:
        context = torch.tensor([indices[-model.context :]], device=model.C.device)
        logits = model.logits(context)
        if not logits.isfinite().all():
            raise ValueError("model must give finite logits, got others: its training has diverged")
        index = int(torch.multinomial(logits.softmax(1), 1, generator=generator))
        if index == end:
            break
        indices.append(index)
    return vocabulary.decode(indices[model.context :])
