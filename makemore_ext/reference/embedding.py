"""The gradient of an embedding, place by place and in one call."""

from itertools import product

from torch import Tensor

from makemore_ext.reference.checks import check_dimensions, check_embedding


def embedding_backward_loop(demb: Tensor, x: Tensor, vocabulary_size: int) -> Tensor:
    """Gradient of C in emb = C[x], place by place.

    emb[i, k] is a copy of the row x[i, k] of C, so that row collects demb[i, k]: a sum, since a
    character stands in many places.

    Args:
        demb: Gradient of emb, float [n, context, D].
        x: Indices, int64 [n, context].
        vocabulary_size: Number of rows of C.

    Returns:
        dC, [vocabulary_size, D].

    Raises:
        ValueError: demb's shape is not x's with one more dimension, or x is not [n, context].
        TypeError: x is not int64.
        IndexError: x holds an index outside 0 … vocabulary_size-1.
    """
    check_dimensions("x", x, "[n, context]")
    check_embedding(demb, x, vocabulary_size)
    dC = demb.new_zeros(vocabulary_size, demb.shape[-1])
    for i, k in product(range(x.shape[0]), range(x.shape[1])):
        dC[x[i, k]] += demb[i, k]
    return dC


def embedding_backward(demb: Tensor, x: Tensor, vocabulary_size: int) -> Tensor:
    """`embedding_backward_loop` in one call: the places in a row, added by their index.

    Args:
        demb: Gradient of emb, float [..., D].
        x: Indices, int64 [...].
        vocabulary_size: Number of rows of C.

    Returns:
        dC, [vocabulary_size, D].

    Raises:
        ValueError: demb's shape is not x's with one more dimension.
        TypeError: x is not int64.
        IndexError: x holds an index outside 0 … vocabulary_size-1.
    """
    check_embedding(demb, x, vocabulary_size)
    D = demb.shape[-1]
    # An index that occurs twice is added twice; dC[x] += demb would keep only one of them.
    dC = demb.new_zeros(vocabulary_size, D)
    return dC.index_add_(0, x.flatten(), demb.reshape(x.numel(), D))
