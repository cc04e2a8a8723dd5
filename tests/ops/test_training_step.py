"""What torch.compile makes of a training step."""

import compilers
import torch
from support import seeded
from transform_cases import needs_native

from makemore_ext.makemore import MLP, backends
from makemore_ext.reference import Parameters


@needs_native
def test_a_step_of_fused_keeps_our_operators(monkeypatch):
    monkeypatch.setattr(backends, "_with_gradients", lambda loss, parameters: loss)
    x, y = torch.randint(27, (6, 3), generator=seeded()), torch.arange(6)

    def loss(*parameters):
        return backends.fused(Parameters(*parameters), x, y)

    leaves = [t.detach().clone().requires_grad_() for t in MLP.init(hidden=8).parameters()]
    forward, backward = compilers.graphs(loss, *leaves)
    for operation in ("embedding", "batch_norm", "cross_entropy"):
        assert compilers.kinds_in(forward, operation) == (1, 0)
        assert compilers.kinds_in(backward, operation) == (0, 1)
    for decomposed in ("aten.var", "native_batch_norm", "rsqrt", "log_softmax"):
        assert decomposed not in forward + backward
