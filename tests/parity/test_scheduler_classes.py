"""Every scheduler class of diffusers, with its own defaults, and old files in each pipeline class.

What a pipeline sets right while it loads an old file is compared with diffusers' own pipelines, and
with the source of all of them.
"""

import json
import re
import warnings
from dataclasses import replace
from itertools import product

import diffusers
import pytest
import torch

from sdlearn.cli.main import main
from sdlearn.pipeline import StableDiffusion
from sdlearn.schedule import NoiseSchedule
from sdlearn.versions import SPECS
from sdlearn.weights.json_config import Config
from sdlearn.weights.scheduler_classes import (
    CORRECTED,
    DEFAULTS,
    ENDS,
    SCHEDULERS,
    SUBSTITUTES,
    scheduler_class,
)
from sdlearn.weights.scheduler_config import scheduler_config_to_json
from tests.tiny_model import tiny_diffusers, tiny_sdxl

from .oracle import relative_error
from .test_samplers import PUBLISHED
from .test_scheduler_settings import (
    FOLDER,
    PLAIN,
    SIGNATURES,
    TOLERANCE,
    difference,
    double,
    read,
)

__all__ = ["double"]  # a fixture


def on_the_schedule(name):
    """Whether a class has the noise schedule of Stable Diffusion, with settings for it."""
    settings = SIGNATURES[name]
    return {"beta_start", "beta_schedule"} <= settings.keys() and "snr_shift_scale" not in settings


@pytest.mark.parametrize("name", {**SCHEDULERS, **SUBSTITUTES})
def test_the_defaults_are_those_of_the_class(name):
    published = {**SCHEDULERS, **SUBSTITUTES}[name]
    for key, value in SIGNATURES[name].items():
        if key in DEFAULTS or key in published.defaults:
            assert ({**DEFAULTS, **published.defaults}[key], name, key) == (value, name, key)
        elif key in published.settings and key != "lambda_min_clipped":
            assert value in published.settings[key]
    assert set(published.settings) - set(ENDS) <= set(SIGNATURES[name])
    if name in SCHEDULERS:
        assert set(published.has) <= set(SIGNATURES[name])


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_class_of_diffusers_is_read_replaced_or_refused(name, tmp_path):
    spec, said = read(PLAIN | {"_class_name": name}, tmp_path)
    if name in SCHEDULERS:
        assert (spec.sampler, said) == (SCHEDULERS[name].sampler, [])
    elif on_the_schedule(name):
        assert said == [
            f"{tmp_path / 'scheduler_config.json'}: the scheduler class {name!r} is not supported; "
            f"images are generated with the sampler {spec.sampler!r} on the same noise schedule, "
            "unless sampler= is given"
        ]
        assert spec.schedule == NoiseSchedule()
    else:
        assert said == []
        assert spec.startswith(
            f"{tmp_path / 'scheduler_config.json'}: {name!r} has a noise schedule of its own, "
            "which none of the samplers here can follow; supported classes are DDIMScheduler, "
        )


@pytest.mark.parametrize(
    ("name", "changes", "sampler", "others"),
    [
        ("UniPCMultistepScheduler", {}, "dpm_pp_2m", {"spacing": "linspace", "sigmas": "table"}),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, "dpm_pp_2m", {"sigmas": "karras"}),
        ("DPMSolverSinglestepScheduler", {"solver_order": 3}, "dpm_pp_2m", {}),
        ("DPMSolverSDEScheduler", {"use_karras_sigmas": True}, "dpm_pp_2m", {"sigmas": "karras"}),
        ("KDPM2DiscreteScheduler", {"use_karras_sigmas": True}, "heun", {"sigmas": "karras"}),
        ("KDPM2AncestralDiscreteScheduler", {}, "euler_ancestral", {"spacing": "linspace"}),
        ("LCMScheduler", {}, "ddim", {"spacing": "leading", "final_sigma": "zero"}),
        ("DDIMInverseScheduler", {}, "ddim", {"final_sigma": "zero"}),
        ("DDPMParallelScheduler", {}, "ddpm", {"spacing": "leading"}),
        ("NewScheduler", {"rescale_betas_zero_snr": True}, "ddim", {"spacing": "leading"}),
        ("diffusers_modules.DDIMScheduler", {}, "ddim", {}),
        ("", {}, "ddim", {}),
        ("X" * 1000, {}, "ddim", {}),
    ],
)
def test_another_class_is_replaced_by_the_closest(name, changes, sampler, others, tmp_path):
    spec, said = read(PLAIN | {"_class_name": name} | changes, tmp_path)
    assert spec.sampler == sampler
    assert {key: getattr(spec, key) for key in others} == others
    assert len(said) == 1
    assert len(said[0]) < 500
    scheduler_config_to_json(spec)  # can be saved


