"""Which file of a folder is loaded: variants and shards, as diffusers itself writes them, and the
order where there are several."""

import itertools
import shutil

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from sdlearn import weights
from sdlearn.controlnet import ControlNet
from sdlearn.pipeline import StableDiffusion
from sdlearn.weights.saving import published_state
from sdlearn.weights.weight_names import parse, pick_weights, shards_of
from tests import local_hub
from tests.tiny_model import disturb, tiny_diffusers

ID = "organisation/stable-diffusion"


def load(source, **options):
    return StableDiffusion.from_pretrained(source, device="cpu", **options)


def parts(sd):
    """The tensors of our networks under their published names."""
    named = {"unet": sd.unet, "vae": sd.vae, "text_encoder": sd.text.encoders[0]}
    return {part: published_state(module) for part, module in named.items()}


def equals_diffusers(sd, theirs):
    for part, ours in parts(sd).items():
        state = getattr(theirs, part).state_dict()
        state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
        assert len(ours) == len(state)
        for key, value in state.items():
            mine = ours[key] if key in ours else ours[f"text_model.{key}"]
            assert torch.equal(mine, value.float().reshape(mine.shape)), (part, key)


WRITTEN = {
    "plain, whole": {},
    "plain, shards": {"max_shard_size": "40KB"},
    "plain, pickles": {"safe_serialization": False},
    "fp16, whole": {"variant": "fp16"},
    "bf16, shards": {"variant": "bf16", "max_shard_size": "40KB"},
    "fp32, pickles": {"variant": "fp32", "safe_serialization": False},
    "non_ema, whole": {"variant": "non_ema"},
    "ema_only, shards": {"variant": "ema_only", "max_shard_size": "40KB"},
    "my.own-2, whole": {"variant": "my.own-2"},
}


@pytest.mark.parametrize("way", WRITTEN)
def test_folders_that_diffusers_wrote(tmp_path, way):
    """Loaded by their variant and, where there is no other, without; as by diffusers."""
    options = WRITTEN[way]
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(options.get("variant"))
    pipeline = tiny_diffusers()
    pipeline.to(dtype or torch.float32).save_pretrained(tmp_path, **options)
    variant = options.get("variant")
    if "max_shard_size" in options:
        assert len(list((tmp_path / "unet").glob("*-of-*"))) > 1
    if variant == "my.own-2":  # diffusers itself takes the name apart at its dots
        theirs = pipeline
    else:
        theirs = StableDiffusionPipeline.from_pretrained(
            tmp_path, variant=variant, safety_checker=None
        )
    equals_diffusers(load(tmp_path), theirs)
    equals_diffusers(load(tmp_path, variant=variant), theirs)
    if variant:
        words = rf"no weights of the variant 'fp64' in its unet; there are '{variant}'$"
        with pytest.raises(ValueError, match=words) as caught:
            load(tmp_path, variant="fp64")
        assert str(tmp_path) in str(caught.value)


def marked(folder, number, **options):
    """Write a pipeline whose U-Net has this number in a bias."""
    pipeline = tiny_diffusers()
    pipeline.unet.conv_in.bias.data.fill_(number)
    pipeline.save_pretrained(folder, **options)
    return pipeline


def mark(sd):
    (number,) = set(sd.unet.conv_in.bias.tolist())
    return number


def test_several_variants_in_a_folder(tmp_path):
    """Each is found by its name; the plain weights without one, then in the order that is told."""
    order = ["", "fp32", "ema", "ema_only", "fp16", "bf16", "a", "zebra", "non_ema"]
    for number, variant in enumerate(order):
        marked(tmp_path, number, variant=variant or None)
    for number, variant in enumerate(order):
        assert mark(load(tmp_path, variant=variant)) == number
        theirs = StableDiffusionPipeline.from_pretrained(
            tmp_path, variant=variant or None, safety_checker=None
        )
        assert theirs.unet.conv_in.bias[0].item() == number
    for number, variant in enumerate(order):
        assert mark(load(tmp_path)) == number
        name = f"diffusion_pytorch_model.{variant}.safetensors".replace("..", ".")
        (tmp_path / "unet" / name).unlink()


