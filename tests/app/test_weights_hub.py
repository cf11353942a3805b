"""Models by their id on the Hugging Face hub: what is fetched, once, and what is said where it
cannot be."""

import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from sdlearn.controlnet import ControlNet
from sdlearn.pipeline import StableDiffusion
from sdlearn.unet import UNetConfig
from sdlearn.weights.hub import FETCH_ERRORS, repo_id
from sdlearn.weights.single_file import download_tokenizer
from sdlearn.weights.weight_names import pick_weights, shards_of
from tests import local_hub

ID = "organisation/stable-diffusion"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SMALL = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "vae/config.json",
}
SPARE = b"5 GB that nobody reads"


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    return local_hub.install(monkeypatch, {ID: folder}, tmp_path / "cache")


def load(source):
    return StableDiffusion.from_pretrained(source, device="cpu")


def same(a, b):
    parts = [(a.unet, b.unet), (a.vae, b.vae), (a.text, b.text)]
    return all(
        torch.equal(x, y)
        for one, two in parts
        for x, y in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def pickled(place):
    """Replace a safetensors file by a .bin."""
    name = place.name.replace("model.safetensors", "model.bin")
    if place.parent.name == "text_encoder":
        name = "pytorch_model.bin"
    torch.save(load_file(place), place.with_name(name))
    place.unlink()


# --------------------------------------------------------------------------------- what is fetched


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_model(folder, published, hub, kind):
    """The hub's folder comes with what nobody reads; what is asked for must be enough, no more."""
    for name in (UNET, VAE, TEXT):
        place = folder / name
        if kind == "bin":
            pickled(place)
        else:
            for ending in (".fp16.safetensors", ".bin", ".fp16.bin", ".safetensors.index.json"):
                place.with_suffix(ending).write_bytes(SPARE)
        for ending in (".non_ema.safetensors", ".bf16.safetensors", ".msgpack", ".onnx"):
            place.with_suffix(ending).write_bytes(SPARE)
    (folder / "v1-5-pruned.safetensors").write_bytes(SPARE)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(SPARE)
    weights = {UNET, VAE, TEXT}
    if kind == "bin":
        weights = {name.replace("safetensors", "bin") for name in (UNET, VAE)}
        weights |= {"text_encoder/pytorch_model.bin"}
    assert same(load(ID), load(published))
    assert set(hub.fetched) == SMALL | weights
    assert len(hub.fetched) == len(SMALL) + 3
    assert same(load(ID), load(published))  # and is not fetched again
    assert len(hub.fetched) == len(SMALL) + 3


def test_parts_of_different_kinds_are_fetched_once(folder, published, hub):
    """One part is a plain pickle, one is in shards, one in half precision alone."""
    pickled(folder / UNET)
    (folder / UNET).with_suffix(".fp16.safetensors").write_bytes(SPARE)
    sd = load(published)
    sd.save_pretrained(folder.parent / "shards", max_bytes=30_000)
    (folder / VAE).unlink()
    for place in (folder.parent / "shards" / "vae").glob("*.safetensors*"):
        shutil.copy(place, folder / "vae")
    (folder / VAE).with_suffix(".bin").write_bytes(SPARE)
    (folder / TEXT).rename((folder / TEXT).with_suffix(".fp16.safetensors"))
    (folder / TEXT).with_name("pytorch_model.fp16.bin").write_bytes(SPARE)
    assert same(load(ID), sd)
    weights = [name for name in hub.fetched if name not in SMALL]
    shards = [name for name in weights if "-of-" in name]
    assert len(shards) > 2
    assert sorted(set(weights) - set(shards)) == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors.index.json",
    ]


def test_shards_of_one_precision_and_kind():
    """Both ways in which half precision is written; and nothing else of a similar name."""
    names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model-00002-of-00002.fp16.safetensors",
        "model-00001-of-00002.bin",
        "model.non_ema-00001-of-00002.safetensors",
        "other-00001-of-00002.safetensors",
    ]
    whole, half = "model.safetensors.index.json", "model.safetensors.index.fp16.json"
    assert shards_of(whole, names) == [whole, *names[:2]]
    assert shards_of(half, names) == [half, *names[2:4]]
    assert shards_of("model.bin.index.json", names) == ["model.bin.index.json", names[4]]
    assert shards_of("model.safetensors", names) == ["model.safetensors"]
    assert pick_weights([*names, half, whole]) == whole
    assert pick_weights([*names, half]) == half
    assert pick_weights(names) is None


# ------------------------------------------------------------------------------------------- names


def test_a_model_has_the_name_of_its_repository(hub, published):
    sd = load(ID)
    assert sd.spec.name == ID
    assert load(published).spec.name == published.name
    sd.save_pretrained(published.parent / "saved")
    assert load(published.parent / "saved").spec.name == ID


def test_a_name_that_a_specification_has_is_kept(folder, hub):
    sd = load(folder)
    sd.spec = type(sd.spec)(**vars(sd.spec) | {"name": "sd1.5"})
    sd.save_pretrained(folder)
    assert load(ID).spec.name == "sd1.5"


def test_ids_of_copies(tmp_path):
    place = tmp_path / "models--stabilityai--stable-diffusion-2-1" / "snapshots" / "0f3"
    assert repo_id(place) == "stabilityai/stable-diffusion-2-1"
    for other in (tmp_path, place.parent, place / "unet", tmp_path / "models--a--b" / "x" / "0f3"):
        assert repo_id(other) is None


