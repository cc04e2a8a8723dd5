from types import NotImplementedType

from torch import Tensor

def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None, /
) -> Tensor | NotImplementedType: ...