def test_a_part_without_the_variant_gives_its_plain_weights(tmp_path):
    """As in diffusers; but never another variant than the one that was asked for."""
    marked(tmp_path, 1)
    marked(tmp_path, 2, variant="fp16")
    for file in (tmp_path / "vae").glob("*fp16*"):
        file.unlink()
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path, variant="fp16", safety_checker=None)
    sd = load(tmp_path, variant="fp16")
    assert mark(sd) == 2
    equals_diffusers(sd, theirs)
    plain = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.bf16.safetensors"))
    with pytest.raises(ValueError, match=r"variant 'fp16' in its vae; there are 'bf16'$"):
        load(tmp_path, variant="fp16")
    assert mark(load(tmp_path)) == 1


def older_names(folder, names):
    """Rename what diffusers wrote in shards of the variant fp16."""
    for file in folder.rglob("*.safetensors*"):
        name = file.name
        if "index" in name:
            text = file.read_text()
            for shard in folder.rglob("*-of-*.safetensors"):
                text = text.replace(shard.name, names(shard.name))
            file.write_text(text)
    for file in list(folder.rglob("*.safetensors*")):
        file.rename(file.with_name(names(file.name)))


OLDER = {
    "variant behind the number": lambda name: (
        name.replace(".index.fp16.json", ".fp16.index.json")
        if "index" in name
        else name.replace(".fp16-", "-").replace(".safetensors", ".fp16.safetensors")
    ),
    "variant before the kind": lambda name: name.replace(
        ".safetensors.index.fp16.json", ".fp16.safetensors.index.json"
    ),
    "upper case": str.upper,
}


@pytest.mark.parametrize("way", OLDER)
def test_older_names_of_shards(tmp_path, way, monkeypatch):
    pipeline = marked(tmp_path / "model", 1, variant="fp16", max_shard_size="40KB")
    older_names(tmp_path / "model", OLDER[way])
    equals_diffusers(load(tmp_path / "model"), pipeline)
    if way == "upper case":
        return
    equals_diffusers(load(tmp_path / "model", variant="fp16"), pipeline)
    hub = local_hub.install(monkeypatch, {ID: tmp_path / "model"}, tmp_path / "cache")
    equals_diffusers(load(ID, variant="fp16"), pipeline)
    assert sum("-of-" in name for name in hub.fetched) > 3


def test_the_hub_gives_the_variant_that_is_asked_for(tmp_path, monkeypatch):
    for number, variant in enumerate([None, "fp16", "bf16"]):
        marked(tmp_path / "model", number, variant=variant)
    hub = local_hub.install(monkeypatch, {ID: tmp_path / "model"}, tmp_path / "cache")
    assert mark(load(ID, variant="fp16")) == 1
    fetched = {name for name in hub.fetched if name.endswith(".safetensors")}
    assert fetched == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    }
    with pytest.raises(ValueError, match=rf"^{ID} on the .* variant 'fp64' in its unet; there are"):
        load(ID, variant="fp64")
    hub.online = False
    assert mark(load(ID, variant="fp16")) == 1
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        load(ID, variant="bf16")
    hub.online = True
    assert mark(load(ID)) == 0
    assert mark(load(ID, variant="bf16")) == 2


def test_variants_of_one_network(tmp_path):
    torch.manual_seed(0)
    theirs = ControlNetModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        conditioning_embedding_out_channels=(4, 8),
    )
    for variant in (None, "fp16"):
        disturb(theirs)
        theirs.save_pretrained(tmp_path, variant=variant)
    read = ControlNet.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(read.conv_in.weight, theirs.conv_in.weight)
    assert not torch.equal(ControlNet.from_pretrained(tmp_path).conv_in.weight, read.conv_in.weight)
    weights.load(read, tmp_path)
    weights.load(read, tmp_path, variant="fp16")
    assert torch.equal(read.conv_in.weight, theirs.conv_in.weight)
    words = r"variant 'bf16'; there are None \(the plain weights\), 'fp16'$"
    with pytest.raises(ValueError, match=words):
        weights.load(read, tmp_path, variant="bf16")
    with pytest.raises(ValueError, match=words):
        ControlNet.from_pretrained(tmp_path, variant="bf16")
    file = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    for reader in (ControlNet.from_pretrained, load, lambda *a, **k: weights.load(read, *a, **k)):
        with pytest.raises(ValueError, match="is a file; variant is accepted for a folder only"):
            reader(file, variant="fp16")


@pytest.mark.parametrize("variant", [5, ["fp16"], "a/b", "../x", "a b", "x" * 9999])
def test_names_that_no_variant_has(tmp_path, variant):
    marked(tmp_path, 0)
    with pytest.raises(ValueError, match="variant") as caught:
        load(tmp_path, variant=variant)
    assert len(str(caught.value)) < len(str(tmp_path)) + 300
    assert "\n" not in str(caught.value)


