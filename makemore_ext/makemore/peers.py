"""The same training in other frameworks: what the backends are measured against.

torch.compile needs a C++ compiler, JAX the extra `makemore-ext[peers]`; neither is imported before
it is used. Every peer takes a model and the windows, and returns a function from minibatches, int64
[steps, n], and the learning rate of each step to the loss of each step. It owns copies.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from makemore_ext.makemore.backends import autograd_loss
from makemore_ext.makemore.data import Windows
from makemore_ext.makemore.model import MLP
from makemore_ext.makemore.training import learning_rate
from makemore_ext.reference import EPS, Parameters

Take = Callable[[Tensor, list[float]], list[float]]


def torch_compile(model: MLP, windows: Windows) -> Take:
    """The loss of the backend autograd, forward and backward compiled by inductor."""
    parameters = MLP.from_state_dict(model.state_dict()).parameters()
    x, y = windows
    compiled = torch.compile(autograd_loss)

    def take(minibatches: Tensor, rates: list[float]) -> list[float]:
        losses = []
        for batch, rate in zip(minibatches, rates, strict=True):
            loss = compiled(parameters, x[batch], y[batch])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.add_(gradient, alpha=-rate)
            losses.append(loss.item())
        return losses

    return take


def jax_jit(model: MLP, windows: Windows) -> Take:
    """One compiled step, called from a loop."""
    import jax

    parameters, step = _jax_step(model, windows)
    step = jax.jit(step, donate_argnums=0)

    def take(minibatches: Tensor, rates: list[float]) -> list[float]:
        nonlocal parameters
        losses = []
        for batch, rate in zip(minibatches.numpy(), rates, strict=True):
            parameters, loss = step(parameters, (batch, rate))
            losses.append(loss)
        return [float(loss) for loss in jax.device_get(losses)]

    return take


def jax_scan(model: MLP, windows: Windows) -> Take:
    """All steps in one compiled call."""
    import jax

    parameters, step = _jax_step(model, windows)
    scan = jax.jit(lambda parameters, xs: jax.lax.scan(step, parameters, xs), donate_argnums=0)

    def take(minibatches: Tensor, rates: list[float]) -> list[float]:
        nonlocal parameters
        rates_array = torch.tensor(rates, dtype=model.C.dtype, device="cpu").numpy()
        parameters, losses = scan(parameters, (minibatches.numpy(), rates_array))
        return jax.device_get(losses).tolist()

    return take


def _jax_step(model: MLP, windows: Windows) -> tuple[Any, Callable[..., Any]]:
    """The parameters, and a function from them and (minibatch, rate) to new ones and the loss."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", model.C.dtype == torch.float64)
    X, Y = (jnp.asarray(tensor.int().numpy()) for tensor in windows)

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        C, W1, b1, W2, b2, bngain, bnbias = parameters
        hprebn = C[x].reshape(len(y), -1) @ W1 + b1
        bnraw = (hprebn - hprebn.mean(0)) * jax.lax.rsqrt(hprebn.var(0, ddof=1) + EPS)
        logits = jnp.tanh(bngain * bnraw + bnbias) @ W2 + b2
        return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y].mean()

    def step(parameters: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        batch, rate = inputs
        loss, gradients = jax.value_and_grad(loss_of)(parameters, X[batch], Y[batch])
        descended = jax.tree.map(lambda p, g: p - rate * g, parameters, gradients)
        return descended, loss

    arrays: Any = (jnp.array(parameter.detach().numpy()) for parameter in model.parameters())
    return Parameters(*arrays), step


PEERS: dict[str, Callable[[MLP, Windows], Take]] = {
    "torch_compile": torch_compile,
    "jax_jit": jax_jit,
    "jax_scan": jax_scan,
}


def installed_peers() -> tuple[str, ...]:
    """The keys of `PEERS`, or nothing where the extra `makemore-ext[peers]` is not installed."""
    return tuple(PEERS) if importlib.util.find_spec("jax") else ()


@dataclass(eq=False)
class PeerTrainer:
    """Trains a copy of a network with a peer, on the minibatches that `Trainer` would draw.

    Attributes:
        take: what a peer returns.
        windows: see `Trainer`; so are `generator`, `batch_size`, `lr` and `losses`.
    """

    take: Take
    windows: Windows
    generator: torch.Generator
    batch_size: int
    lr: float
    losses: list[float] = field(default_factory=list)

    def train(self, steps: int) -> None:
        """Take `steps` more steps."""
        shape = (steps, self.batch_size)
        minibatches = torch.randint(
            len(self.windows[1]), shape, generator=self.generator, device="cpu"
        )
        first = len(self.losses)
        rates = [learning_rate(step, lr=self.lr) for step in range(first, first + steps)]
        self.losses += self.take(minibatches, rates)
