"""Exercise 3: batch norm in one expression, forward and backward."""

from torch import Tensor

from makemore_ext.reference.checks import check_batch_norm
from makemore_ext.reference.parameters import EPS


def batch_norm_forward(hprebn: Tensor, bngain: Tensor, bnbias: Tensor, eps: float = EPS) -> Tensor:
    """Batch norm over the rows, with their unbiased variance (Ioffe & Szegedy, arXiv:1502.03167).

    Args:
        hprebn: Float [n, H], n >= 2.
        bngain: [H].
        bnbias: [H].
        eps: Added to the variance.

    Returns:
        hpreact, [n, H].

    Raises:
        ValueError: A shape does not fit, or n < 2.
    """
    check_batch_norm(hprebn, bngain, bnbias=bnbias)
    return bngain * _normalise(hprebn, eps)[0] + bnbias


def batch_norm_backward(
    dhpreact: Tensor, hprebn: Tensor, bngain: Tensor, eps: float = EPS
) -> Tensor:
    """Gradient of batch norm with respect to its input, the lecture's closed form.

    For one column, with g = dhpreact, mean μ, σ = √(var + ε) and r = (hprebn - μ)/σ:

    - The product rule on rᵢ = (hprebnᵢ - μ) · σ⁻¹ needs ∂μ/∂hprebnⱼ = 1/n and ∂σ⁻¹/∂hprebnⱼ =
      -½ σ⁻³ ∂var/∂hprebnⱼ. In ∂var/∂hprebnⱼ = 2/(n-1) · (hprebnⱼ - μ) the mean's own dependence on
      hprebnⱼ drops out, since the differences from the mean sum to 0.
    - Together ∂rᵢ/∂hprebnⱼ = (δᵢⱼ - 1/n - rᵢ rⱼ/(n-1)) / σ. With hpreact = bngain · r + bnbias and
      the sum over the uses i of hprebnⱼ,
      dhprebnⱼ = bngain/σ · (gⱼ - 1/n Σᵢ gᵢ - 1/(n-1) rⱼ Σᵢ gᵢ rᵢ). Below, 1/n is factored out.

    Args:
        dhpreact: Gradient of the output, [n, H], n >= 2.
        hprebn: The input, [n, H].
        bngain: [H].
        eps: Added to the variance.

    Returns:
        dhprebn, [n, H].

    Raises:
        ValueError: A shape does not fit, or n < 2.
    """
    check_batch_norm(hprebn, bngain, dhpreact=dhpreact)
    n = len(hprebn)
    bnraw, bnvar_inv = _normalise(hprebn, eps)
    return (
        bngain
        * bnvar_inv
        / n
        * (n * dhpreact - dhpreact.sum(0) - n / (n - 1) * bnraw * (dhpreact * bnraw).sum(0))
    )


def batch_norm_backward_broadcast(
    dhpreact: Tensor, hprebn: Tensor, bngain: Tensor, eps: float = EPS
) -> Tensor:
    """`batch_norm_backward` through the Jacobian of every column, [n, n, H].

    The notebook's own form. It takes ∂rᵢ/∂hprebnⱼ = (δᵢⱼ - 1/n - rᵢ rⱼ/(n-1)) / σ as derived there
    and leaves the sum over i as it stands:
    dhprebnⱼ = bngain/σ · (gⱼ - Σᵢ (1/n + rⱼ rᵢ/(n-1)) gᵢ).

    Args:
        dhpreact: Gradient of the output, [n, H], n >= 2.
        hprebn: The input, [n, H].
        bngain: [H].
        eps: Added to the variance.

    Returns:
        dhprebn, [n, H].

    Raises:
        ValueError: A shape does not fit, or n < 2.
    """
    check_batch_norm(hprebn, bngain, dhpreact=dhpreact)
    n = len(hprebn)
    bnraw, bnvar_inv = _normalise(hprebn, eps)
    # Dimension 0 is j; dimension 1 is i, which is summed.
    shared = 1 / n + 1 / (n - 1) * bnraw.unsqueeze(1) * bnraw
    return bngain * bnvar_inv * (dhpreact - (shared * dhpreact).sum(1))


def _normalise(hprebn: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return bnraw [n, H] and bnvar_inv [H]."""
    bnvar_inv = (hprebn.var(0, correction=1) + eps) ** -0.5
    return (hprebn - hprebn.mean(0)) * bnvar_inv, bnvar_inv