@pytest.mark.parametrize("name", [*SUBSTITUTES, "NewScheduler"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trained_betas": [0.1] * 1000}, "trained_betas is [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, ...]; "),
        ({"prediction_type": "sample"}, "prediction_type is 'sample'; accepted: epsilon, v_pred"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'; accepted"),
        ({"beta_schedule": "new"}, "beta_schedule is 'new'; accepted: scaled_linear, linear, sq"),
        ({"beta_end": 1.5}, "beta_end is 1.5; it must be a variance, above 0 and below 1"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas is True; flow matching is not supported"),
    ],
)
def test_a_replaced_class_cannot_replace_the_training(name, changes, words, tmp_path):
    answer, said = read(PLAIN | {"_class_name": name} | changes, tmp_path)
    if "use_flow_sigmas" in changes and "use_flow_sigmas" not in SIGNATURES.get(name, changes):
        assert answer.schedule == NoiseSchedule()  # an entry of another class
    else:
        assert words in answer
        assert said == []


# ------------------------------------------------------------------------------------- corrections

OLD = {
    "no entries": {},
    "zero, and clipped": {"steps_offset": 0, "clip_sample": True, "skip_prk_steps": False},
    "another offset": {"steps_offset": 4, "clip_sample": False, "skip_prk_steps": True},
}
PIPELINES = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLInpaintPipeline",
]


def corrections_in_the_source():
    """Which settings each class of pipeline sets right, read off diffusers' source."""
    found = {}
    for path in FOLDER.glob("pipelines/**/*.py"):
        for part in re.split(r"\nclass ", path.read_text())[1:]:
            keys = re.findall(r'getattr\(scheduler\.config, "(\w+)", \w+\) (?:!=|is) ', part)
            found[re.match(r"\w+", part)[0]] = set(keys)
    return found


def test_the_pipelines_that_correct_old_files_are_those_of_diffusers():
    source = corrections_in_the_source()
    assert {name: source[name] for name in CORRECTED} == {
        name: set(settings) for name, settings in CORRECTED.items()
    }
    others = {name for name, keys in source.items() if keys} - set(CORRECTED)
    assert not {name for name in others if not re.match("Onnx|Alt", name)}


def built(pipeline, config):
    """The scheduler of a diffusers pipeline of this class, after the pipeline has corrected it."""
    kind = getattr(diffusers, pipeline)
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "controlnet"))
    if "XL" in pipeline:
        parts |= dict.fromkeys(("text_encoder_2", "tokenizer_2"))
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    if "ControlNet" not in pipeline:
        del parts["controlnet"]
    return kind(**parts, scheduler=scheduler).scheduler


@pytest.mark.parametrize(("pipeline", "old", "name"), list(product(PIPELINES, OLD, SCHEDULERS)))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_old_files_in_every_pipeline(pipeline, old, name, tmp_path, monkeypatch, double):
    config = PUBLISHED | {"_class_name": name} | OLD[old]
    spec, said = read(config, tmp_path, pipeline=pipeline)
    corrected = CORRECTED.get(pipeline, {})
    left = []  # what is neither corrected nor supported
    if name == "PNDMScheduler" and "skip_prk_steps" not in corrected and old != "another offset":
        left = ["skip_prk_steps False", "skip_prk_steps True"]
    default = name in ("DDIMScheduler", "DDPMScheduler")
    clips = {"no entries": default, "another offset": False}.get(
        old, "clip_sample" in SIGNATURES[name]
    )
    if clips and "clip_sample" not in corrected:
        left = ["clip_sample True", "clip_sample False"]
    if left:
        assert said == [
            f"{tmp_path / 'scheduler_config.json'}: {name} with {left[0]} is not supported; images "
            f"are generated with {left[1]} instead"
        ]
        return
    assert said == []
    assert difference(built(pipeline, config), spec, monkeypatch) <= TOLERANCE


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_null_is_corrected_where_the_pipeline_does(pipeline, tmp_path):
    nulls = {"steps_offset": None, "clip_sample": None, "skip_prk_steps": None}
    spec, said = read(
        PUBLISHED | {"_class_name": "DDIMScheduler"} | nulls, tmp_path, pipeline=pipeline
    )
    assert said == []
    if pipeline in CORRECTED:
        assert spec.steps_offset == 1
    else:
        assert "steps_offset is None; it must be a whole number" in spec


