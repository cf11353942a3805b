"""Muon (Jordan 2024, scaled as in arXiv:2502.16982): orthogonalised updates for matrices.

The update of a weight matrix is its momentum with all singular values brought close to 1, so it
has the same size in every direction, not only in those that dominate the gradient. Vectors are
updated by Adam. On two CPU cores our autoencoder reached the same error in about half the time of
Adam. torch.optim.Muon accepts two-dimensional parameters only, while convolutions have four
dimensions, and it computes in bfloat16, which is slow on most CPUs.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SMALLEST = 8  # Adam updates matrices with a shorter side, such as the last convolution


class Muon(torch.optim.AdamW):
    """AdamW in which weights with at least 8 rows and columns get orthogonalised updates.

    A weight of shape (c_out, c_in, kh, kw) is treated as a matrix (c_out, c_in kh kw). Both kinds
    of update have a root mean square of about 0.2 lr or less, so all parameters share one learning
    rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 1e-3) -> None:
        """Prepare the optimizer of some parameters, with a learning rate."""
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for p in parameters:
            is_matrix = p.ndim >= 2 and min(p.flatten(1).shape) >= SMALLEST
            (matrices if is_matrix else others).append(p)
        groups = [{"params": others, "whiten": False}, {"params": matrices, "whiten": True}]
        super().__init__(groups, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        matrices, gradients = self.param_groups[1], []
        for p in matrices["params"]:
            gradients.append(p.grad)
            if p.grad is not None:
                self._whitened_step(p, p.grad, matrices["lr"])
                p.grad = None  # Adam skips parameters without a gradient
        super().step()
        for p, gradient in zip(matrices["params"], gradients, strict=True):
            p.grad = gradient

    def _whitened_step(self, p: nn.Parameter, gradient: Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
            state["step"] = torch.tensor(0.0)  # AdamW expects it when it loads a saved state
        momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
        direction = whiten((gradient + MOMENTUM * momentum).flatten(1))
        p.add_(direction.view_as(p), alpha=-0.2 * lr * max(direction.shape) ** 0.5)


def whiten(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Approximate U V^T of the singular value decomposition of a matrix (m, n).

    The result has singular values between about 0.7 and 1.2. It is computed by a quintic
    Newton-Schulz iteration with the coefficients of Jordan (2024).

    Args:
        matrix: (m, n).
        rounds: Iterations.
    """
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(rounds):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x
