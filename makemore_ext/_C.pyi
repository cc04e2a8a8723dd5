cpu_capability: str
torch_version: str
cuda_architectures: str

def set_cache_limit(limit: int | None, /) -> None: ...
def empty_cache() -> None: ...
def cache_info() -> tuple[int, int, int, int | None, int, int]: ...

class FusedMLPFloat:
    """Steps in float32 over memory given by addresses; makemore_ext.FusedMLP checks and calls."""

    def __init__(self, vocabulary: int, context: int, embedding: int, hidden: int) -> None: ...
    def workspace_bytes(self, batch_size: int) -> int: ...
    def loss_and_gradients(
        self,
        parameters: list[int],
        x: int,
        y: int,
        minibatch: int,
        batch_size: int,
        workspace: int,
        gradients: list[int],
    ) -> float: ...
    def train(
        self,
        parameters: list[int],
        x: int,
        y: int,
        minibatches: int,
        batch_size: int,
        workspace: int,
        steps: int,
        lr: int,
        momentum: float,
        weight_decay: float,
        momentum_buffers: list[int],
        losses: int,
    ) -> None: ...

class FusedMLPDouble(FusedMLPFloat):
    """The same in float64."""
