"""Whole systems in single files that other programs write: published names, nine channels."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from safetensors.torch import load_file, save_file

from sdlearn import weights
from sdlearn.pipeline import StableDiffusion
from sdlearn.versions import SDXL, SPECS
from sdlearn.weights.single_file import SDXL_INPAINT, detect_spec
from sdlearn.weights.tensor_files import open_weights
from tests.tiny_folders import complaint
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl, tiny_unet

from .oracle import normal

FAMILIES = {"sd1": tiny_diffusers, "sd2": tiny_sd2, "sdxl": tiny_sdxl}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def one_file(folder):
    """The tensors of a published folder under the names of its parts."""
    tensors = {}
    for part in PARTS:
        for path in (folder / part).glob("*.safetensors"):
            tensors |= {f"{part}.{name}": tensor for name, tensor in load_file(path).items()}
    return tensors


def latents(sd):
    options = {"steps": 2, "height": 16, "width": 16, "output": "latent", "progress": False}
    noise = normal(1, 4, 8, 8, seed=3, dtype=torch.float32)
    return sd.text_to_image("a red cat", noise=noise, **options)


@pytest.mark.parametrize("wrapper", ["", "state_dict."])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_in_one_file(family, wrapper, tmp_path):
    """Its images are those of the folder."""
    folder, path = tmp_path / "folder", tmp_path / "model.safetensors"
    FAMILIES[family]().save_pretrained(folder)
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    save_file({wrapper + name: tensor for name, tensor in one_file(folder).items()}, path)
    options = {"device": "cpu", "spec": sd.spec, "tokenizer": folder, "dtype": torch.float32}
    assert torch.equal(latents(StableDiffusion.from_pretrained(path, **options)), latents(sd))
    parts = weights.load_original(sd.spec, path)
    assert torch.equal(parts.unet.conv_in.weight, sd.unet.conv_in.weight)


FAULTS = {
    "no autoencoder": ({"vae."}, {}, "holds no weights of a VAE under known names"),
    "no text encoder": ({"text_encoder."}, {}, "holds no weights of a CLIPTextEncoder under"),
    "a U-Net alone": ({"vae.", "text_encoder.", "text_encoder_2."}, {}, "not of a whole system"),
    "a stranger": (set(), {"unet.extra.weight": (2,)}, "extra.weight"),
    "a second autoencoder": (
        set(),
        {"first_stage_model.decoder.conv_out.weight": (2,)},
        "holds the tensor 'first_stage_model.decoder.conv_out.weight', which belongs to none",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pipeline_in_one_file_that_does_not_fit(fault, tmp_path):
    without, also, words = FAULTS[fault]
    folder, path = tmp_path / "folder", tmp_path / "model.safetensors"
    tiny_sdxl().save_pretrained(folder)
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    kept = {n: t for n, t in one_file(folder).items() if not n.startswith(tuple(without))}
    save_file(kept | {name: torch.zeros(shape) for name, shape in also.items()}, path)
    assert words in complaint(
        lambda: StableDiffusion.from_pretrained(
            path, device="cpu", spec=sd.spec, tokenizer=folder, dtype=torch.float32
        )
    )


# Context channels, input channels -> the system, in both layouts of names.
DETECTED = {
    "SDXL": (2048, 4, SDXL),
    "SDXL for inpainting": (2048, 9, SDXL_INPAINT),
    "SD 1 for inpainting": (768, 9, SPECS["sd1.5-inpaint"]),
    "SD 2 for inpainting": (1024, 9, SPECS["sd2-inpaint"]),
}


@pytest.mark.parametrize("layout", ["original", "published"])
@pytest.mark.parametrize("case", DETECTED)
def test_the_system_follows_from_the_shapes(case, layout, tmp_path):
    context, channels, spec = DETECTED[case]
    names = {
        "original": ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model."),
        "published": ("unet.conv_in.weight", "unet."),
    }
    conv_in, unet = names[layout]
    shapes = {conv_in: (1, channels, 3, 3), f"{unet}x.attn2.to_k.weight": (1, context)}
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    assert detect_spec(path, open_weights(path)) == spec


def test_sdxl_for_inpainting_is_written_and_read_as_such(tmp_path):
    pipe = tiny_sdxl()
    unet = tiny_unet(**{**pipe.unet.config, "in_channels": 9})
    parts = {name: part for name, part in pipe.components.items() if name != "unet"}
    StableDiffusionXLInpaintPipeline(**parts, unet=unet).save_pretrained(tmp_path / "theirs")
    sd = StableDiffusion.from_pretrained(tmp_path / "theirs", device="cpu")
    sd.spec = replace(sd.spec, name=SDXL_INPAINT.name)
    sd.save_pretrained(tmp_path / "ours")
    assert StableDiffusion.from_pretrained(tmp_path / "ours", device="cpu").spec == sd.spec
    again = StableDiffusionXLInpaintPipeline.from_pretrained(tmp_path / "ours")
    assert again.unet.config.in_channels == 9