@pytest.mark.parametrize(
    ("make", "name"), [(tiny_diffusers, "DDIMScheduler"), (tiny_sdxl, "EulerDiscreteScheduler")]
)
def test_an_old_folder_draws_what_diffusers_draws(make, name, tmp_path):
    make().save_pretrained(tmp_path)
    old = PUBLISHED | {"_class_name": name, "num_train_timesteps": 1000}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(old))
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", name]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sd = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"guidance_scale": 5}
    theirs = pipe("a cat", num_inference_steps=5, latents=noise, output_type="latent",
        height=16, width=16, **options).images  # fmt: skip
    ours = sd.text_to_image("a cat", steps=5, noise=noise, output="latent", progress=False,
        height=16, width=16, **options)  # fmt: skip
    assert relative_error(ours, theirs) <= 1e-4
    sd.save_pretrained(tmp_path / "saved")
    again = StableDiffusion.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.spec == sd.spec
    if make is tiny_diffusers:
        sd.spec = replace(sd.spec, steps_offset=0)
        with pytest.raises(ValueError, match="steps_offset") as caught:
            sd.save_pretrained(tmp_path / "refused")
        assert str(caught.value) == (
            "steps_offset 0 cannot be saved: a StableDiffusionPipeline sets it to 1 when it is "
            "loaded; set steps_offset=1 in the specification"
        )
        assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_zero_snr_with_velocity(name, spacing, tmp_path, monkeypatch, double):
    """A class without the setting ignores it; on leading times the last entry is not reached."""
    config = PLAIN | {"_class_name": name, "timestep_spacing": spacing}
    config |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    spec, _ = read(config, tmp_path)
    assert spec.schedule.zero_terminal_snr == ("rescale_betas_zero_snr" in SIGNATURES[name])
    if name == "PNDMScheduler":
        assert spec.sampler == "ddim"
        return
    scheduler = getattr(diffusers, name).from_config(config)
    # diffusers puts 2^-24 in the place of the last entry, to which rounding errors add
    assert difference(scheduler, spec, monkeypatch) <= 1e-5


# ------------------------------------------------------------------------------- what is replaced


@pytest.mark.parametrize(
    ("name", "changes", "given", "instead"),
    [
        ("PNDMScheduler", {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'",
         "the sampler 'ddim'"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
         "algorithm_type 'sde-dpmsolver++' and solver_order 3",
         "algorithm_type 'dpmsolver++' and solver_order 2"),
        ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True},
         "use_exponential_sigmas True", "use_lu_lambdas True"),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "use_exponential_sigmas True",
         "use_karras_sigmas True"),
        ("EulerDiscreteScheduler", {"sigma_min": 0.1, "use_karras_sigmas": True}, "sigma_min 0.1",
         "sigma_min None"),
        ("HeunDiscreteScheduler", {"sigma_max": 9, "use_karras_sigmas": True}, "sigma_max 9",
         "sigma_max None"),
        ("DPMSolverMultistepScheduler", {"sigma_min": 0.1, "use_karras_sigmas": True},
         "sigma_min 0.1", "sigma_min None"),
        ("HeunDiscreteScheduler", {"clip_sample": True}, "clip_sample True", "clip_sample False"),
        ("DDIMScheduler", {"timestep_spacing": "linspace"},
         "steps that miss the next timestep, as timestep_spacing 'linspace' has them,",
         "steps from each timestep to the next"),
        ("DDIMScheduler", {"timestep_spacing": "trailing", "_diffusers_version": "0.30.0"},
         "steps that miss the next timestep, as timestep_spacing 'trailing' has them if their "
         "number does not divide 1000,", "steps from each timestep to the next"),
        ("DPMSolverMultistepScheduler",
         {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
         "use_karras_sigmas True and beta_schedule 'squaredcos_cap_v2'", "rounded timesteps"),
        ("DPMSolverMultistepScheduler", {"solver_type": "y" * 5000},
         f"solver_type '{'y' * 57}...{'y' * 58}'", "solver_type 'midpoint'"),
    ],
)  # fmt: skip
def test_what_was_replaced_is_said_and_saved(name, changes, given, instead, tmp_path):
    spec, said = read(PLAIN | {"_class_name": name} | changes, tmp_path)
    assert said == [
        f"{tmp_path / 'scheduler_config.json'}: {name} with {given} is not supported; images are "
        f"generated with {instead} instead"
    ]
    again, said = read(scheduler_config_to_json(spec), tmp_path)
    assert again == spec
    assert said == [] or "from each timestep to the next" in said[0] or "rounded" in said[0]


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler"])
def test_our_own_trailing_files_are_read_without_a_warning(name, tmp_path):
    written = {"_class_name": name, "timestep_spacing": "trailing"}
    spec, _ = read(PLAIN | written | {"_diffusers_version": "0.30.0"}, tmp_path)
    again, said = read(scheduler_config_to_json(spec), tmp_path)
    assert (again, said) == (spec, [])


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("sigmas", ["use_karras_sigmas", "use_lu_lambdas", ""])
def test_the_ends_of_the_noise_levels_are_replaced_where_they_count(
    name, sigmas, tmp_path, monkeypatch, double
):
    """Some classes read them off the file without having such a setting."""
    config = PLAIN | {"_class_name": name, "sigma_min": 0.1, "sigma_max": 9.0}
    spec, said = read(config | ({sigmas: True} if sigmas else {}), tmp_path)
    scheduler = getattr(diffusers, name).from_config(config | ({sigmas: True} if sigmas else {}))
    assert (difference(scheduler, spec, monkeypatch) > TOLERANCE) == (said != [])


