"""Adapter files that cannot be used: one sentence each, and nothing is changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdlearn.cli import main
from sdlearn.lora import Adapter, attach, attachments
from sdlearn.lora_layers import ATTENTION, layers
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.png_metadata import adapters_name, read_png
from tests import local_hub
from tests.tiny_folders import complaint, load
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl

SYSTEMS = {"SD 1": tiny_diffusers, "SD 2": tiny_sd2, "SDXL": tiny_sdxl}
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
A, B = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in SYSTEMS.items():
        made[name] = tmp_path_factory.mktemp(name.replace(" ", ""))
        make().save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def sd(folders: dict[str, Path]) -> StableDiffusion:
    return load(folders["SD 1"])


def an_adapter(sd: StableDiffusion, rank: int = 2) -> Adapter:
    made = Adapter.for_network(sd.unet, rank)
    for n, update in enumerate(made.updates.values()):
        torch.nn.init.normal_(update.up, std=0.1, generator=torch.Generator().manual_seed(n))
    return made


def file_of(sd: StableDiffusion, path: Path, change: Callable[[State], Any], **header: str) -> Path:
    """A good file with a change."""
    state = {}
    for name, update in an_adapter(sd).updates.items():
        state[f"unet.{name}.lora_A.weight"] = update.down.detach()
        state[f"unet.{name}.lora_B.weight"] = update.up.detach()
    change(state)
    save_file(state, path, header)
    return path


def test_a_good_file_is_good(sd: StableDiffusion, tmp_path: Path):
    path = file_of(sd, tmp_path / "style.safetensors", lambda _: None)
    attachment = sd.load_adapter(path, 0.5)
    assert attachment.strength == 0.5
    assert len(attachment.adapters[0].updates) == len(layers(sd.unet, ATTENTION))
    sd.unload_adapters()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(A), f"holds '{B}', but not the matrix A of the same update; an"),
        (lambda s: s.pop(B), f"holds '{A}', but not the matrix B of the same update; an"),
        (
            lambda s: s.update({"unet.down_blocks.9.to_q.lora_A.weight": torch.ones(2, 8)}),
            "holds 'unet.down_blocks.9.to_q.lora_A.weight', which belongs to no layer of",
        ),
        (
            lambda s: s.update({A: torch.ones(2, 7)}),
            f"'{A}' has the shape (2, 7); unet.{LAYER} needs (2, 24)",
        ),
        (lambda s: s.update({B: torch.ones(32, 3)}), "has the shape (32, 3); unet."),
        (lambda s: s.update({A: torch.ones(0, 24), B: torch.ones(32, 0)}), "needs (r, 24)"),
        (lambda s: s.update({A: torch.ones(2, 24, 3, 3)}), "has the shape (2, 24, 3, 3)"),
        (lambda s: s.update({A: torch.tensor(1.0)}), "has the shape (); unet."),
        (lambda s: s.update({A: torch.ones(2, 24).int()}), "has the type torch.int32; an ada"),
        (lambda s: s.update({A: torch.full((2, 24), float("nan"))}), "is not finite as"),
        (
            lambda s: s.update({f"unet.{LAYER}.lora.down.weight": torch.ones(2, 24)}),
            "which are for the same matrix; an adapter has one tensor for each",
        ),
        (lambda s: s.update({f"unet.{LAYER}.alpha": torch.ones(2)}), "must be one finite number"),
        (
            lambda s: s.update({f"unet.{LAYER}.alpha": torch.tensor(float("inf"))}),
            f"unet.{LAYER}.alpha is [inf]; it must be one finite number",
        ),
        (
            lambda s: s.update({"lora_unet_mid_block_resnets_0_conv1.hada_w1_a": torch.ones(2, 2)}),
            "holds LoHa (products of two low-rank matrices), such as 'lora_unet_mid_block_resnets_",
        ),
        (lambda s: s.update({f"lora_unet_{LAYER}.lokr_w1": torch.ones(2, 2)}), "holds LoKr (Kron"),
        (lambda s: s.update({"lora_unet_x.dora_scale": torch.ones(2, 2)}), "holds DoRA (low-rank"),
        (
            lambda s: s.update({f"unet.{LAYER}.lora_magnitude_vector": torch.ones(2)}),
            "holds DoRA (low-rank updates of normalised weights), such as 'unet.mid_block",
        ),
        (lambda s: s.update({"lora_unet_x.lora_mid.weight": torch.ones(2)}), "into three factors"),
        (lambda s: s.update({f"unet.{LAYER}.lora_B.bias": torch.ones(2)}), "updates of biases"),
        (lambda s: s.update({"lora_unet_x.diff": torch.ones(2)}), "holds full-rank differences"),
        (lambda s: s.update({"lora_unet_x.oft_blocks": torch.ones(2)}), "holds OFT (rotations"),
        (
            lambda s: s.update({"unet.mid_block.attentions.0.norm.lora_A.weight": torch.ones(2)}),
            "holds 'unet.mid_block.attentions.0.norm.lora_A.weight', but not the matrix B",
        ),
        (
            lambda s: s.update({
                "unet.mid_block.attentions.0.norm.lora_A.weight": torch.ones(2, 32),
                "unet.mid_block.attentions.0.norm.lora_B.weight": torch.ones(32, 2),
            }),
            "unet.mid_block.attentions.0.norm: a GroupNorm can't have a low-rank update",
        ),
        (
            lambda s: (s.clear(), s.update({"transformer.x.lora_A.weight": torch.ones(2, 2)})),
            "holds an adapter for a diffusion transformer, such as Stable Diffusion 3 or Flux",
        ),
        (
            lambda s: (s.clear(), s.update({"model.weight": torch.ones(2, 2)})),
            "holds no adapter for this model; accepted: low-rank adapters (LoRA) for linear layer",
        ),
        (
            lambda s: (s.clear(), s.update({f"unet2.{LAYER}.lora_A.weight": torch.ones(2, 24)})),
            "holds no adapter for this model",
        ),
        (
            lambda s: (s.clear(), s.update({"emb_params": torch.ones(2, 768)})),
            "holds a textual-inversion embedding",
        ),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_one_sentence(
    sd: StableDiffusion, change: Callable[[State], Any], words: str, tmp_path: Path
):
    path = file_of(sd, tmp_path / "style.safetensors", change)
    said = complaint(lambda: sd.load_adapter(path))
    assert words in said
    assert str(path) in said
    assert not attachments(sd.unet)


def test_a_file_for_another_system_is_named(
    folders: dict[str, Path], sd: StableDiffusion, tmp_path
):
    path = tmp_path / "style.safetensors"
    for name, words in (
        ("SD 2", r"has the shape \(2, \d+\); unet\.down_blocks.* needs \(2, \d+\)$"),
        ("SDXL", "belongs to no layer of this model"),
    ):
        other = load(folders[name])
        other.save_adapter(path, an_adapter(other), "kohya")
        with pytest.raises(ValueError, match=words):
            sd.load_adapter(path)
    for width, family in (
        (768, "Stable Diffusion 1"),
        (1024, "Stable Diffusion 2"),
        (2048, "SDXL"),
    ):
        for name in (
            f"unet.{LAYER}.lora_A.weight",
            f"lora_unet_{LAYER}".replace(".", "_") + ".lora_down.weight",
        ):
            up = name.replace("lora_A", "lora_B").replace("_down.", "_up.")
            save_file({name: torch.ones(2, width), up: torch.ones(32, 2)}, path)
            said = complaint(lambda: sd.load_adapter(path))
            assert said.endswith(f"needs (2, 24); it looks like an adapter for {family}")
    save_file({"lora_te2_x.lora_down.weight": torch.ones(2, 2)}, path)
    assert "it looks like an adapter for SDXL" in complaint(lambda: sd.load_adapter(path))
    assert not attachments(sd.unet)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{", "lora_adapter_metadata in its header is '{'; it must be a JSON object"),
        ("[1]", "lora_adapter_metadata in its header is '[1]'; it must be a JSON object"),
        (json.dumps({"unet.use_dora": True}), "unet.use_dora is True in its metadata; only False"),
        (json.dumps({"unet.lora_bias": True}), "unet.lora_bias is True in its metadata"),
        (json.dumps({"unet.lora_alpha": "8"}), "unet.lora_alpha in its metadata is ['8']; it must"),
        (json.dumps({"unet.lora_alpha": True}), "unet.lora_alpha in its metadata is [True]"),
        (
            json.dumps({"unet.lora_alpha": 0}),
            "unet.lora_alpha in its metadata is 0, so this adapter",
        ),
        (
            json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {"(a+)+b": 2}}),
            "alpha_pattern in its metadata has '(a+)+b'; accepted: layer names",
        ),
    ],
)
def test_a_bad_header_is_refused(sd: StableDiffusion, settings: str, words: str, tmp_path: Path):
    header = {"lora_adapter_metadata": settings}
    path = file_of(sd, tmp_path / "style.safetensors", lambda _: None, **header)
    said = complaint(lambda: sd.load_adapter(path))
    assert words in said
    assert str(path) in said


def test_places_that_hold_no_adapter(sd: StableDiffusion, folders: dict[str, Path], tmp_path: Path):
    for source, words in (
        (tmp_path / "nowhere.safetensors", "does not exist; give a model's folder, or its id"),
        (tmp_path, "pytorch_lora_weights.safetensors is missing; give the adapter's file, or its"),
        ("", "source is ''; it must be a folder, a file"),
        (folders["SD 1"] / "unet" / "diffusion_pytorch_model.safetensors", "holds no adapter for"),
        (folders["SD 1"] / "unet" / "config.json", "is "),
    ):
        assert words in complaint(lambda source=source: sd.load_adapter(source))
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    assert "is not a complete safetensors" in complaint(
        lambda: sd.load_adapter(tmp_path / "cut.safetensors")
    )
    for strength in (float("nan"), "1", None):
        said = complaint(lambda strength=strength: sd.load_adapter(tmp_path, strength))
        assert said.startswith("scale is ")


class Command:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/sdlearn-was-here",)


def test_a_pickle_that_runs_code_is_refused(sd: StableDiffusion, tmp_path: Path):
    torch.save({A: torch.ones(2, 24), "x": Command()}, tmp_path / "style.pt")
    said = complaint(lambda: sd.load_adapter(tmp_path / "style.pt"))
    assert "is not a pickle of tensors alone" in said
    assert not Path("/tmp/sdlearn-was-here").exists()


def test_a_compiled_part_is_refused_before_another_part_gets_its_adapter(
    folders: dict[str, Path], tmp_path: Path
):
    sd = load(folders["SD 1"])
    text = Adapter.for_network(sd.text.encoders[0], pattern="q_proj")
    sd.save_adapter(tmp_path / "a.safetensors", {"unet": an_adapter(sd), "text_encoder": text})
    sd.text.encoders[0].compile(backend="eager")
    assert "is compiled" in complaint(lambda: sd.load_adapter(tmp_path / "a.safetensors"))
    assert not attachments(sd.unet)


def test_what_cannot_be_saved_leaves_no_file(
    sd: StableDiffusion, folders: dict[str, Path], tmp_path: Path
):
    good = an_adapter(sd)
    broken = an_adapter(sd)
    broken.updates[LAYER].up.data[0, 0] = float("inf")
    big = an_adapter(sd)
    big.updates[LAYER].up.data[0, 0] = 1e6
    path = tmp_path / "a.safetensors"
    for action, words in (
        (lambda: sd.save_adapter(tmp_path / "a.pt", good), "adapters are written as .safetensors"),
        (
            lambda: sd.save_adapter(path, good, "lycoris"),
            "layout is 'lycoris'; accepted: peft, koh",
        ),
        (lambda: sd.save_adapter(path, good, dtype=torch.int8), "dtype is torch.int8; it must be"),
        (lambda: sd.save_adapter(path, broken), "is not finite as torch.float32, so the file"),
        (lambda: sd.save_adapter(path, big, dtype=torch.float16), "is not finite as torch.float16"),
        (
            lambda: sd.save_adapter(path, {}),
            "adapter is {}; it must be an Adapter, or a dictionary",
        ),
        (lambda: sd.save_adapter(path, 3), "adapter is 3; it must be an Adapter"),
        (
            lambda: sd.save_adapter(path, {"vae": good}),
            "under the key 'vae'; accepted: Adapters with",
        ),
        (lambda: sd.save_adapter(path, Adapter({})), "accepted: Adapters with at least one"),
        (lambda: sd.save_adapter(path, {"text_encoder": good}), "which this CLIPTextEncoder lacks"),
        (
            lambda: sd.save_adapter(path, an_adapter(load(folders["SD 2"]))),
            "is made for a weight of shape",
        ),
        (lambda: sd.save_adapter(path, an_adapter(sd).to("meta")), "has no values to save yet"),
    ):
        assert words in complaint(action)
        assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------- the command line


@pytest.fixture
def generate(folders, sd, tmp_path, monkeypatch, capsys):
    """Runs `sdlearn generate` in a folder with style.safetensors -> exit code, stderr."""
    monkeypatch.chdir(tmp_path)
    sd.save_adapter("style.safetensors", an_adapter(sd))

    def run(*options: str) -> tuple[int, str]:
        model = ["--model", str(folders["SD 1"]), "--steps", "2", "--seed", "1"]
        try:
            code = main.main(["generate", "a red cat", *model, *options])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return run


def test_generate_with_adapters(generate, folders, tmp_path: Path):
    pictures = {}
    for k, options in enumerate((
        [],
        ["--lora", "style.safetensors"],
        ["--lora", "style.safetensors:0.5"],
        ["--lora", "style.safetensors:0.5", "--lora", "style.safetensors:0.5"],
    )):  # fmt: skip
        assert generate("--out", f"{k}.png", *options)[0] == 0
        pictures[k] = read_png(tmp_path / f"{k}.png")
    assert pictures[0].adapters == ""
    (name, one), (same, half) = (pictures[k].adapters.split(":") for k in (1, 2))
    assert (name, one, half) == (same, "1.0", "0.5")
    assert pictures[3].adapters == f"{name}:0.5, {name}:0.5"
    sd = load(folders["SD 1"])
    assert "the image was made with the adapters" in complaint(lambda: pictures[1].check_model(sd))
    sd.load_adapter(tmp_path / "style.safetensors")
    assert adapters_name(sd) == pictures[1].adapters
    pictures[1].check_model(sd)
    assert "the model here has" in complaint(lambda: pictures[2].check_model(sd))
    (*_, last) = pictures[1].trajectory(sd)
    with_it = pictures[1].images(sd, last.z)[0]
    assert with_it.tobytes() == image(tmp_path / "1.png")
    assert len({image(tmp_path / f"{k}.png") for k in (0, 1, 2)}) == 3


def image(path: Path) -> bytes:
    from PIL import Image

    return Image.open(path).tobytes()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("nowhere.safetensors:0.5", "nowhere.safetensors does not exist"),
        ("style.safetensors:nan", "the scale is nan; it must be a finite number"),
        ("style.safetensors:much", "style.safetensors:much does not exist"),
        ("notes.txt", "notes.txt is a text file"),
    ],
)
def test_generate_refuses_an_adapter_in_one_sentence(
    generate, tmp_path: Path, option: str, words: str
):
    (tmp_path / "notes.txt").write_text("an adapter")
    code, err = generate("--lora", option)
    assert code == 2
    assert words in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.glob("*.png"))


def test_an_attachment_is_found_by_its_network(sd: StableDiffusion):
    attachment = attach(sd.unet, an_adapter(sd))
    assert attachments(sd.unet) == [attachment]
    sd.unload_adapters()
    assert attachments(sd.unet) == []


def test_a_hub_id(sd: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("style", "other"):
        (tmp_path / name).mkdir()
    sd.save_adapter(tmp_path / "style" / "pytorch_lora_weights.safetensors", an_adapter(sd))
    sd.save_adapter(tmp_path / "other" / "pixel-art.safetensors", an_adapter(sd))
    repositories = {f"someone/{name}": tmp_path / name for name in ("style", "other")}
    hub = local_hub.install(monkeypatch, repositories, tmp_path / "cache")
    sd.load_adapter("someone/style")
    assert hub.fetched == ["pytorch_lora_weights.safetensors"]
    assert len(attachments(sd.unet)) == 1
    sd.unload_adapters()
    said = complaint(lambda: sd.load_adapter("someone/other"))
    assert "has no pytorch_lora_weights.safetensors" in said
    assert "download that file and give its path" in said
