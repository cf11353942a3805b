"""scheduler_config.json as it is written here: read back to the same, and drawn with by diffusers.

Every specification with every sampler, on each choice of sigmas that the sampler has. What
the published class has no setting for is refused before anything is written.
"""

import json
from dataclasses import replace
from itertools import product

import diffusers
import pytest
import torch

from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule
from sdlearn.utils.atomic_files import write_json
from sdlearn.utils.resources import data_folder
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.scheduler_config import (
    scheduler_config_from_json,
    scheduler_config_to_json,
)
from tests.tiny_model import tiny_diffusers, tiny_sd2

from .oracle import relative_error
from .test_samplers import CLASSES, ours, theirs, worst

TOLERANCE = 1e-5
POINTS = {
    "euler": ["karras"],
    "heun": ["karras"],
    "lms": ["karras"],
    "dpm_pp_2m": ["karras", "uniform_lambda"],
}
DRAWN = [(sampler, points) for sampler in SAMPLERS for points in ("", *POINTS.get(sampler, ()))]
STOCHASTIC = ("ddpm", "euler_ancestral")
ZERO_SNR = NoiseSchedule(zero_terminal_snr=True)
# Other settings than the published ones, each for the samplers with which diffusers goes that way:
# its DDIM and PNDM go by a fixed stride of t and not along their list of times.
STRIDES = ("ddim", "plms")
VARIATIONS = {
    "trailing": ({"spacing": "trailing"}, set(SAMPLERS)),
    "linspace": ({"spacing": "linspace"}, set(SAMPLERS) - {*STRIDES}),
    "no offset": ({"steps_offset": 0}, set(SAMPLERS)),
    "clean": ({"final_sigma": "zero"}, set(SAMPLERS)),
    "linear": ({"schedule": NoiseSchedule(1000, 1e-4, 0.02, "linear")}, set(SAMPLERS)),
    "cosine": ({"schedule": NoiseSchedule(kind="cosine")}, set(SAMPLERS)),
    "few": ({"schedule": NoiseSchedule(num_steps=400)}, set(SAMPLERS)),
    "zero SNR": (
        {"schedule": ZERO_SNR, "spacing": "trailing", "predicts": "velocity"},
        {"ddim", "ddpm", "euler", "euler_ancestral", "dpm_pp_2m"},
    ),
}


def drawing(spec: ModelSpec, sampler: str, points: str) -> ModelSpec:
    """The specification with another sampler and, where there are any, other points."""
    return replace(spec, sampler=sampler, **({"sigmas": points} if points else {}))


def cases():
    """Every specification that can be written, by name."""
    for name, (sampler, points) in product(SPECS, DRAWN):
        if not (sampler == "plms" and SPECS[name].predicts == "velocity"):
            yield name, sampler, points
    for variation, (_, samplers) in VARIATIONS.items():
        for sampler, points in DRAWN:
            if sampler in samplers:
                yield variation, sampler, points


def specification(name: str, sampler: str, points: str) -> ModelSpec:
    """What `cases` names."""
    spec = SPECS[name] if name in SPECS else replace(SPECS["sd1.5"], **VARIATIONS[name][0])
    return drawing(spec, sampler, points)


def read_back(spec: ModelSpec, base: ModelSpec, tmp_path) -> ModelSpec:
    """Write a specification's file and read it into another specification."""
    write_json(tmp_path / "scheduler_config.json", scheduler_config_to_json(spec))
    return scheduler_config_from_json(tmp_path / "scheduler_config.json", base)


def numbers(spec: ModelSpec, steps: int, **other) -> torch.Tensor:
    """t, alpha and sigma of a specification's path, (steps + 1, 3)."""
    path = StableDiffusion(None, None, None, spec).path(steps, **other)
    return torch.tensor([[point.t, point.alpha, point.sigma] for point in path])


@pytest.mark.parametrize(("name", "sampler", "points"), list(cases()))
def test_a_written_file_reads_back_to_the_same(name, sampler, points, tmp_path):
    spec = specification(name, sampler, points)
    again = read_back(spec, SPECS[spec.name], tmp_path)
    assert (again.sampler, again.predicts) == (sampler, spec.predicts)
    for steps in (1, 7, 20):
        assert torch.equal(numbers(again, steps), numbers(spec, steps))
        for other in SAMPLERS:  # a caller may ask for any of them
            again_other, spec_other = (numbers(x, steps, sampler=other) for x in (again, spec))
            assert torch.equal(again_other, spec_other)
    assert again == spec