def test_noise_levels_that_are_even_in_the_logarithm_get_the_closest(tmp_path):
    for name, sigmas in (
        ("EulerDiscreteScheduler", "karras"),
        ("HeunDiscreteScheduler", "karras"),
        ("LMSDiscreteScheduler", "karras"),
        ("DPMSolverMultistepScheduler", "uniform_lambda"),
    ):
        config = PLAIN | {"_class_name": name, "use_exponential_sigmas": True}
        spec, _ = read(config, tmp_path)
        assert spec.sigmas == sigmas
        scheduler = getattr(diffusers, name).from_config(config)
        scheduler.set_timesteps(20)
        expected = scheduler.sigmas.unique().flip(0)[:-1].log()
        near, far = (
            (torch.stack([p.sigma / p.alpha for p in path[:-1]]).log() - expected).abs().mean()
            for path in (
                StableDiffusion(None, None, None, replace(spec, sigmas=each)).path(20)
                for each in (sigmas, "table")
            )
        )
        assert near < 0.6 * far


def test_unknown_entries_are_ignored_as_diffusers_ignores_them(tmp_path):
    plain = PLAIN | {"_class_name": "EulerDiscreteScheduler"}
    others = {"clip_sample": True, "thresholding": True, "use_flow_sigmas": True, "tensor_format":
        "pt", "predict_epsilon": False, "solver_order": 3, "of_the_future": [1]}  # fmt: skip
    assert read(plain | others, tmp_path) == read(plain, tmp_path)
    defaults = {"beta_start": 0.5, "_use_default_values": ["beta_start"]}
    scheduler = diffusers.EulerDiscreteScheduler.from_config(plain | defaults)
    assert read(plain | defaults, tmp_path)[0].schedule.beta_start == scheduler.config.beta_start


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (["diffusers", "PNDMScheduler"], "PNDMScheduler"),
        ([None, "PNDMScheduler"], "PNDMScheduler"),
        ([None, None], None),
        (None, None),
        (["scheduling_mine", "PNDMScheduler"], "scheduling_mine.PNDMScheduler"),
    ],
)
def test_the_class_in_model_index(entry, name, tmp_path):
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps({"scheduler": entry}))
    assert scheduler_class(Config(path)) == name
    path.write_text("{}")
    assert scheduler_class(Config(path)) is None
    for wrong in ("PNDMScheduler", ["PNDMScheduler"], ["diffusers", 3], [], {"a": 1}):
        path.write_text(json.dumps({"scheduler": wrong}))
        with pytest.raises(ValueError, match="must be a list of a library and the name of a class"):
            scheduler_class(Config(path))


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    tiny_diffusers().save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": "DPMSolverMultistepScheduler"}
    path.write_text(json.dumps(config | {"solver_order": 3}))
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    command = ["generate", "a cat", "--model", str(tmp_path), "--steps", "2"]
    assert main([*command, "--out", str(tmp_path / "a.png")]) in (0, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if "not supported" in line]
    assert len(lines) == 1
    assert lines[0].endswith(
        f"{path}: DPMSolverMultistepScheduler with solver_order 3 is not supported; images are "
        "generated with solver_order 2 instead"
    )


def test_every_system_s_own_file_is_read_in_its_pipeline(tmp_path):
    for spec in SPECS.values():
        pipeline = "StableDiffusionXLPipeline" if len(spec.text) == 2 else "StableDiffusionPipeline"
        content = scheduler_config_to_json(spec, pipeline)
        assert read(content, tmp_path, pipeline=pipeline)[1] == []
