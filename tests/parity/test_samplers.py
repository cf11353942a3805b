"""Whole sampling runs against the schedulers of diffusers, with the same network and noise.

Every run begins with the file that the scheduler publishes, read as a model folder's would be, so
that the choice of the sampler and of its path is compared together with the walk.
"""

import json
import warnings
from dataclasses import replace
from itertools import product

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from sdlearn.guidance import denoiser, rescale_guidance
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import SAMPLERS, get_sampler
from sdlearn.versions import SPECS
from sdlearn.weights.scheduler_config import scheduler_config_from_json
from tests.tiny_model import tiny_diffusers

PUBLISHED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLASSES = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm_pp_2m": ("DPMSolverMultistepScheduler", {}),
}
# The schedulers of the published systems, with every entry that counts.
ALL = PUBLISHED | {
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "skip_prk_steps": True,
}
SYSTEMS = {
    "sd1.4": {"_class_name": "PNDMScheduler"},
    "sd1.5": {"_class_name": "PNDMScheduler"},
    "sd1.5-inpaint": {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"},
    "sd2.0-base": {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"},
    "sd2.0": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sd2.1-base": {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"},
    "sd2.1": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sd2-inpaint": {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"},
    "sdxl": {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "epsilon",
        "interpolation_type": "linear",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
}
PREDICTIONS = {"noise": "epsilon", "velocity": "v_prediction"}
SIGMA = ["euler", "euler_ancestral", "heun", "lms"]  # their state is z / alpha
SHAPE = (2, 4, 8, 8)
TOLERANCE = 1e-5


class Network:
    """A smooth stand-in for a U-Net, of the latent and the time, with outputs of about size 1."""

    def __init__(self):
        self.calls = 0

    def __call__(self, z, t):
        self.calls += 1
        time = torch.as_tensor(t, dtype=z.dtype).reshape(-1, 1, 1, 1) / 1000
        return torch.tanh(z.roll(1, 1) * 1.5 - z.flip(3) * time) + 0.3 * torch.cos(4 * time)


def noises(steps, seed=1):
    """The start and a fresh normal for every step, float32."""
    return list(torch.randn(steps + 1, *SHAPE, generator=torch.Generator().manual_seed(seed)))


def made(sampler, **options):
    """A diffusers scheduler by the name of our sampler."""
    name, its_own = CLASSES[sampler]
    options = {"steps_offset": 1} | PUBLISHED | its_own | options
    return getattr(diffusers, name)(**options)


def theirs(scheduler, sampler, steps, monkeypatch, **options):
    """Every latent that a diffusers scheduler passes through, and its calls of the network."""
    network, (start, *fresh) = Network(), noises(steps)
    scheduler.set_timesteps(steps)
    if sampler in ("ddpm", "euler_ancestral"):  # they draw their own noise; give them ours
        place, draws = f"{type(scheduler).__module__}.randn_tensor", iter(fresh)
        monkeypatch.setattr(place, lambda *_, **__: next(draws))
    x = start * scheduler.init_noise_sigma
    latents = [x]
    for i, t in enumerate(scheduler.timesteps):
        if options.get("eta"):
            options["variance_noise"] = fresh[i]
        output = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x, **options).prev_sample
        latents.append(x)
    if sampler == "heun":  # two calls a step
        latents = [*latents[::2], latents[-1]]
        sigmas = [*scheduler.sigmas[::2], scheduler.sigmas[-1]]
    elif sampler == "plms" and steps > 1:  # the first step twice
        del latents[1]
    else:
        sigmas = getattr(scheduler, "sigmas", None)
    if sampler in SIGMA:
        latents = [x / (s**2 + 1) ** 0.5 for x, s in zip(latents, sigmas, strict=True)]
    return latents, network.calls


