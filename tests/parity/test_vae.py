"""The autoencoder against diffusers' AutoencoderKL, and its losses against known values."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from sdlearn import vae, vae_losses
from sdlearn.vae import VAE, VAEConfig
from sdlearn.vae_losses import PatchDiscriminator, PerceptualLoss

from .oracle import (
    DTYPES,
    TOLERANCE,
    VISIBLE,
    normal,
    published,
    randomise,
    relative_error,
)

CONFIGS = {
    "two levels": VAEConfig(block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4),
    "three levels": VAEConfig(block_out_channels=(16, 32, 16), norm_num_groups=8),
    "other channels": VAEConfig(
        in_channels=1,
        out_channels=2,
        latent_channels=3,
        block_out_channels=(8, 8, 16, 24),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=0.7,
    ),
}


def their_vae(config: VAEConfig) -> AutoencoderKL:
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        scaling_factor=config.scaling_factor,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def pair(config: VAEConfig, dtype: torch.dtype = torch.float64) -> tuple[VAE, AutoencoderKL]:
    theirs = randomise(their_vae(config).to(dtype))
    ours = VAE(config).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    return ours, theirs


def pictures(ours: VAE, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    f = ours.factor
    return normal(2, ours.config.in_channels, 2 * f, 3 * f, dtype=dtype)


def error(ours: VAE, theirs: AutoencoderKL) -> float:
    """The larger error of the two directions, each on its own random input."""
    x = pictures(ours, next(ours.parameters()).dtype)
    posterior = theirs.encode(x).latent_dist
    mean, logvar = ours.encode(x)
    z = normal(*mean.shape, seed=1, dtype=x.dtype)
    return max(
        relative_error(mean, posterior.mean),
        relative_error(logvar, posterior.logvar),
        relative_error(ours.decode(z), theirs.decode(z).sample),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_encodes_and_decodes_like_diffusers(name: str, dtype: torch.dtype) -> None:
    assert error(*pair(CONFIGS[name], dtype)) <= TOLERANCE[dtype]


def test_latents_are_scaled_samples_and_pictures_are_clamped() -> None:
    ours, theirs = pair(CONFIGS["other channels"])
    x = pictures(ours)
    posterior = theirs.encode(x).latent_dist
    noise = normal(*posterior.mean.shape, seed=2)
    sample = posterior.mean + posterior.std * noise
    assert relative_error(ours.to_latent(x), 0.7 * posterior.mode()) <= 1e-12
    assert relative_error(ours.to_latent(x, noise), 0.7 * sample) <= 1e-12
    wanted = theirs.decode(noise / 0.7).sample
    assert wanted.abs().max() > 1
    assert relative_error(ours.to_image(noise), wanted.clamp(-1, 1)) <= 1e-12


def test_log_variance_is_clamped_like_diffusers() -> None:
    ours, theirs = pair(CONFIGS["two levels"])
    with torch.no_grad():
        for module in (ours, theirs):
            module.quant_conv.weight.mul_(100)
    _, logvar = ours.encode(pictures(ours))
    assert (logvar.min(), logvar.max()) == (-30, 20)
    assert relative_error(logvar, theirs.encode(pictures(ours)).latent_dist.logvar) <= 1e-12


def test_a_picture_of_the_wrong_size_is_refused() -> None:
    ours = VAE(CONFIGS["three levels"])
    with pytest.raises(ValueError, match=r"8 x 10 pixels .* multiples of 4"):
        ours.encode(torch.zeros(1, 3, 8, 10))


# --- mistakes that are easily made: each must be far outside the tolerance


def test_a_wrong_norm_epsilon_would_show() -> None:
    ours, theirs = pair(CONFIGS["three levels"])
    for module in ours.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-5
    assert error(ours, theirs) > VISIBLE


def test_symmetric_padding_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def padded_on_all_sides(self: vae.Downsample, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.conv.weight, self.conv.bias, stride=2, padding=1)

    ours, theirs = pair(CONFIGS["three levels"])
    monkeypatch.setattr(vae.Downsample, "forward", padded_on_all_sides)
    assert error(ours, theirs) > 0.1


def test_attention_without_residual_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vae.SpatialSelfAttention.forward
    ours, theirs = pair(CONFIGS["three levels"])
    monkeypatch.setattr(vae.SpatialSelfAttention, "forward", lambda self, x: right(self, x) - x)
    assert error(ours, theirs) > 0.1


# --- the losses


def test_kl_divergence_is_the_exact_one() -> None:
    mean, logvar = normal(3, 4, 2, 5, seed=3), normal(3, 4, 2, 5, seed=4)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    standard = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    exact = torch.distributions.kl_divergence(posterior, standard).sum() / 3
    assert relative_error(vae_losses.kl_divergence(mean, logvar), exact) <= 1e-12
    assert vae_losses.kl_divergence(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)) == 0


def test_perceptual_loss_compares_directions_stage_by_stage() -> None:
    def features(x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x[:, :, ::2, ::2] ** 2]

    loss = PerceptualLoss(features, weights=(1.0, 10.0))
    x = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    x[:, 0] = 3.0
    y = x.clone()
    y[:, :, 0, 0] = torch.tensor([0.0, 5.0])  # one position of 16, and of the 4 in stage two
    # Orthogonal unit vectors are sqrt(2) apart.
    assert loss(y, x).item() == pytest.approx(1.0 * 2 / 16 + 10.0 * 2 / 4, rel=1e-9)
    assert loss(7 * x, x).item() == pytest.approx(0.0, abs=1e-12)


def test_perceptual_loss_moves_the_first_picture_only() -> None:
    network = torch.nn.Conv2d(3, 5, 3)
    loss = PerceptualLoss(lambda x: [network(x)], weights=(1.0,))
    x, target = torch.randn(2, 1, 3, 6, 6).unbind()
    x.requires_grad_(True)
    target.requires_grad_(True)
    loss(x, target).backward()
    assert x.grad is not None
    assert x.grad.norm() > 0
    assert target.grad is None


def test_hinge_losses() -> None:
    real, fake = torch.tensor([3.0, 0.0]), torch.tensor([-2.0, 1.0])
    assert vae_losses.discriminator_loss(real, fake).item() == 0.5 * (0.5 + 1.0)
    assert vae_losses.generator_loss(fake).item() == 0.5


def test_adversarial_weight_balances_the_gradients() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = 6 * w.sum(), (-2 * w).sum()
    weight = vae_losses.adversarial_weight(reconstruction, adversarial, w)
    assert weight.item() == pytest.approx(3.0, rel=1e-3)
    (reconstruction + weight * adversarial).backward()
    assert w.grad is not None
    assert w.grad.norm() / (6 * math.sqrt(2)) < 1e-3


@pytest.mark.parametrize(("depth", "side"), [(1, 30), (2, 14), (3, 6)])
def test_discriminator_judges_each_picture_by_itself(depth: int, side: int) -> None:
    judge = PatchDiscriminator(width=8, depth=depth).double()
    x = normal(3, 3, 64, 64)
    logits = judge(x)
    assert logits.shape == (3, 1, side, side)
    assert relative_error(judge(x[1:2]), logits[1:2]) <= 1e-12
    assert torch.equal(judge.eval()(x), logits)


def test_a_patch_far_away_matters_only_through_the_norm() -> None:
    """With the norms taken out, a logit sees its own patch: 16 pixels wide at depth 1."""
    judge = PatchDiscriminator(width=8, depth=1).double()
    judge.layers = torch.nn.Sequential(
        *(m for m in judge.layers if not isinstance(m, torch.nn.GroupNorm))
    )
    x = normal(1, 3, 64, 64).requires_grad_(True)
    judge(x)[0, 0, 15, 15].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 == 16