def drawn_cases():
    """The same with numbers of steps, without what diffusers' float32 cannot reach: the ends of the
    two steeper tables, to which Karras's and Lu's points go, and few steps from pure noise. Nor are
    7 "trailing" steps drawn: 7 does not divide 1000, and diffusers' DDIM then steps to another time
    than the one at which it calls the network next."""
    for name, sampler, points in cases():
        if not (points and name in ("linear", "cosine")):
            few = 4 if name == "storybook-few-steps" else 7
            for steps in (few, 20) if name in SPECS else (20,):
                yield name, sampler, points, steps


@pytest.mark.parametrize(("name", "sampler", "points", "steps"), list(drawn_cases()))
def test_diffusers_draws_the_same_from_a_written_file(name, sampler, points, steps, monkeypatch):
    spec = specification(name, sampler, points)
    config = scheduler_config_to_json(spec)
    kind = getattr(diffusers, config["_class_name"])
    warned = []
    monkeypatch.setattr(diffusers.configuration_utils.logger, "warning", warned.append)
    scheduler = kind.from_config(config)
    assert warned == []  # every entry is known, if not to this class then to another
    assert kind.__name__ == CLASSES[sampler][0]
    said = {key: value for key, value in config.items() if key != "_class_name"}
    assert said.items() <= scheduler.config.items()
    latents, calls = theirs(scheduler, sampler, steps, monkeypatch)
    again, ours_calls = ours(spec, steps)
    assert ours_calls == calls
    assert worst(again, latents) <= TOLERANCE


def test_every_sampler_has_been_written():
    assert {sampler for _, sampler, _ in cases()} == SAMPLERS.keys()
    assert {name for name, _, _ in cases()} == {*SPECS, *VARIATIONS}
    specs = [specification(*case) for case in cases()]
    assert {s.sampler for s in specs if s.sigmas == "karras"} == POINTS.keys()
    uniform = [s for s in specs if s.sigmas == "uniform_lambda"]
    assert {s.sampler for s in uniform if not s.name.startswith("storybook")} == {"dpm_pp_2m"}