def ours(spec, steps, **options):
    """Every latent that the sampler of a specification passes through, and its calls."""
    network, (start, *fresh) = Network(), noises(steps)
    offer = get_sampler(spec.sampler)
    path = StableDiffusion(None, None, None, spec).path(steps)
    start = offer.initial_std(path, spec.spacing) * start
    denoise = denoiser(network, spec.predicts)
    walk = offer.sample(denoise, start, path, noise=iter(fresh).__next__, **options)
    return [step.z for step in walk], network.calls


def read(scheduler, tmp_path):
    """The specification that a scheduler's file makes."""
    scheduler.save_pretrained(tmp_path)
    return scheduler_config_from_json(tmp_path / "scheduler_config.json", SPECS["storybook"])


def worst(a, b):
    """The largest relative error of all the latents on the way."""
    assert len(a) == len(b)
    assert a[-1].dtype == b[-1].dtype == torch.float32
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True))


def compare(scheduler, sampler, steps, tmp_path, monkeypatch, **options):
    """The worst error, after the sampler and the number of network calls were found the same."""
    spec = read(scheduler, tmp_path)
    assert spec.sampler == sampler
    a, calls = ours(spec, steps, **options)
    b, expected = theirs(scheduler, sampler, steps, monkeypatch, **options)
    extra = {"plms": steps > 1, "heun": steps - 1}.get(sampler, 0)
    assert calls == expected == steps + extra
    return worst(a, b)


@pytest.mark.parametrize("steps", [7, 20, 50])
@pytest.mark.parametrize("system", SYSTEMS)
def test_published_systems(system, steps, tmp_path, monkeypatch):
    """The published file, and our specification without it, both walk as diffusers does."""
    config = ALL | SYSTEMS[system]
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    spec = SPECS[system]
    assert scheduler_config_from_json(tmp_path / "scheduler_config.json", spec) == spec
    latents, calls = theirs(scheduler, spec.sampler, steps, monkeypatch)
    again, ours_calls = ours(spec, steps)
    assert ours_calls == calls
    assert worst(again, latents) <= TOLERANCE


def cases():
    """Prediction, sampler, spacing, Karras or not, steps. Where diffusers goes from t by a fixed
    stride and not along its list of times, only what makes the two the same is compared, and plms
    for noise alone: diffusers averages raw velocities."""
    for predicts, sampler in product(PREDICTIONS, CLASSES):
        if (predicts, sampler) == ("velocity", "plms"):
            continue
        for spacing in ("leading", "trailing", "linspace"):
            strides = sampler in ("ddim", "plms")
            if strides and spacing == "linspace":
                continue
            for steps in (1, 7, 20, 50):
                if strides and spacing == "trailing" and 1000 % steps:
                    continue
                if (spacing, steps) == ("linspace", 1):  # t = 0, where float32 has lost the sigma
                    continue
                yield predicts, sampler, spacing, None, steps
                if sampler in ("euler", "heun", "lms", "dpm_pp_2m"):
                    yield predicts, sampler, spacing, "use_karras_sigmas", steps
                if sampler == "dpm_pp_2m":
                    yield predicts, sampler, spacing, "use_lu_lambdas", steps


@pytest.mark.parametrize(("predicts", "sampler", "spacing", "points", "steps"), list(cases()))
def test_sampler(sampler, spacing, points, steps, predicts, tmp_path, monkeypatch):
    options = {"timestep_spacing": spacing, "prediction_type": PREDICTIONS[predicts]}
    if points:
        options[points] = True
    scheduler = made(sampler, **options)
    assert compare(scheduler, sampler, steps, tmp_path, monkeypatch) <= TOLERANCE


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize(
    ("steps", "spacing"),
    [(7, "leading"), (20, "leading"), (50, "leading"), (20, "trailing"), (50, "trailing")],
)
@pytest.mark.parametrize("clean", [False, True])
def test_ddim(steps, spacing, eta, predicts, clean, tmp_path, monkeypatch):
    options = {"timestep_spacing": spacing, "prediction_type": PREDICTIONS[predicts]}
    scheduler = made("ddim", **options, set_alpha_to_one=clean)
    assert compare(scheduler, "ddim", steps, tmp_path, monkeypatch, eta=eta) <= TOLERANCE


