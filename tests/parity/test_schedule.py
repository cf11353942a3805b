"""The noise schedule against the tables and time steps of diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from sdlearn.schedule import NoiseSchedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
KINDS = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("theirs", KINDS)
def test_table(theirs, zero):
    """diffusers multiplies a thousand float32 numbers; in float64 the error is theirs. On the
    cosine schedule its 1 - beta loses most digits near the end, so alphabar itself is compared."""
    scheduler = DDIMScheduler(**BETAS, beta_schedule=theirs, rescale_betas_zero_snr=zero)
    schedule = NoiseSchedule(**BETAS, kind=KINDS[theirs], zero_terminal_snr=zero)
    error = (schedule.alphas_cumprod - scheduler.alphas_cumprod.double()).abs().max()
    assert error < 1e-6


def test_table_in_the_arithmetic_of_the_original_code():
    """Stable Diffusion's own code makes the table in float64, as here: equal to rounding."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    alphabar = np.cumprod(1 - betas)
    np.testing.assert_allclose(NoiseSchedule().alphas_cumprod.numpy(), alphabar, rtol=1e-12)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("scheduler_class", [DDIMScheduler, DDPMScheduler])
def test_times(scheduler_class, spacing):
    scheduler = scheduler_class(timestep_spacing=spacing, steps_offset=1)
    for steps in [1, 2, 3, 7, 13, 20, 30, 50, 64, 100, 160, 333, 500, 999]:
        scheduler.set_timesteps(steps)
        assert NoiseSchedule().timesteps(steps, spacing) == scheduler.timesteps.tolist(), steps


def test_noising():
    scheduler = DDPMScheduler(**BETAS, beta_schedule="scaled_linear")
    z_0, eps = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1, 250, 981, 999])
    alpha, sigma = (x.float().view(-1, 1, 1, 1) for x in NoiseSchedule().at(t))
    theirs = scheduler.add_noise(z_0, eps, t)
    torch.testing.assert_close(alpha * z_0 + sigma * eps, theirs, atol=2e-6, rtol=0)