# ------------------------------------------------------------------------------- what can go wrong


def refused(source, words, read=load):
    with pytest.raises(FileNotFoundError, match=words) as caught:
        read(source)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_network(hub, published):
    words = "is not a local folder, and it could not be downloaded from the Hugging Face hub: "
    words += "cannot"
    hub.online = False
    refused(ID, words)
    hub.online = True
    load(ID)
    hub.online = False
    assert same(load(ID), load(published))
    place = hub.cache / "models--organisation--stable-diffusion" / "snapshots" / local_hub.COMMIT
    (place / UNET).unlink()  # as where a download was broken off
    refused(ID, words)


def test_what_is_no_model(hub, folder):
    refused("organisation/unknown", "could not be downloaded from the Hugging Face hub: '?404")
    (folder / VAE).rename(folder / "vae" / "flax_model.msgpack")
    refused(
        ID,
        "on the Hugging Face hub has no weights in its vae that can be read, but .*; accepted: saf",
    )
    (folder / "model_index.json").unlink()
    words = r"on the Hugging Face hub has no model_index\.json, so it is not a folder in the pub"
    refused(ID, words)
    assert hub.fetched == []


def test_the_errors_of_fetching_are_those_of_the_hub_and_of_the_network():
    assert issubclass(huggingface_hub.errors.HfHubHTTPError, FETCH_ERRORS)
    assert issubclass(huggingface_hub.errors.HFValidationError, FETCH_ERRORS)
    library = huggingface_hub.errors.HTTPError.__module__.split(".")[0]
    network = pytest.importorskip(library)
    for name in ("ConnectError", "ReadTimeout") if "httpx" in library else ("ConnectionError",):
        assert issubclass(getattr(network, name), FETCH_ERRORS)
    assert not issubclass(TypeError, FETCH_ERRORS)
    assert Exception not in FETCH_ERRORS


@pytest.mark.parametrize("online", [True, False])
def test_a_mistake_in_our_own_code_is_not_called_a_failed_download(hub, monkeypatch, online):
    def mistaken(*_, **__):
        raise TypeError("a mistake")

    hub.online = online
    monkeypatch.setattr("sdlearn.weights.hub.snapshot_download", mistaken)
    with pytest.raises(TypeError, match="a mistake"):
        load(ID)
    monkeypatch.setattr("sdlearn.weights.single_file.snapshot_download", mistaken)
    with pytest.raises(TypeError, match="a mistake"):
        download_tokenizer(Path("model.safetensors"))


@pytest.fixture
def real_cache(folder, tmp_path, monkeypatch):
    """What huggingface_hub itself leaves behind after a download; tests run offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    home = tmp_path / "hub" / "models--organisation--stable-diffusion"
    shutil.copytree(folder, home / "snapshots" / local_hub.COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(local_hub.COMMIT)
    return home / "snapshots" / local_hub.COMMIT


def test_the_real_library_offline(real_cache, published):
    sd = load(ID)
    assert same(sd, load(published))
    assert sd.spec.name == ID
    refused("organisation/unknown", "could not be downloaded from the Hugging Face hub: .*offline")
    refused("not--allowed/x", "could not be downloaded from the Hugging Face hub: ")
    (real_cache / UNET).unlink()
    refused(ID, "could not be downloaded from the Hugging Face hub: .*offline")


# --------------------------------------------------------------------------------------- ControlNet

CONTROL_ID = "lllyasviel/sd-controlnet-canny"
CONFIG = UNetConfig(
    block_out_channels=(16, 32),
    cross_attention=(True, False),
    transformer_depth=(1, 1),
    num_heads=(2, 4),
    cross_attention_dim=24,
    norm_num_groups=4,
)


@pytest.fixture
def control(tmp_path, monkeypatch):
    """A ControlNet, the hub that has it in every kind, and its folder there."""
    torch.manual_seed(0)
    controlnet = ControlNet(CONFIG, (4, 6, 8, 10))
    place = tmp_path / "control"
    controlnet.save_pretrained(place)
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"):
        (place / name).write_bytes(SPARE)
    (place / "images").mkdir()
    (place / "images" / "bird.png").write_bytes(SPARE)
    hub = local_hub.install(monkeypatch, {CONTROL_ID: place}, tmp_path / "cache")
    return controlnet, hub, place


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_controlnet(control):
    controlnet, hub, _ = control
    assert equal(ControlNet.from_pretrained(CONTROL_ID), controlnet)
    assert sorted(hub.fetched) == ["config.json", "diffusion_pytorch_model.safetensors"]
    half = ControlNet.from_pretrained(CONTROL_ID, torch.float16)
    assert half.conv_in.weight.dtype == torch.float16
    hub.online = False
    assert equal(ControlNet.from_pretrained(CONTROL_ID), controlnet)


def test_no_controlnet(hub):
    read = ControlNet.from_pretrained
    refused("nowhere", "nowhere does not exist; give a model's folder, or its id on the Hug", read)
    refused(ID, r"has no config\.json, so it is not a folder in the published layout; if", read)
    refused("a/b", "a/b is not a local folder, and it could not be downloaded from .*404", read)
    hub.online = False
    refused("a/b", "could not be downloaded from the Hugging Face hub: cannot reach the hub$", read)
    with pytest.raises(ValueError, match=re.escape(f"{ID} is not a file; spec is accepted")):
        read(ID, spec="sd1.5")