ORDER = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.sft",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp32.bin",
    "diffusion_pytorch_model.ema.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bf16.safetensors",
    "diffusion_pytorch_model.int8.safetensors",
    "diffusion_pytorch_model.fp16.non-ema.safetensors",
    "diffusion_pytorch_model.non_ema.safetensors",
    "diffusion_pytorch_model.non_ema.bin",
]


def test_the_order_among_all_files():
    for first, second in itertools.combinations(ORDER, 2):
        assert pick_weights([second, first]) == first, (first, second)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.part",
        "model.onnx",
        "flax_model.msgpack",
        "openvino_model.bin",
        "v1-5-pruned.safetensors",
        "model.index.json",
        "optimizer.bin",
        "diffusion_pytorch_modelx.safetensors",
    ],
)
def test_names_that_are_no_weights_of_a_folder(name):
    assert parse(name) is None
    assert shards_of(name, [name, "x"]) == [name]


def test_what_a_folder_without_weights_has_instead(tmp_path):
    pipeline = marked(tmp_path, 0)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    for name, words in (
        (
            "diffusion_flax_model.msgpack",
            "'diffusion_flax_model.msgpack', a Flax file; expected",
        ),
        ("model.onnx", r"but 'model\.onnx', an ONNX file; expected"),
        (f"{file.name}.part", r"safetensors\.part', an unfinished download; exp"),
        (
            "diffusion_pytorch_model-00001-of-00002.safetensors",
            "a shard without its index; expected",
        ),
        (
            "diffusion_pytorch_model (1).safetensors",  # as browsers call a second download
            r"but 'diffusion_pytorch_model \(1\)\.safetensors', whose name is not recognised",
        ),
        ("diffusion_pytorch_model.ckpt", r"but 'diffusion_pytorch_model\.ckpt', whose name"),
        ("config.old", "unet holds no weights; expected diffusion_pytorch_model"),
    ):
        file.rename(file.with_name(name))
        with pytest.raises(FileNotFoundError, match=words):
            load(tmp_path)
        file.with_name(name).rename(file)
    equals_diffusers(load(tmp_path), pipeline)
    file.rename(tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    equals_diffusers(load(tmp_path), pipeline)
    (tmp_path / "moved").unlink()
    with pytest.raises(FileNotFoundError, match="a link to a file that is gone; download it again"):
        load(tmp_path)


def test_endings_of_safetensors(tmp_path):
    pipeline = marked(tmp_path, 3)
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        place = tmp_path / part / f"{stem}.safetensors"
        for ending in (".sft", ".SAFETENSORS", ".Sft"):
            moved = place.with_suffix(ending)
            shutil.move(place, moved)
            equals_diffusers(load(tmp_path), pipeline)
            shutil.move(moved, place)
    unet = load(tmp_path).unet
    weights.save(unet, tmp_path / "saved.SFT", max_bytes=40_000)
    assert (tmp_path / "saved.SFT.index.json").is_file()
    assert len(list(tmp_path.glob("saved-*-of-*.SFT"))) > 1
    weights.save(unet, tmp_path / "saved.SFT")
    assert sorted(file.name for file in tmp_path.glob("saved*")) == ["saved.SFT"]
    unet.conv_in.bias.data.fill_(9)
    weights.load(unet, tmp_path / "saved.SFT")
    assert set(unet.conv_in.bias.tolist()) == {3}


def test_the_home_folder(tmp_path, monkeypatch):
    """A path may begin with "~" wherever one is given."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    pipeline = marked(tmp_path / "model", 4)
    sd = load("~/model")
    equals_diffusers(sd, pipeline)
    sd.save_pretrained("~/copy")
    assert mark(load("~/copy")) == 4
    weights.save(sd.vae, "~/vae.safetensors")
    weights.load(sd.vae, "~/vae.safetensors")
    ControlNet.from_unet(sd.unet).save_pretrained("~/control")
    ControlNet.from_pretrained("~/control")
    ControlNet.from_pretrained("~/control/diffusion_pytorch_model.safetensors", spec=sd.spec)
    tensors = load_file(tmp_path / "vae.safetensors")
    save_file({f"first_stage_model.{k}": v for k, v in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no weights of a UNet"):
        weights.load_original(sd.spec, "~/x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"~nobody.model does not exist; give a model's"):
        load("~nobody/model")