@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "euler", "euler_ancestral", "dpm_pp_2m"])
def test_zero_terminal_snr(sampler, steps, tmp_path, monkeypatch):
    """The samplers in sigma and in lambda put a little signal into the last entry."""
    options = {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    scheduler = made(sampler, **options, rescale_betas_zero_snr=True)
    first = StableDiffusion(None, None, None, read(scheduler, tmp_path)).path(steps)[0]
    assert first.alpha == (0 if sampler in ("ddim", "ddpm") else 2**-12)
    assert compare(scheduler, sampler, steps, tmp_path, monkeypatch) <= TOLERANCE


def test_zero_terminal_snr_on_karras_points(tmp_path, monkeypatch):
    options = {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    options |= {"rescale_betas_zero_snr": True, "use_karras_sigmas": True}
    for sampler in ("euler", "dpm_pp_2m"):
        scheduler = made(sampler, **options)
        assert compare(scheduler, sampler, 20, tmp_path, monkeypatch) <= TOLERANCE


def test_the_comparison_would_see_a_wrong_end():
    scheduler = DDIMScheduler(**PUBLISHED, steps_offset=1, clip_sample=False, set_alpha_to_one=True)
    a, _ = ours(replace(SPECS["sd1.5"], sampler="ddim"), 20)
    b, _ = theirs(scheduler, "ddim", 20, None)
    assert worst(a, b) > 100 * TOLERANCE


def test_every_sampler_has_been_compared():
    assert list(CLASSES) == list(SAMPLERS)


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [
        ("plms", "leading"),
        ("euler", "leading"),
        ("euler", "linspace"),
        ("dpm_pp_2m", "linspace"),
    ],
)
def test_in_a_whole_pipeline(sampler, spacing, tmp_path):
    """The initial noise has the variance that the sampler wants; rescaled guidance."""
    pipe = tiny_diffusers()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = made(sampler, timestep_spacing=spacing)
    pipe.save_pretrained(tmp_path)
    sd = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"guidance_scale": 5, "guidance_rescale": 0.7}
    b = pipe("a cat", num_inference_steps=5, latents=noise, output_type="latent", **options).images
    options |= {"steps": 5, "noise": noise, "output": "latent", "progress": False}
    a = sd.text_to_image("a cat", **options)
    assert ((a - b).norm() / b.norm()).item() <= 1e-4
    off = sd.text_to_image("a cat", **options | {"guidance_rescale": 0.0})
    assert ((off - b).norm() / b.norm()).item() > 1e-3
    if sampler == "euler":
        less = sd.path(5)[0].sigma.item() if spacing == "linspace" else 1.0
        first = next(sd.trajectory("a cat", steps=5, noise=noise))
        torch.testing.assert_close(first.z, less * noise)


