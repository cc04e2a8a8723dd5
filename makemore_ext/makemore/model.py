"""The character-level network: embedding, linear, batch norm, tanh, linear."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_ext._parameters import check_shape, initialize, sizes_of
from makemore_ext.reference import Parameters


@dataclass(eq=False)
class MLP:
    """The network's parameters, and the batch norm statistics it predicts with.

    Below V is the vocabulary's size, D the embedding's, H the hidden layer's and K the context.

    Attributes:
        C: [V, D], the embedding.
        W1: [K·D, H]. b1: [H].
        W2: [H, V]. b2: [V].
        bngain: [H]. bnbias: [H].
        bnmean: [H], the mean of the hidden layer before batch norm over the training set; None
            until `calibrate` sets it.
        bnvar: [H], its unbiased variance; None likewise.

    Raises:
        ValueError: the shapes do not fit together, or the dtypes are not all float32 or all
            float64.
    """

    C: Tensor
    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    bngain: Tensor
    bnbias: Tensor
    bnmean: Tensor | None = None
    bnvar: Tensor | None = None

    def __post_init__(self) -> None:
        H = sizes_of(self.parameters()).hidden
        if self.bnmean is not None or self.bnvar is not None:
            check_shape("bnmean", self.bnmean, (H,))
            check_shape("bnvar", self.bnvar, (H,))
        dtypes = {tensor.dtype for tensor in self.state_dict().values()}
        if len(dtypes) > 1:
            raise ValueError(f"dtypes must be all float32 or all float64, got {dtypes}")

    @classmethod
    def init(
        cls,
        vocabulary_size: int = 27,
        *,
        context: int = 3,
        embedding: int = 10,
        hidden: int = 200,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> "MLP":
        """Draw a new network's C, W1 and W2, in this order.

        C ~ N(0, 1); W1 and W2 ~ N(0, 1) × scale / √fan_in, with the scales 5/3 (the gain of
        tanh) and 0.01 (so that the first predictions are nearly uniform); biases are 0, gains 1.
        The draws are in float32 whatever the dtype: networks of both dtypes begin alike.

        Args:
            vocabulary_size: V, at least 1.
            context: K, at least 1.
            embedding: D, at least 1.
            hidden: H, at least 1.
            dtype: float32 or float64.
            generator: on the CPU; None makes one seeded with `SEED`.

        Raises:
            ValueError: a size is below 1, or the dtype is another.
        """
        sizes = {
            "vocabulary_size": vocabulary_size,
            "context": context,
            "embedding": embedding,
            "hidden": hidden,
        }
        return cls(*initialize(sizes, dtype, generator))

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.C.shape[0]

    @property
    def embedding(self) -> int:
        """D."""
        return self.C.shape[1]

    @property
    def context(self) -> int:
        """K."""
        return self.W1.shape[0] // self.C.shape[1]

    @property
    def hidden(self) -> int:
        """H."""
        return self.W1.shape[1]

    @property
    def parameter_count(self) -> int:
        """The number of values that training changes."""
        return sum(parameter.numel() for parameter in self.parameters())

    def parameters(self) -> Parameters:
        """What training changes: the network's own tensors, which require grad."""
        return Parameters(
            C=self.C,
            W1=self.W1,
            b1=self.b1,
            W2=self.W2,
            b2=self.b2,
            bngain=self.bngain,
            bnbias=self.bnbias,
        )

    def describe(self) -> str:
        """One line with the layers, their sizes and the number of parameters."""
        V, D, K, H = self.vocabulary_size, self.embedding, self.context, self.hidden
        return (
            f"embedding [{V}, {D}], {K} characters concatenated, linear [{K * D}, {H}], "
            f"batch norm [{H}], tanh, linear [{H}, {V}]: {self.parameter_count:,} parameters"
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The parameters, and the statistics once calibrated, by name: detached, not copied."""
        tensors = vars(self).items()
        return {name: tensor.detach() for name, tensor in tensors if tensor is not None}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "MLP":
        """A network of its own with copies of what `state_dict` gave.

        Raises:
            ValueError: a tensor is missing, unknown or unfit.
        """
        required, optional = set(Parameters._fields), {"bnmean", "bnvar"}
        if not required <= state.keys() <= required | optional:
            raise ValueError(f"state must hold {sorted(required)}, got {sorted(state)}")
        copies = {name: tensor.detach().clone() for name, tensor in state.items()}
        model = cls(**copies)
        for parameter in model.parameters():
            parameter.requires_grad_()
        return model

    @torch.no_grad()
    def hprebn(self, x: Tensor) -> Tensor:
        """The hidden layer before batch norm, [N, H], of the context x, int64 [N, K]."""
        return torch.addmm(self.b1, self.C[x].flatten(1), self.W1)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """The logits [N, V] of the next character, normalised by the calibrated statistics.

        Args:
            x: the context, int64 [N, K].

        Raises:
            RuntimeError: the statistics are not calibrated.
        """
        if self.bnmean is None or self.bnvar is None:
            raise RuntimeError("bnmean and bnvar must be set, got None: call calibrate first")
        hpreact = F.batch_norm(self.hprebn(x), self.bnmean, self.bnvar, self.bngain, self.bnbias)
        return torch.addmm(self.b2, torch.tanh(hpreact), self.W2)