@pytest.mark.parametrize(
    ("make", "sampler", "points"),
    [
        (make, *drawn)
        for make, drawn in product((tiny_diffusers, tiny_sd2), DRAWN)
        if (make, drawn[0]) != (tiny_sd2, "plms")  # averaged velocities are refused, see below
    ],
)
def test_a_saved_model_keeps_its_sampler(make, sampler, points, tmp_path, monkeypatch):
    steps = 6
    make().save_pretrained(tmp_path / "theirs")
    sd = StableDiffusion.from_pretrained(tmp_path / "theirs", device="cpu")
    sd.spec = drawing(sd.spec, sampler, points)
    sd.save_pretrained(tmp_path / "ours")
    again = StableDiffusion.from_pretrained(tmp_path / "ours", device="cpu")
    assert again.spec == sd.spec
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(pipe.scheduler).__name__ == CLASSES[sampler][0]
    index = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", CLASSES[sampler][0]]

    noises = torch.randn(steps + 1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    if sampler in STOCHASTIC:  # they draw their own noise; give them ours
        fresh = iter(noises[1:])
        place = f"{type(pipe.scheduler).__module__}.randn_tensor"
        monkeypatch.setattr(place, lambda *_, **__: next(fresh))
    pipe.set_progress_bar_config(disable=True)
    options = {"guidance_scale": 5}
    expected = pipe(
        "a cat", num_inference_steps=steps, latents=noises[0], output_type="latent", **options
    ).images
    options |= {"steps": steps, "output": "latent", "progress": False}
    latents = again.text_to_image("a cat", noise=iter(noises).__next__, **options)
    before = sd.text_to_image("a cat", noise=iter(noises).__next__, **options)
    assert torch.equal(latents, before)
    assert relative_error(latents, expected) <= TOLERANCE
    if sampler not in ("ddim", "euler") or points:  # on leading times Euler's steps are DDIM's
        other = again.text_to_image("a cat", sampler="ddim", noise=noises[0], **options)
        assert relative_error(other, expected) > 100 * TOLERANCE


def test_the_storybook_s_file_is_unchanged(tmp_path):
    path = data_folder("storybook") / "scheduler" / "scheduler_config.json"
    write_json(tmp_path / "scheduler_config.json", scheduler_config_to_json(SPECS["storybook"]))
    assert (tmp_path / "scheduler_config.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("sigmas", ["table", "karras", "uniform_lambda"])
@pytest.mark.parametrize(
    ("name", "system"),
    [("sd1.5", "sd1.5"), ("storybook", "storybook"), ("mine", "sd1.5"), ("mine", "storybook")],
)
def test_sigmas_for_another_sampler_are_kept(name, system, sigmas, tmp_path):
    """DDIM has no such choice; with DPM-Solver++ instead, it is the specification's."""
    for sampler in ("ddim", "dpm_pp_2m"):
        spec = replace(SPECS[system], name=name, sampler=sampler, sigmas=sigmas)
        again = read_back(spec, replace(SPECS[system], name=name), tmp_path)
        assert again.sigmas == sigmas
        for other in ("ddim", "dpm_pp_2m"):
            again_other, spec_other = (numbers(x, 20, sampler=other) for x in (again, spec))
            assert torch.equal(again_other, spec_other)


def test_points_of_another_class_do_not_count_where_the_class_has_none(tmp_path, monkeypatch):
    """A file may keep another class's entries; diffusers ignores them, and so does reading."""
    for sampler, key in (
        ("euler_ancestral", "use_karras_sigmas"),
        ("heun", "rescale_betas_zero_snr"),
        ("lms", "rescale_betas_zero_snr"),
        ("plms", "rescale_betas_zero_snr"),
    ):
        config = {**scheduler_config_to_json(replace(SPECS["sd1.5"], sampler=sampler)), key: True}
        write_json(tmp_path / "scheduler_config.json", config)
        spec = scheduler_config_from_json(tmp_path / "scheduler_config.json", SPECS["sd1.5"])
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        latents, _ = theirs(scheduler, sampler, 20, monkeypatch)
        assert worst(ours(spec, 20)[0], latents) <= TOLERANCE


REFUSED = {
    "averaged velocities": (
        {"sampler": "plms", "predicts": "velocity"},
        "sampler 'plms' cannot be saved with predicts='velocity': PNDMScheduler averages "
        "velocities, not noise; choose one of ddim, ddpm, euler, euler_ancestral, heun, lms, "
        "dpm_pp_2m",
    ),
    "Karras's points": (
        {"sampler": "euler_ancestral", "sigmas": "karras"},
        "sampler 'euler_ancestral' cannot be saved with sigmas='karras': "
        "EulerAncestralDiscreteScheduler has no setting use_karras_sigmas; choose one of euler, "
        "heun, lms, dpm_pp_2m",
    ),
    **{
        f"a last entry of pure noise, {sampler}": (
            {"sampler": sampler, "schedule": ZERO_SNR},
            f"sampler '{sampler}' cannot be saved with zero_terminal_snr=True: "
            f"{CLASSES[sampler][0]} has no setting rescale_betas_zero_snr; choose one of ddim, "
            "ddpm, euler, euler_ancestral, dpm_pp_2m",
        )
        for sampler in ("plms", "heun", "lms")
    },
    "a sampler": (
        {"sampler": "magic"},
        "sampler 'magic' cannot be saved: the samplers with a published scheduler are ddim, ddpm, "
        "plms, euler, euler_ancestral, heun, lms, dpm_pp_2m",
    ),
    "an end": (
        {"final_sigma": "last"},
        "final_sigma is 'last'; it must be 'min' or 'zero'",
    ),
    "a spacing": (
        {"spacing": "even"},
        "spacing is 'even'; it must be 'leading', 'trailing' or 'linspace'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_file_can_say_is_refused_before_anything_is_written(what, tmp_path):
    changes, words = REFUSED[what]
    tiny_diffusers().save_pretrained(tmp_path / "theirs")
    sd = StableDiffusion.from_pretrained(tmp_path / "theirs", device="cpu")
    sd.spec = replace(sd.spec, **changes)
    with pytest.raises(ValueError, match=r"sampler|final_sigma|spacing") as caught:
        sd.save_pretrained(tmp_path / "ours")
    assert str(caught.value) == words
    assert not (tmp_path / "ours").exists()