def test_guidance_interval_in_a_pipeline(tmp_path):
    """Outside its bounds the prompt alone; what cannot be an interval is refused."""
    tiny_diffusers().save_pretrained(tmp_path)
    sd = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    options = {"steps": 5, "output": "latent", "progress": False}
    run = lambda **more: sd.text_to_image("a cat", **options | more)  # noqa: E731
    always, never = run(guidance_scale=5), run(guidance_scale=1)
    assert torch.equal(run(guidance_scale=5, guidance_interval=(0, 999)), always)
    outside = run(guidance_scale=5, guidance_interval=(2, 3))  # two prompts encoded, not one:
    assert ((outside - never).norm() / never.norm()).item() <= 1e-6  # older torch rounds otherwise
    some = run(guidance_scale=5, guidance_interval=(300, 700))
    assert min((some - always).norm(), (some - never).norm()) > 0.01
    for wrong, words in [
        ({"guidance_interval": (3, 2)}, r"must be \(lo, hi\) with lo <= hi"),
        ({"guidance_interval": 5}, "two numbers"),
        ({"guidance_interval": (0, float("nan"))}, "finite number"),
        ({"guidance_rescale": 1.5}, r"guidance_rescale is 1\.5; it must lie in 0 … 1"),
        ({"guidance_rescale": "much"}, "guidance_rescale is 'much'"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(**wrong)


def test_a_specification_s_karras_leaves_other_samplers_alone(tmp_path):
    spec = read(made("dpm_pp_2m", use_karras_sigmas=True), tmp_path)
    assert spec.sigmas == "karras"
    sd = StableDiffusion(None, None, None, spec)
    assert sd.path(20) == spec.schedule.path(20, "linspace", "zero", 1, "karras", "lambda")
    assert sd.path(20, "ddim") == spec.schedule.path(20, "linspace", spec.final_sigma)
    assert sd.path(20, "euler", "trailing", "table")[1].t == 949
    with pytest.raises(
        ValueError, match=r"is 'karras'; a sampler that steps in timestep has 'table'$"
    ):
        sd.path(20, "ddim", sigmas="karras")


def test_a_specification_s_lu_is_dpm_solver_s_alone_and_gives_way_to_karras(tmp_path):
    spec = read(made("dpm_pp_2m", use_lu_lambdas=True), tmp_path)
    assert spec.sigmas == "uniform_lambda"
    both = read(made("dpm_pp_2m", use_lu_lambdas=True, use_karras_sigmas=True), tmp_path)
    assert StableDiffusion(None, None, None, both).path(20) == spec.schedule.path(
        20, "linspace", "zero", 1, "karras", "lambda"
    )
    sd = StableDiffusion(None, None, None, spec)
    even = spec.schedule.path(20, "linspace", "zero", 1, "uniform_lambda", "lambda")
    assert sd.path(20) == even
    assert sd.path(20, sigmas="karras") == spec.schedule.path(
        20, "linspace", "zero", 1, "karras", "lambda"
    )
    assert sd.path(20, sigmas="table") == spec.schedule.path(
        20, "linspace", "zero", 1, steps_in="lambda"
    )
    assert sd.path(20, "euler") == spec.schedule.path(20, "linspace", "zero", 1, steps_in="sigma")
    with pytest.raises(ValueError, match="is 'uniform_lambda'; a sampler that steps in sigma has"):
        sd.path(20, "euler", sigmas="uniform_lambda")


def test_the_storybook_s_folder_leaves_its_lu_alone(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(PUBLISHED | {"_class_name": "DDIMScheduler", "clip_sample": False}))
    assert scheduler_config_from_json(path, SPECS["storybook"]).sigmas == "uniform_lambda"
    path.write_text(json.dumps(PUBLISHED | {"_class_name": "DPMSolverMultistepScheduler"}))
    assert scheduler_config_from_json(path, SPECS["storybook"]).sigmas == "table"


def test_a_class_that_is_not_offered_is_replaced(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(PUBLISHED | {"_class_name": "UniPCMultistepScheduler"}))
    words = "'UniPCMultistepScheduler' is not supported; images are generated with the sampler 'dpm"
    with pytest.warns(UserWarning, match=words) as caught:
        spec = scheduler_config_from_json(path, SPECS["sd1.5"])
    assert (spec.sampler, spec.spacing, spec.final_sigma) == ("dpm_pp_2m", "linspace", "min")
    assert str(caught[0].message).startswith(f"{path}: ")
    with pytest.warns(UserWarning, match="'LCMScheduler' is not supported"):
        # As model_index.json names it.
        scheduler_config_from_json(path, SPECS["sd1.5"], "LCMScheduler")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler_config_from_json(path, SPECS["sd1.5"], "EulerDiscreteScheduler")


@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescaled_guidance(phi):
    output, cond = noises(1)
    torch.testing.assert_close(
        rescale_guidance(3 * output, cond, phi), rescale_noise_cfg(3 * output, cond, phi)
    )
