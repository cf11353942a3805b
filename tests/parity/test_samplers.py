"""Whole sampling runs against the schedulers of diffusers, with the same network and noise."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from sdlearn.guidance import denoiser, rescaled
from sdlearn.samplers import ddim, ddpm
from sdlearn.schedule import NoiseSchedule

PUBLISHED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
PREDICTIONS = {"noise": "epsilon", "velocity": "v_prediction"}
SHAPE = (2, 4, 8, 8)
TOLERANCE = 1e-5


def network(z, t):
    """A smooth stand-in for a U-Net, of the latent and the time, with outputs of about size 1."""
    time = torch.as_tensor(t, dtype=z.dtype).reshape(-1, 1, 1, 1) / 1000
    return torch.tanh(z.roll(1, 1) * 1.5 - z.flip(3) * time) + 0.3 * torch.cos(4 * time)


def noises(steps, seed=1):
    """The start and a fresh normal for every step, float32."""
    return list(torch.randn(steps + 1, *SHAPE, generator=torch.Generator().manual_seed(seed)))


def theirs(scheduler, steps, monkeypatch=None, **options):
    """Every latent that a diffusers scheduler passes through."""
    start, *fresh = noises(steps)
    scheduler.set_timesteps(steps)
    z, latents = start, [start]
    for t, noise in zip(scheduler.timesteps, fresh, strict=True):
        if monkeypatch:  # DDPM draws its own noise; give it ours
            place = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
            monkeypatch.setattr(place, lambda *_, noise=noise, **__: noise)
        elif options.get("eta"):
            options["variance_noise"] = noise
        z = scheduler.step(network(z, t), t, z, **options).prev_sample
        latents.append(z)
    return latents


def ours(walk, predicts, path, **options):
    """Every latent that one of our samplers passes through."""
    start, *fresh = noises(len(path) - 1)
    steps = walk(denoiser(network, predicts), start, path, noise=iter(fresh).__next__, **options)
    return [step.z for step in steps]


def worst(a, b):
    """The largest relative error of all the latents on the way."""
    assert len(a) == len(b)
    assert a[-1].dtype == b[-1].dtype == torch.float32
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("steps", "spacing"),
    [(7, "leading"), (20, "leading"), (50, "leading"), (20, "trailing"), (50, "trailing")],
)
@pytest.mark.parametrize("final", ["first", "clean"])
def test_ddim(steps, spacing, eta, predicts, final):
    scheduler = DDIMScheduler(
        **PUBLISHED,
        set_alpha_to_one=final == "clean",
        timestep_spacing=spacing,
        prediction_type=PREDICTIONS[predicts],
    )
    path = NoiseSchedule().path(steps, spacing, final)
    error = worst(ours(ddim, predicts, path, eta=eta), theirs(scheduler, steps, eta=eta))
    assert error <= TOLERANCE


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [7, 20, 50])
def test_ddpm(steps, spacing, predicts, monkeypatch):
    scheduler = DDPMScheduler(
        **PUBLISHED, timestep_spacing=spacing, prediction_type=PREDICTIONS[predicts]
    )
    path = NoiseSchedule().path(steps, spacing, "clean")
    assert worst(ours(ddpm, predicts, path), theirs(scheduler, steps, monkeypatch)) <= TOLERANCE


def test_zero_terminal_snr():
    scheduler = DDIMScheduler(
        **PUBLISHED,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    path = NoiseSchedule(zero_terminal_snr=True).path(20, "trailing")
    assert path[0].alpha == 0
    assert worst(ours(ddim, "velocity", path), theirs(scheduler, 20)) <= TOLERANCE


def test_the_comparison_would_see_a_wrong_end():
    scheduler = DDIMScheduler(**PUBLISHED, set_alpha_to_one=True)
    path = NoiseSchedule().path(20, final="first")
    assert worst(ours(ddim, "noise", path), theirs(scheduler, 20)) > 100 * TOLERANCE


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaled_guidance(phi):
    output, cond = noises(1)
    torch.testing.assert_close(
        rescaled(3 * output, cond, phi), rescale_noise_cfg(3 * output, cond, phi)
    )
