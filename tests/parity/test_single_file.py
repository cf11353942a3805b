"""Original files that say something of their training: what a marker means.

The images are compared with those of diffusers, which reads the same file; what a marker means is
compared with diffusers' scheduler with that setting.
"""

import re
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

from sdlearn import weights
from sdlearn.pipeline import StableDiffusion
from sdlearn.schedule import NoiseSchedule
from sdlearn.versions import SD1_5, SD2_1, SD2_1_BASE, SDXL, SPECS
from sdlearn.weights.markers import as_marked, read_markers
from sdlearn.weights.single_file import detect_spec
from sdlearn.weights.tensor_files import open_weights
from tests.parity.oracle import normal, relative_error
from tests.tiny_model import SCHEDULER, tiny_diffusers, tiny_sdxl
from tests.tiny_original import CLIP, TEXT, original

EMPTY = torch.empty(0)
PROMPT = "a red cat to the left of a blue house"


class File:
    """A tiny system as a folder, and the tensors of its original file."""

    def __init__(self, tiny, prefixes, folder):
        self.folder = folder
        self.pipe = tiny()
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.save_pretrained(folder)
        self.sd = StableDiffusion.from_pretrained(folder, device="cpu")
        self.tensors = original(self.sd.unet, "model.diffusion_model.")
        self.tensors |= original(self.sd.vae, "first_stage_model.")
        for encoder, prefix in zip(self.sd.text.encoders, prefixes, strict=True):
            self.tensors |= original(encoder, prefix)
        self.tensors = {key: value.contiguous() for key, value in self.tensors.items()}

    def write(self, path, tensors=None, metadata=None):
        save_file(self.tensors | (tensors or {}), path, metadata)
        return path

    def read(self, path, **changes):
        spec = replace(self.sd.spec, **changes)
        return StableDiffusion.from_pretrained(
            path, device="cpu", spec=spec, tokenizer=self.folder, dtype=torch.float32
        )


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return File(tiny_sdxl, TEXT["tinyxl"], tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return File(tiny_diffusers, [CLIP], tmp_path_factory.mktemp("sd1"))


def start(seed=3):
    return normal(1, 4, 8, 8, seed=seed, dtype=torch.float32)


def ours(sd, **options):
    options = {"steps": 8, "guidance_scale": 5, "output": "latent", "progress": False} | options
    return sd.text_to_image(PROMPT, noise=start(), **options)


def theirs(pipe):
    options = {"num_inference_steps": 8, "guidance_scale": 5, "output_type": "latent"}
    return pipe(PROMPT, latents=start(), **options).images


# ------------------------------------------------------------------------------------------ markers

NOISE, VELOCITY = "noise", "velocity"
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# The tensors, the metadata -> the prediction, zero terminal SNR.
MARKED = {
    "nothing": ({}, None, NOISE, False),
    "other metadata": ({}, {"format": "pt", "modelspec.title": "v"}, NOISE, False),
    "v_pred": ({"v_pred": EMPTY}, None, VELOCITY, False),
    "v_pred and ztsnr": ({"v_pred": EMPTY, "ztsnr": EMPTY}, None, VELOCITY, True),
    "v_pred of one number": ({"v_pred": torch.ones(1)}, None, VELOCITY, False),
    "prediction_type v": ({}, {"modelspec.prediction_type": "v"}, VELOCITY, False),
    "prediction_type V": ({}, {"modelspec.prediction_type": " V_prediction"}, VELOCITY, False),
    "prediction_type epsilon": ({}, {"modelspec.prediction_type": "epsilon"}, NOISE, False),
    "predict_key v": ({}, {"modelspec.predict_key": "v"}, VELOCITY, False),
    "predict_key epsilon": ({}, {"modelspec.predict_key": "epsilon"}, NOISE, False),
    "kohya, velocity": ({}, {"ss_v_parameterization": "True"}, VELOCITY, False),
    "kohya, noise": (
        {},
        {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "False"},
        NOISE,
        False,
    ),
    "kohya, zero terminal SNR": (
        {},
        {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
        VELOCITY,
        True,
    ),
    "metadata and ztsnr": ({"ztsnr": EMPTY}, {"modelspec.prediction_type": "v"}, VELOCITY, True),
    "tensor against metadata": (
        {"v_pred": EMPTY},
        {"modelspec.prediction_type": "epsilon"},
        VELOCITY,
        False,
    ),
    "table of zero terminal SNR": (
        {
            "v_pred": EMPTY,
            "alphas_cumprod": NoiseSchedule(zero_terminal_snr=True).alphas_cumprod.half(),
        },
        None,
        VELOCITY,
        True,
    ),
    "table": ({"alphas_cumprod": NoiseSchedule().alphas_cumprod.bfloat16()}, None, NOISE, False),
}


@pytest.mark.parametrize("case", MARKED)
def test_a_marked_file_draws_what_diffusers_draws_with_that_setting(xl, tmp_path, case):
    """From the file itself: diffusers reads the weights, and its scheduler gets the setting."""
    tensors, metadata, predicts, zero = MARKED[case]
    path = xl.write(tmp_path / "model.safetensors", tensors, metadata)
    sd = xl.read(path, sampler="euler", spacing="leading")
    assert (sd.spec.predicts, sd.spec.schedule.zero_terminal_snr) == (predicts, zero)
    assert (sd.spec.sampler, sd.spec.spacing) == ("euler", "trailing" if zero else "leading")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionXLPipeline.from_single_file(
            str(path), config=str(xl.folder), local_files_only=True
        )
    config = {key: SCHEDULER[key] for key in ("beta_start", "beta_end", "beta_schedule")}
    config |= {"timestep_spacing": "leading", "steps_offset": 1} | (ZERO if zero else {})
    prediction = "v_prediction" if predicts == VELOCITY else "epsilon"
    pipe.scheduler = EulerDiscreteScheduler(**config, prediction_type=prediction)
    pipe.set_progress_bar_config(disable=True)
    assert relative_error(ours(sd), theirs(pipe)) <= 1e-4
    if predicts == VELOCITY:
        assert relative_error(ours(replace_spec(sd, predicts=NOISE)), ours(sd)) > 0.1
    sd.save_pretrained(tmp_path / "saved")
    again = StableDiffusion.from_pretrained(tmp_path / "saved", device="cpu")
    assert torch.equal(ours(again), ours(sd))


def replace_spec(sd, **changes):
    spec = replace(sd.spec, schedule=NoiseSchedule(), **changes)
    return StableDiffusion(sd.unet, sd.vae, sd.text, spec)


@pytest.mark.parametrize("zero", [False, True])
def test_a_marked_file_of_stable_diffusion_1(one, tmp_path, zero):
    """Its sampler, PLMS, becomes DDIM, as in the published models that predict velocity."""
    marks = {"v_pred": EMPTY} | ({"ztsnr": EMPTY} if zero else {})
    sd = one.read(one.write(tmp_path / "model.safetensors", marks), sampler="plms")
    assert (sd.spec.sampler, sd.spec.predicts) == ("ddim", VELOCITY)
    settings = ZERO if zero else {}
    one.pipe.scheduler = DDIMScheduler(**SCHEDULER | settings, prediction_type="v_prediction")
    assert relative_error(ours(sd), theirs(one.pipe)) <= 1e-4
    sd.save_pretrained(tmp_path / "saved")
    assert StableDiffusion.from_pretrained(tmp_path / "saved", device="cpu").spec.predicts == (
        VELOCITY
    )


EDM = "was trained in the EDM formulation (Playground 2.5, CosXL)"
REFUSED = {
    "EDM": ({"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, None, EDM),
    "EDM with velocity": ({"edm_vpred.sigma_max": torch.tensor(80.0)}, None, EDM),
    "zero terminal SNR without velocity": (
        {"ztsnr": EMPTY},
        None,
        "was trained with zero terminal SNR (according to the tensor 'ztsnr'), where noise cannot",
    ),
    "flow": (
        {},
        {"modelspec.prediction_type": "flow" * 1000},
        "modelspec.prediction_type in its metadata is 'flowflow",
    ),
    "another schedule": (
        {"alphas_cumprod": NoiseSchedule(beta_end=0.02).alphas_cumprod.float()},
        None,
        "was trained on another noise schedule: its table 'alphas_cumprod' is not that of",
    ),
    "a table of another length": (
        {"alphas_cumprod": NoiseSchedule(num_steps=500).alphas_cumprod.float()},
        None,
        "was trained on another noise schedule",
    ),
    "a scaling factor of nothing": (
        {"scale_factor": torch.tensor(0.0)},
        None,
        "scale_factor, the scaling factor of the latents, must be one number above 0",
    ),
    "low-rank adapters": (
        {"lora_unet_conv_in.lora_down.weight": torch.zeros(2, 2)},
        None,
        "holds the tensor 'lora_unet_conv_in.lora_down.weight', which belongs to low-rank adapter",
    ),
    "scaled weights": (
        {"scaled_fp8": EMPTY},
        None,
        "holds the tensor 'scaled_fp8', which belongs to quantised weights, which cannot be read",
    ),
    "a noise augmentation": (
        {"noise_augmentor.data_mean": torch.zeros(2)},
        None,
        "which belongs to Stable Diffusion 2 unCLIP",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(xl, tmp_path, case):
    tensors, metadata, words = REFUSED[case]
    path = xl.write(tmp_path / "model.safetensors", tensors, metadata)
    for read in (lambda: xl.read(path), lambda: weights.load_original(xl.sd.spec, path)):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700


def test_a_specification_that_contradicts_the_file(xl, tmp_path):
    path = xl.write(tmp_path / "a.safetensors", None, {"modelspec.prediction_type": "epsilon"})
    with pytest.raises(
        ValueError, match=r"predicts noise \(according to modelspec\.prediction_type"
    ):
        xl.read(path, predicts="velocity")
    path = xl.write(tmp_path / "b.safetensors", {"v_pred": EMPTY, "ztsnr": EMPTY})
    assert xl.read(path, predicts="velocity").spec.schedule.zero_terminal_snr
    for name, spec in (
        ("predicts='velocity'", xl.sd.spec),
        ("schedule.zero_terminal_snr=True", replace(xl.sd.spec, predicts="velocity")),
    ):
        with pytest.raises(ValueError, match=f"was trained with {name}"):
            weights.load_original(spec, path)
    schedule = NoiseSchedule(zero_terminal_snr=True)
    weights.load_original(replace(xl.sd.spec, predicts="velocity", schedule=schedule), path)
    with pytest.warns(
        UserWarning, match=r"predicts velocity \(according to the tensor 'v_pred'\) and w"
    ):
        weights.load(xl.sd.unet, path)
    table = NoiseSchedule(zero_terminal_snr=True).alphas_cumprod
    path = xl.write(tmp_path / "c.safetensors", {"alphas_cumprod": table})
    with pytest.warns(UserWarning, match="with zero terminal SNR .according to its table"):
        weights.load(xl.sd.unet, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.load(xl.sd.vae, path)
        table = NoiseSchedule().alphas_cumprod
        weights.load(xl.sd.unet, xl.write(path, {"alphas_cumprod": table}))


def test_the_scaling_factor_that_latent_diffusion_measured(xl, tmp_path):
    path = xl.write(tmp_path / "model.safetensors", {"scale_factor": torch.tensor(0.2)})
    sd = xl.read(path)
    assert sd.vae.config.scaling_factor == pytest.approx(0.2)
    assert sd.spec.vae == sd.vae.config
    with pytest.raises(ValueError, match=r"with vae\.scaling_factor=0\.2\d*, but the spec"):
        weights.load_original(xl.sd.spec, path)
    with pytest.raises(ValueError, match=r"latents, is 0\.2; the configuration .* says 0\.3"):
        weights.load(xl.sd.vae, path)
    rounded = {"scale_factor": torch.tensor(0.3).half()}
    assert xl.read(xl.write(path, rounded)).vae.config.scaling_factor == 0.3


def full_size(name, tmp_path, metadata, tensors=None):
    """A file with the tensors that tell a system, and a reading of what it is for."""
    unet = SPECS[name].unet
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (1, unet.in_channels, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (
            1,
            unet.cross_attention_dim,
        ),
    }
    path = tmp_path / "model.safetensors"
    save_file({k: torch.zeros(v) for k, v in shapes.items()} | (tensors or {}), path, metadata)
    found = open_weights(path)
    markers = read_markers(path, found)
    return (
        markers,
        found,
        path,
        lambda: as_marked(detect_spec(path, found, markers.predicts), markers, found, path),
    )


SAID = {
    "SD 2, noise": ("sd2.1", {"modelspec.prediction_type": "epsilon"}, SD2_1_BASE),
    "SD 2, velocity": ("sd2.0", {"modelspec.prediction_type": "v"}, SD2_1),
    "SD 2, 512": ("sd2.0", {"modelspec.architecture": "stable-diffusion-v2-512"}, SD2_1_BASE),
    "SD 2, 768": ("sd2.0", {"modelspec.architecture": "stable-diffusion-v2-768-v"}, SD2_1),
    "SDXL": ("sdxl", {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, SDXL),
    "SDXL, noise": ("sdxl", {"modelspec.prediction_type": "epsilon"}, SDXL),
    "SDXL, velocity": (
        "sdxl",
        {"modelspec.prediction_type": "v"},
        replace(SDXL, predicts="velocity"),
    ),
    "SD 1, velocity": (
        "sd1.5",
        {"modelspec.prediction_type": "v"},
        replace(SD1_5, predicts="velocity", sampler="ddim"),
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_the_metadata_tells_versions_apart(tmp_path, case):
    name, metadata, spec = SAID[case]
    assert full_size(name, tmp_path, metadata)[-1]() == spec


@pytest.mark.parametrize(
    ("given", "said", "instead"),
    [
        ("sd2.1", "epsilon", "such as 'sd2.0-base' or 'sd2.1-base'"),
        ("sd2.1-base", "v", "such as 'sd2.0' or 'sd2.1'"),
    ],
)
def test_another_version_is_named(tmp_path, given, said, instead):
    metadata = {"modelspec.prediction_type": said}
    markers, tensors, path, _ = full_size(given, tmp_path, metadata)
    with pytest.raises(ValueError, match=f"but spec '{given}' predicts .*, {instead}"):
        as_marked(SPECS[given], markers, tensors, path)
