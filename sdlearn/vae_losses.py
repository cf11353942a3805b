"""The losses that train the autoencoder (Rombach et al., arXiv:2112.10752, section 3.1).

A perceptual loss and a patch discriminator pull the reconstruction towards what people see. A KL
term of very small weight bounds the latents.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.distributed import average


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, summed over a latent, averaged over the batch.

    Stable Diffusion gives it the weight 1e-6. That bounds the latents but does not give them unit
    variance, so the diffusion model needs the scaling factor.

    Args:
        mean: (b, c, h, w), as `VAE.encode` returns it.
        logvar: Log of the variance, of the same shape.

    Returns:
        A scalar.
    """
    return 0.5 * (mean**2 + logvar.exp() - 1.0 - logvar).flatten(1).sum(1).mean()


class PerceptualLoss(nn.Module):
    """Distance between two images in the features of a trained network (LPIPS, arXiv:1801.03924).

    Args:
        features: Maps images (b, 3, h, w) to one feature map per stage, (b, c_i, h_i, w_i). It
            must be differentiable.
        weights: One factor per stage, in place of LPIPS's learned weight per channel.
    """

    def __init__(
        self, features: Callable[[Tensor], Sequence[Tensor]], weights: Sequence[float]
    ) -> None:
        super().__init__()
        self.features = features
        self.weights = tuple(weights)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The mean distance over the batch, a scalar; x and target are (b, 3, h, w).

        Gradients reach x only; the target is a constant.
        """
        with torch.no_grad():
            target_features = self.features(target)
        loss = x.new_zeros(())
        for weight, a, b in zip(self.weights, self.features(x), target_features, strict=True):
            # Unit length per position, so that the direction in feature space counts, not contrast.
            a, b = (f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in (a, b))
            loss = loss + weight * (a - b).square().sum(1).mean()
        return loss


class PatchDiscriminator(nn.Module):
    """Classifies overlapping patches as real or reconstructed (PatchGAN, arXiv:1611.07004).

    It maps images (b, 3, h, w) to one logit per patch, (b, 1, h', w'). GroupNorm replaces the
    published BatchNorm: without running statistics, real and reconstructed batches do not leak into
    each other, and a resumed run is exact.

    Args:
        in_channels: Channels of the images.
        width: Channels of the first convolution.
        depth: Number of 4x4 convolutions with stride 2; two with stride 1 follow.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        c = width
        for i in range(1, depth + 1):
            c_in, c = c, width * min(2**i, 8)
            stride = 2 if i < depth else 1
            layers += [
                nn.Conv2d(c_in, c, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, c),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(c, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss, a scalar: the logits of real patches are pushed above 1, of others below -1."""
    return 0.5 * (F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean())


def generator_loss(fake_logits: Tensor) -> Tensor:
    """The adversarial loss of the autoencoder, a scalar: minus the mean logit of its patches."""
    return -fake_logits.mean()


def adversarial_weight(reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """The adaptive weight of the adversarial loss (VQGAN, arXiv:2012.09841, eq. 7).

    With this weight, both losses have gradients of the same norm at the decoder's last layer.

    Args:
        reconstruction: Scalar loss that still has its graph, so call this before backward().
        adversarial: Scalar loss that still has its graph.
        last_weight: Weight of the decoder's last layer.

    Returns:
        A scalar in [0, 1e4], without gradient, for the batch of all processes.
    """
    (g_reconstruction,) = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)
    (g_adversarial,) = torch.autograd.grad(adversarial, last_weight, retain_graph=True)
    g_reconstruction, g_adversarial = average(g_reconstruction), average(g_adversarial)
    return (g_reconstruction.norm() / (g_adversarial.norm() + 1e-4)).clamp(0.0, 1e4)
