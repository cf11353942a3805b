"""Stable Diffusion 1, 2 and XL as whole systems: folders written by diffusers, read here, must give
its texts, latents and pictures from the same noise."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file

from sdlearn.inpainting import encode_images
from sdlearn.pipeline import StableDiffusion
from sdlearn.text import Conditioning, Sizes, token_ids
from tests import local_hub
from tests.tiny_model import SCHEDULER, tiny_diffusers, tiny_sd2, tiny_sdxl, tiny_unet

from .oracle import TOLERANCE, normal, relative_error

FAMILIES = {"sd1": tiny_diffusers, "sd2": tiny_sd2, "sdxl": tiny_sdxl}
PROMPTS = ["a red cat to the left of a blue house", "two green fish! a zebra 123!"]
NEGATIVES = [None, "", "snow", ["snow", "a yellow balloon"]]
FINAL = 1e-4  # relative error of the final latents


class Family:
    def __init__(self, name, folder):
        self.pipe = FAMILIES[name]()
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.save_pretrained(folder)
        self.folder = folder
        self.sd = StableDiffusion.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: Family(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def family(request, families):
    return families[request.param]


@pytest.fixture
def xl(families):
    return families["sdxl"]


def noise(*size):
    return normal(*(size or (2, 4, 8, 8)), seed=3, dtype=torch.float32)


def latents(sd, prompt=PROMPTS, start=None, **options):
    options = {"steps": 8, "guidance_scale": 5, "output": "latent", "progress": False} | options
    return sd.text_to_image(prompt, noise=noise() if start is None else start, **options)


def theirs(pipe, prompt=PROMPTS, start=None, negative=None, **options):
    options = {"num_inference_steps": 8, "guidance_scale": 5, "output_type": "latent"} | options
    if isinstance(negative, str):
        negative = [negative] * len(prompt)
    start = noise() if start is None else start
    return pipe(prompt, negative_prompt=negative, latents=start, **options).images


# ------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("negative", NEGATIVES, ids=str)
def test_latents(family, negative):
    a, b = latents(family.sd, negative_prompt=negative), theirs(family.pipe, negative=negative)
    assert relative_error(a, b) <= FINAL
    assert relative_error(a.flip(0), b) > 0.1  # or the comparison could be blind


def test_latents_without_guidance(family):
    a, b = latents(family.sd, guidance_scale=1), theirs(family.pipe, guidance_scale=1)
    assert relative_error(a, b) <= FINAL


def test_several_pictures_of_several_prompts_in_another_size(family):
    start = noise(4, 4, 12, 20)
    a = latents(family.sd, start=start, n=2, height=24, width=40)
    b = theirs(family.pipe, start=start, num_images_per_prompt=2, height=24, width=40)
    assert relative_error(a, b) <= FINAL


def test_prompts_and_negative_prompts_count(family):
    """Or agreement of the latents would say nothing about the texts."""
    one = latents(family.sd)
    assert relative_error(latents(family.sd, PROMPTS[::-1]), one) > 100 * FINAL
    assert relative_error(latents(family.sd, negative_prompt="snow"), one) > 100 * FINAL


def test_pictures(family):
    a = latents(family.sd, output="image")
    for ours, other in zip(a, theirs(family.pipe, output_type="pil"), strict=True):
        pixels = np.asarray(ours).astype(int)
        assert np.abs(pixels - np.asarray(other)).max() <= 1
        assert pixels.std() > 5


PUBLISHED = {
    "sd1": (PNDMScheduler, "plms", {"skip_prk_steps": True}),
    "sdxl": (EulerDiscreteScheduler, "euler", {"timestep_spacing": "leading"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sampler_is_the_default(families, name, tmp_path):
    scheduler, sampler, extra = PUBLISHED[name]
    config = {key: value for key, value in SCHEDULER.items() if key != "clip_sample"}
    parts = dict(families[name].pipe.components) | {
        "scheduler": scheduler.from_config(config | extra)
    }
    pipe = type(families[name].pipe)(**parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    sd = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert sd.spec.sampler == sampler
    b = theirs(pipe)
    assert relative_error(latents(sd), b) <= FINAL
    assert relative_error(latents(sd, sampler="ddim"), b) > 10 * FINAL


def test_the_list_of_parts_names_the_sampler(families, tmp_path):
    """The file beside it may still name the one that wrote it, as diffusers leaves it, too."""
    folder = shutil.copytree(families["sd2"].folder, tmp_path / "model")
    damage(
        folder / "scheduler" / "scheduler_config.json",
        _class_name="PNDMScheduler",
        skip_prk_steps=True,
    )
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.scheduler) is DDIMScheduler
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    assert replace(sd.spec, name="sd2") == replace(families["sd2"].sd.spec, name="sd2")
    damage(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    with pytest.warns(UserWarning, match=r"PNDMScheduler with prediction_type 'v_prediction' is"):
        sd = StableDiffusion.from_pretrained(folder, device="cpu")
    assert (sd.spec.sampler, sd.spec.predicts) == ("ddim", "velocity")


# --------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_texts(family, dtype, tmp_path):
    """What the U-Net sees of them, one prompt at a time against a batch with a repetition."""
    sd = StableDiffusion.from_pretrained(family.folder, dtype, device="cpu")
    pipe = type(family.pipe).from_pretrained(family.folder, torch_dtype=dtype)
    texts = [*PROMPTS, "", PROMPTS[0]]
    ours = sd.text(texts)
    for i, text in enumerate(texts):
        wanted = pipe.encode_prompt(
            text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        assert relative_error(ours.context[i : i + 1], wanted[0]) <= TOLERANCE[dtype]
        if ours.pooled is not None:
            assert relative_error(ours.pooled[i : i + 1], wanted[2]) <= TOLERANCE[dtype]
    assert (ours.pooled is not None) == isinstance(pipe, StableDiffusionXLPipeline)
    assert relative_error(ours.context[:1], ours.context[1:2]) > 0.1


def test_padding_is_the_tokenizer_s(families):
    for name, pads in (("sd1", [580]), ("sd2", [0]), ("sdxl", [580, 0])):
        text = families[name].sd.text
        for tokenizer, encoder, pad in zip(text.tokenizers, text.encoders, pads, strict=True):
            (ids,) = token_ids(tokenizer, ["a red cat!"]).tolist()
            assert len(ids) == 77
            end = ids.index(encoder.config.eos_token_id)
            assert set(ids[end + 1 :]) == {pad}
            # Where "!" pads, it is no other token in the prompt either; elsewhere it ends a word.
            assert ids[end - 1] == (0 if pad == 0 else 256)


def test_the_padding_of_the_published_files_of_sd2(families, tmp_path):
    """Two files disagree there: one says the end token, the other one, which holds, says "!"."""
    sd = families["sd2"].sd
    sd.save_pretrained(tmp_path)
    tokenizer = tmp_path / "tokenizer"
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    assert json.loads((tokenizer / "special_tokens_map.json").read_text())["pad_token"] == "!"
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(config | {"pad_token": "<|endoftext|>"})
    )
    again = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(again.text(PROMPTS).context, sd.text(PROMPTS).context)


def test_pooling_ends_where_the_tokenizer_says(xl, tmp_path):
    """Also where tokens were added after the end token, as textual inversion does."""
    shutil.copytree(xl.folder, tmp_path / "model")
    place = tmp_path / "model" / "text_encoder_2"
    more = xl.pipe.text_encoder_2.resize_token_embeddings
    before = len(xl.pipe.tokenizer_2)
    try:
        more(before + 3)
        xl.pipe.text_encoder_2.save_pretrained(place)
    finally:
        more(before)
    assert json.loads((place / "config.json").read_text())["eos_token_id"] == 2
    sd = StableDiffusion.from_pretrained(tmp_path / "model", device="cpu")
    assert sd.spec.text[1].vocab_size == before + 3
    assert torch.equal(sd.text(PROMPTS).pooled, xl.sd.text(PROMPTS).pooled)


# ---------------------------------------------------------------------------------------- SDXL


def test_no_negative_prompt_is_zeros_and_the_empty_one_is_not(xl):
    zeros, empty = latents(xl.sd), latents(xl.sd, negative_prompt="")
    assert relative_error(empty, zeros) > 100 * FINAL
    told, _ = xl.sd.text.pair(PROMPTS, None, 1, Sizes().row(16, 16))
    assert told.zeroed().context.count_nonzero() == told.zeroed().pooled.count_nonzero() == 0
    assert torch.equal(told.zeroed().sizes, told.sizes)


def test_zeros_only_where_the_folder_says_so(xl, tmp_path):
    pipe = StableDiffusionXLPipeline(**xl.pipe.components, force_zeros_for_empty_prompt=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    sd = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert not sd.spec.zero_negative
    assert relative_error(latents(sd), theirs(pipe)) <= FINAL
    assert torch.equal(latents(sd), latents(xl.sd, negative_prompt=""))


def test_sizes(xl):
    sizes = Sizes(original=(512, 700), crop=(3, 64), target=(1024, 768))
    b = theirs(
        xl.pipe,
        original_size=sizes.original,
        crops_coords_top_left=sizes.crop,
        target_size=sizes.target,
    )
    assert relative_error(latents(xl.sd, sizes=sizes), b) <= FINAL
    assert relative_error(latents(xl.sd), b) > 100 * FINAL
    made = Sizes((16, 16), (0, 0), (16, 16))
    assert torch.equal(latents(xl.sd, sizes=made), latents(xl.sd))


def test_sizes_are_for_sdxl(families):
    with pytest.raises(ValueError, match="sizes are for SDXL"):
        latents(families["sd1"].sd, sizes=Sizes())


def test_conditionings_in_batches():
    one, two = (Conditioning(normal(2, 3, 4, seed=s), normal(2, 5), normal(2, 6)) for s in (1, 2))
    both = Conditioning.cat([one, two])
    assert [len(part) for part in both] == [4, 4, 4]
    assert torch.equal(both.rows([3, 0]).context, torch.stack([two.context[1], one.context[0]]))
    assert torch.equal(both.unet_inputs[1][1], torch.cat([one.sizes, two.sizes]))
    (alone,) = Conditioning.cat([one._replace(sizes=None)] * 2).unet_inputs
    assert torch.equal(alone, torch.cat([one.context] * 2))


def test_the_autoencoder_stays_in_float32(families):
    """SDXL's overflows in half precision; the others follow the type that was asked for."""
    for name, wanted in (("sd1", torch.float16), ("sdxl", torch.float32)):
        sd = StableDiffusion.from_pretrained(families[name].folder, torch.float16, device="cpu")
        assert {p.dtype for p in sd.vae.parameters()} == {wanted}
        others = [*sd.unet.parameters(), *sd.text.parameters()]
        assert {p.dtype for p in others} == {torch.float16}
    z = noise().half()
    a, b = sd.to_images(z), families["sdxl"].sd.to_images(z)
    assert [picture.tobytes() for picture in a] == [picture.tobytes() for picture in b]
    x = normal(2, 3, 16, 16, dtype=torch.float32).clamp(-1, 1)
    wanted = encode_images(families["sdxl"].sd.vae, x, z.float())
    assert torch.equal(encode_images(sd.vae, x, z), wanted.half())


