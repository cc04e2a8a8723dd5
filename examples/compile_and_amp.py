"""torch.compile and torch.autocast around a converted model, forward and backward.

    python examples/compile_and_amp.py

Trains the same network a few steps in four ways (eager or compiled, float32 or bfloat16 by
autocast), each time with torch's layers and with makemore_ext's, and prints the losses. Within one
way they agree to rounding. On the CPU, and on the first CUDA device where there is one that
makemore_ext was built for.
"""

import torch
from torch import Tensor, nn

import makemore_ext as mx

STEPS = 5
ROWS, FEATURES, HIDDEN, CLASSES = 64, 32, 128, 1000


class WithLoss(nn.Module):
    """Network and loss as one module, so that torch.compile has both in one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(FEATURES, HIDDEN, bias=False),
            nn.BatchNorm1d(HIDDEN),
            nn.Tanh(),
            nn.Linear(HIDDEN, CLASSES),
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.network(x), y)


def losses(device: str, is_converted: bool, is_compiled: bool, is_autocast: bool) -> list[float]:
    """Those of a few steps, of a network that always starts from the same parameters."""
    torch.manual_seed(0)
    model = WithLoss().to(device)
    x, y = torch.randn(ROWS, FEATURES).to(device), torch.randint(CLASSES, (ROWS,)).to(device)
    if is_converted:
        # Before the first compiled step, or torch.compile compiles again. The optimizer may be made
        # before or after, as the parameters stay the same objects.
        mx.convert(model, fuse_activations=True)
    # fullgraph: an error, not a slower program, if something could not be compiled.
    forward = torch.compile(model, fullgraph=True) if is_compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        # As with torch's layers: linear layers and batch norm give bfloat16, its parameters and
        # running statistics stay float32, the loss is float32. Backward stands outside.
        with torch.autocast(device, torch.bfloat16, enabled=is_autocast):
            loss = forward(x, y)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


devices = ["cpu"]
if torch.cuda.is_available() and mx.build_info()["cuda_architectures"] is not None:
    devices.append("cuda")
for device in devices:
    for is_autocast in (False, True):
        for is_compiled in (False, True):
            way = f"{device} {'bfloat16' if is_autocast else 'float32'}"
            way += " compiled" if is_compiled else " eager"
            for is_converted in (False, True):
                name = "makemore_ext" if is_converted else "torch"
                values = losses(device, is_converted, is_compiled, is_autocast)
                print(f"{way:22} {name:12}", *(f"{value:.5f}" for value in values))