# ------------------------------------------------------------------------------------- folders


def test_a_folder_written_here_is_read_by_diffusers(family, tmp_path):
    family.sd.save_pretrained(tmp_path, max_bytes=60_000)
    assert list((tmp_path / "unet").glob("*-00002-of-*.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = type(family.pipe).from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    again = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(latents(again), latents(family.sd))
    assert relative_error(theirs(pipe), theirs(family.pipe)) <= 1e-6
    assert again.spec.unet == family.sd.spec.unet
    assert again.spec.text == family.sd.spec.text


WAYS = {
    "sharded": {"max_shard_size": "60KB"},
    "half precision": {"variant": "fp16"},
    "pickles": {"safe_serialization": False},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_publish_weights(xl, tmp_path, way):
    pipe = StableDiffusionXLPipeline.from_pretrained(xl.folder)
    if way == "half precision":
        pipe.to(torch.float16)
    pipe.save_pretrained(tmp_path, **WAYS[way])
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    error = relative_error(
        latents(StableDiffusion.from_pretrained(tmp_path, device="cpu")), latents(xl.sd)
    )
    assert (1e-6 < error < 0.1) if way == "half precision" else error == 0


@pytest.mark.parametrize("way", ["safetensors", "fp16.safetensors", "bin"])
def test_a_hub_id_of_sdxl(xl, tmp_path, monkeypatch, way):
    published = tmp_path / "published"
    options = {"fp16.safetensors": {"variant": "fp16"}, "bin": {"safe_serialization": False}}
    StableDiffusionXLPipeline.from_pretrained(xl.folder).save_pretrained(
        published, **options.get(way, {})
    )
    if way == "bin":  # which transformers no longer writes
        for place in [*published.glob("text_encoder*/model.safetensors")]:
            torch.save(load_file(place), place.with_name("pytorch_model.bin"))
            place.unlink()
    spare = {"flax_model.msgpack", "model.onnx", "openvino_model.bin", "model.non_ema.safetensors"}
    if way == "safetensors":
        spare |= {"model.fp16.safetensors", "pytorch_model.bin"}
    for name in spare:
        for part in ("unet", "text_encoder_2"):
            (published / part / name).write_bytes(b"5 GB")
    hub = local_hub.install(monkeypatch, {"organisation/sdxl": published}, tmp_path / "cache")
    sd = StableDiffusion.from_pretrained("organisation/sdxl", device="cpu")
    assert relative_error(latents(sd), latents(xl.sd)) < 1e-6
    assert not spare & {Path(name).name for name in hub.fetched}
    kinds = [Path(name).name.split(".", 1)[1] for name in hub.fetched]
    assert sorted(kind for kind in kinds if kind not in ("json", "txt")) == [way] * 4


def test_an_inpainting_folder_is_read_and_written(families, tmp_path):
    unet = tiny_unet(block_out_channels=(16, 32), attention_head_dim=2, in_channels=9)
    pipe = StableDiffusionInpaintPipeline(
        **families["sd1"].pipe.components | {"unet": unet}, requires_safety_checker=False
    )
    pipe.save_pretrained(tmp_path / "theirs")
    sd = StableDiffusion.from_pretrained(tmp_path / "theirs", device="cpu")
    assert sd.unet.config.in_channels == 9
    sd.save_pretrained(tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "model_index.json").read_text())
    assert written["_class_name"] == "StableDiffusionInpaintPipeline"


def damage(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FAULTS = {
    "no second text encoder": (
        lambda f: shutil.rmtree(f / "text_encoder_2"),
        FileNotFoundError,
        r"text_encoder_2.config\.json is missing",
    ),
    "no second tokenizer": (
        lambda f: shutil.rmtree(f / "tokenizer_2"),
        FileNotFoundError,
        r"tokenizer_2.vocab\.json is missing",
    ),
    "a first text encoder for a second": (
        lambda f: damage(f / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        ValueError,
        r"input_dim of the U-Net is 42; the pooled text and six embedded sizes have 24",
    ),
    "the U-Net of Stable Diffusion 1 with two encoders": (
        lambda f: damage(f / "unet" / "config.json", addition_embed_type=None),
        ValueError,
        r"lists two text encoders; its U-Net has no addition_embed_type",
    ),
    "another embedding": (
        lambda f: damage(f / "unet" / "config.json", addition_embed_type="image"),
        ValueError,
        r"addition_embed_type is 'image'; only None and 'text_time' are supported",
    ),
    "shifted latents": (
        lambda f: damage(f / "vae" / "config.json", shift_factor=0.1),
        ValueError,
        r"shift_factor is 0\.1; only None is supported",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_of_sdxl_is_named(xl, tmp_path, fault):
    harm, kind, words = FAULTS[fault]
    folder = shutil.copytree(xl.folder, tmp_path / "model")
    harm(folder)
    with pytest.raises(kind, match=words):
        StableDiffusion.from_pretrained(folder, device="cpu")


def test_kinds_of_pipeline_are_those_of_diffusers(families):
    kinds = {name: type(family.pipe) for name, family in families.items()}
    assert kinds["sd1"] is kinds["sd2"] is StableDiffusionPipeline
    specs = {name: family.sd.spec for name, family in families.items()}
    assert [specs[n].guidance_scale for n in specs] == [7.5, 7.5, 5.0]
    assert [specs[n].text_layer for n in specs] == ["last", "last", "penultimate"]
    assert [specs[n].zero_negative for n in specs] == [False, False, True]
    assert [specs[n].predicts for n in specs] == ["noise", "velocity", "noise"]
    assert [specs[n].resolution for n in specs] == [16, 16, 16]
