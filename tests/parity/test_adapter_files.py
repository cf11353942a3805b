"""Files of adapters against diffusers with peft: what one writes, the other reads alike.

The names of kohya's files and of diffusers' older ones are made here from the rules of the programs
that wrote them, not from the tables of the package.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import sdlearn
from sdlearn.lora import Adapter
from sdlearn.lora_layers import ATTENTION, TEXT_ATTENTION, TRANSFORMERS, layers
from sdlearn.lora_merging import stack
from sdlearn.pipeline import StableDiffusion
from sdlearn.unet import UNet
from sdlearn.utils.device import without_memory
from sdlearn.weights.adapter_names import stems
from tests.tiny_folders import embeddings
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl

from .oracle import normal, relative_error

SYSTEMS = {"SD 1": tiny_diffusers, "SD 2": tiny_sd2, "SDXL": tiny_sdxl}
LOCON = r"\.attentions\.|\.(conv1|conv2|conv_shortcut|time_emb_proj|conv)$"  # kohya with conv_dim
TEXT = r"\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)$"
PROMPT = "a red cat on the sand at night"


class Systems(NamedTuple):
    """A tiny system in float64, read by both from one folder."""

    name: str
    ours: StableDiffusion
    theirs: DiffusionPipeline

    @property
    def is_xl(self) -> bool:
        return self.name == "SDXL"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in SYSTEMS.items():
        made[name] = tmp_path_factory.mktemp(name.replace(" ", ""))
        make().save_pretrained(made[name])
    return made


@pytest.fixture(params=SYSTEMS)
def systems(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Systems:
    return both(request.param, folders)


def both(name: str, folders: dict[str, Path]) -> Systems:
    ours = StableDiffusion.from_pretrained(folders[name], torch.float64, "cpu")
    cls = StableDiffusionXLPipeline if name == "SDXL" else StableDiffusionPipeline
    options: dict[str, Any] = {} if name == "SDXL" else {"safety_checker": None}
    theirs = cls.from_pretrained(folders[name], torch_dtype=torch.float64, **options)
    return Systems(name, ours, theirs)


def our_noise(sd: StableDiffusion) -> Tensor:
    cond = sd.text([PROMPT])
    if cond.pooled is not None:
        cond = cond._replace(sizes=torch.tensor([[16, 16, 0, 0, 16, 16]]))
    with torch.no_grad():
        return sd.unet(normal(1, 4, 8, 8), 321, *cond.unet_inputs)


def their_noise(pipe: DiffusionPipeline) -> Tensor:
    with torch.no_grad():
        states = embeddings(pipe, PROMPT)
        added = {}
        if isinstance(pipe, StableDiffusionXLPipeline):
            sizes = torch.tensor([[16, 16, 0, 0, 16, 16]])
            added = {"text_embeds": states[1], "time_ids": sizes}
        return pipe.unet(normal(1, 4, 8, 8), 321, states[0], added_cond_kwargs=added).sample


def trained(network: nn.Module, pattern: str, rank: int = 3, alpha: float = 6.0) -> Adapter:
    """An adapter with random matrices, which float32 holds exactly."""
    made = Adapter.for_network(network, rank, alpha, pattern).requires_grad_(False)
    for n, parameter in enumerate(made.parameters()):
        parameter.copy_((0.15 * normal(*parameter.shape, seed=n)).float())
    return made


def adapters(sd: StableDiffusion, pattern: str = ATTENTION, text: str = TEXT) -> dict[str, Adapter]:
    return {
        part: trained(network, pattern if part == "unet" else text)
        for part, network in sd.adaptable.items()
    }


# ------------------------------------------------------------------- what we write, diffusers reads


@pytest.mark.parametrize("layout", ["peft", "kohya"])
@pytest.mark.parametrize("pattern", [ATTENTION, TRANSFORMERS, LOCON])
def test_diffusers_reads_what_we_write(
    systems: Systems, layout: str, pattern: str, tmp_path: Path
) -> None:
    sd, pipe = systems.ours, systems.theirs
    plain = our_noise(sd)
    assert relative_error(plain, their_noise(pipe)) <= 1e-12
    path = tmp_path / "pytorch_lora_weights.safetensors"
    sd.save_adapter(path, adapters(sd, pattern), layout)
    attachment = sd.load_adapter(path)
    pipe.load_lora_weights(tmp_path)
    wanted = their_noise(pipe)
    assert relative_error(our_noise(sd), wanted) <= 1e-12
    assert relative_error(plain, wanted) > 0.05
    for part, network in sd.adaptable.items():
        peft = [m for m in getattr(pipe, part).modules() if hasattr(m, "lora_A")]
        chosen = pattern if part == "unet" else TEXT
        assert len(peft) == len(layers(network, chosen))  # none was left out in silence
    attachment.strength = 0.4
    pipe.set_adapters(pipe.get_active_adapters(), [0.4])
    assert relative_error(our_noise(sd), their_noise(pipe)) <= 1e-12
    sd.unload_adapters()
    pipe.unload_lora_weights()
    assert torch.equal(our_noise(sd), plain)
    assert relative_error(plain, their_noise(pipe)) <= 1e-12


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_ranks_and_alphas_may_differ(systems: Systems, layout: str, tmp_path: Path) -> None:
    sd, pipe = systems.ours, systems.theirs
    one = trained(sd.unet, TRANSFORMERS, rank=2, alpha=1.0)
    two = trained(sd.unet, r"attn2\.to_[qv]$", rank=3, alpha=4.5)
    mixed = stack([(one, 1.0), (two, 1.0)])
    for name, update in mixed.updates.items():
        update.alpha = 2.5 if name.endswith("to_k") else update.alpha
    path = tmp_path / "pytorch_lora_weights.safetensors"
    sd.save_adapter(path, mixed, layout)
    attachment = sd.load_adapter(path)
    (read,) = attachment.adapters
    assert {n: (u.rank, u.alpha) for n, u in read.updates.items()} == {
        n: (u.rank, u.alpha) for n, u in mixed.updates.items()
    }
    for name, update in mixed.updates.items():  # up was scaled by the stack, so not a float32
        assert torch.equal(read.updates[name].down, update.down)
        assert torch.equal(read.updates[name].up, update.up)
    # diffusers 0.42 ignores single alphas of attentions in kohya's files (peft warns of keys that
    # match no module), so it is given the same adapter in the other layout.
    sd.save_adapter(path, mixed)
    pipe.load_lora_weights(tmp_path)
    assert relative_error(our_noise(sd), their_noise(pipe)) <= 1e-12


# ------------------------------------------------------------------- what diffusers writes, we read


@pytest.mark.parametrize(
    ("settings", "with_metadata"),
    [({}, False), ({}, True), ({"use_rslora": True}, True), ({"alpha_pattern": {"to_k": 3}}, True)],
    ids=["no metadata", "metadata", "root of the rank", "an alpha of its own"],
)
def test_we_read_what_diffusers_writes(
    systems: Systems, settings: dict[str, Any], with_metadata: bool, tmp_path: Path
) -> None:
    sd, pipe = systems.ours, systems.theirs
    plain, modules, saved = their_noise(pipe), {}, {}
    for part in sd.adaptable:
        names = ["to_k", "to_q", "to_v", "to_out.0", "proj_in", "conv1"]
        names = names if part == "unet" else ["q_proj", "k_proj", "v_proj", "out_proj"]
        alpha = 8 if with_metadata else 4  # without metadata it is taken for the rank
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=names, **settings)
        modules[part] = getattr(pipe, part)
        modules[part].add_adapter(config)
        for n, (name, parameter) in enumerate(modules[part].named_parameters()):
            if "lora_" in name:
                parameter.data = (0.15 * normal(*parameter.shape, seed=n)).float().double()
        state = get_peft_model_state_dict(modules[part])
        saved[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(state)
    metadata = _collate_lora_metadata(modules) if with_metadata else {}
    pipe.save_lora_weights(tmp_path, **saved, **metadata)
    wanted = their_noise(pipe)
    sd.load_adapter(tmp_path)
    assert relative_error(our_noise(sd), wanted) <= 1e-12
    assert relative_error(plain, wanted) > 0.05


# ------------------------------------------------------------------------------ hand-made, for both


def original(name: str, layers_per_block: int) -> str:
    """The original name of a U-Net's layer, by the arithmetic of the published conversion."""
    inner = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    inner |= {"conv_shortcut": "skip_connection"}
    words = name.split(".")
    block, kind = words[0], words[1] if words[0] == "mid_block" else words[2]
    n = int(words[2] if block == "mid_block" else words[3])
    rest = words[3:] if block == "mid_block" else words[4:]
    if kind == "resnets":
        rest = [inner[rest[0]]]
    if block == "mid_block":
        place = f"middle_block.{1 if kind == 'attentions' else 2 * n}"
    elif block == "down_blocks":
        first = 1 + int(words[1]) * (layers_per_block + 1)
        place = f"input_blocks.{first + n}.{int(kind == 'attentions')}"
        if kind == "downsamplers":
            place, rest = f"input_blocks.{first + layers_per_block}.0", ["op"]
    else:
        first = int(words[1]) * (layers_per_block + 1)
        place = f"output_blocks.{first + n}.{int(kind == 'attentions')}"
        if kind == "upsamplers":  # after a transformer, which each such block of the test has
            place = f"output_blocks.{first + layers_per_block}.2"
    return ".".join([place, *rest])


def hand_made(
    systems: Systems, name_of: Callable[[str, str, str], tuple[str, str, str | None]], only: str
) -> dict[str, Tensor]:
    """A file's tensors for layers of their networks: random, in the shapes of their layers.

    name_of maps a part, a layer and its kind to the names of A, B and alpha.
    """
    state: dict[str, Tensor] = {}
    for part in systems.ours.adaptable:
        for layer, module in getattr(systems.theirs, part).named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d) or not re.search(
                only, f"{part}.{layer}"
            ):
                continue
            layer = layer.removeprefix("text_model.")
            down, up, alpha = name_of(part, layer, type(module).__name__)
            c_out, *into = module.weight.shape
            seed = len(state)
            state[down] = 0.15 * normal(2, *into, seed=seed).float()
            state[up] = 0.15 * normal(c_out, 2, *[1] * (len(into) - 1), seed=seed + 1).float()
            if alpha:
                state[alpha] = torch.tensor(1.0 + len(state) % 3)
    return state


def agree(systems: Systems, state: dict[str, Tensor], folder: Path) -> None:
    save_file(state, folder / "pytorch_lora_weights.safetensors")
    plain = our_noise(systems.ours)
    systems.theirs.load_lora_weights(folder)
    wanted = their_noise(systems.theirs)
    attachment = systems.ours.load_adapter(folder / "pytorch_lora_weights.safetensors")
    assert relative_error(our_noise(systems.ours), wanted) <= 1e-12
    assert relative_error(plain, wanted) > 0.05
    halves = sum("alpha" not in name for name in state)
    assert 2 * sum(len(each.updates) for each in attachment.adapters) == halves
    pickle = folder / "style.pt"
    torch.save(state, pickle)
    systems.ours.unload_adapters()
    systems.ours.load_adapter(pickle)
    assert relative_error(our_noise(systems.ours), wanted) <= 1e-12


def test_kohya_s_names(systems: Systems, tmp_path: Path) -> None:
    n = systems.ours.unet.config.layers_per_block

    def kohya(part: str, layer: str, kind: str) -> tuple[str, str, str]:
        if part == "unet":
            stem = f"lora_unet_{original(layer, n) if systems.is_xl else layer}"
        else:
            number = {"text_encoder": "1", "text_encoder_2": "2"}[part] if systems.is_xl else ""
            stem = f"lora_te{number}_text_model_{layer}"
        stem = stem.replace(".", "_")
        return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"

    every = adapters(systems.ours, LOCON)
    systems.ours.save_adapter(tmp_path / "ours.safetensors", every, "kohya")
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert set(file.keys()) == {
            name
            for part, each in every.items()
            for layer in each.updates
            for name in kohya(part, layer, "")
        }
    layers_of_kohya = r"unet.*(attentions|resnets|samplers)\.|self_attn\.|mlp\."
    state = hand_made(systems, kohya, layers_of_kohya)
    if systems.is_xl:
        assert any("output_blocks_1_2_conv" in name for name in state)
        assert any("input_blocks_2_0_op" in name for name in state)
    agree(systems, state, tmp_path)


def test_the_names_of_diffusers_in_2023(systems: Systems, tmp_path: Path) -> None:
    def names(part: str, layer: str, kind: str) -> tuple[str, str, None]:
        middle = "lora" if part == "unet" else "lora_linear_layer"
        stem = f"{part}.{'' if part == 'unet' else 'text_model.'}{layer}.{middle}"
        return f"{stem}.down.weight", f"{stem}.up.weight", None

    agree(systems, hand_made(systems, names, r"\.to_|_proj$"), tmp_path)


@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_the_oldest_names(systems: Systems, prefix: str, tmp_path: Path) -> None:
    """The first training scripts wrote the U-Net alone, at first without a prefix."""

    def names(part: str, layer: str, kind: str) -> tuple[str, str, None]:
        block, _, last = layer.rpartition(".attn")
        number, _, kind = last.partition(".")
        stem = f"{prefix}{block}.attn{number}.processor.{kind.removesuffix('.0')}_lora"
        return f"{stem}.down.weight", f"{stem}.up.weight", None

    state = hand_made(systems, names, r"^unet.*\.to_")
    if prefix:
        agree(systems, state, tmp_path)
        return
    save_file(state, tmp_path / "old.safetensors")  # diffusers: pipe.unet.load_attn_procs
    systems.theirs.unet.load_lora_adapter(state, prefix=None)
    systems.ours.load_adapter(tmp_path / "old.safetensors")
    assert relative_error(our_noise(systems.ours), their_noise(systems.theirs)) <= 1e-12


def test_the_oldest_names_of_a_text_encoder(folders: dict[str, Path], tmp_path: Path) -> None:
    systems = both("SD 1", folders)

    def names(part: str, layer: str, kind: str) -> tuple[str, str, None]:
        if part == "unet":
            return f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight", None
        layer = layer.replace("q_proj", "to_q_lora").replace("k_proj", "to_k_lora")
        layer = layer.replace("v_proj", "to_v_lora").replace("out_proj", "to_out_lora")
        return (f"text_encoder.text_model.{layer}.{half}.weight" for half in ("down", "up", ""))

    state = hand_made(systems, names, r"unet.*attn2\.to_q|\.(q|k|v|out)_proj$")
    state = {name: tensor for name, tensor in state.items() if not name.endswith("..weight")}
    save_file(state, tmp_path / "old.safetensors")
    plain = our_noise(systems.ours)
    systems.ours.load_adapter(tmp_path / "old.safetensors")
    systems.theirs.load_lora_weights(tmp_path / "old.safetensors")
    wanted = their_noise(systems.theirs)
    assert relative_error(our_noise(systems.ours), wanted) <= 1e-12
    assert relative_error(plain, wanted) > 0.05


def test_the_projection_of_sdxl_s_second_text_encoder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    systems = both("SDXL", folders)
    made = trained(systems.ours.adaptable["text_encoder_2"], r"text_projection|self_attn")
    for layout, name in (
        ("peft", "text_encoder_2.text_projection.lora_A.weight"),
        ("kohya", "lora_te2_text_projection.lora_down.weight"),  # OneTrainer's name
    ):
        path = tmp_path / f"{layout}.safetensors"
        systems.ours.save_adapter(path, {"text_encoder_2": made}, layout)
        with safe_open(path, "pt") as file:
            assert name in file.keys()  # noqa: SIM118
        plain = our_noise(systems.ours)
        systems.ours.load_adapter(path)
        systems.theirs.load_lora_weights(path)
        assert relative_error(our_noise(systems.ours), their_noise(systems.theirs)) <= 1e-12
        assert relative_error(our_noise(systems.ours), plain) > 1e-3
        systems.ours.unload_adapters()
        systems.theirs.unload_lora_weights()


# ------------------------------------------------------------------------------------ our own files


def test_shapes_in_the_files_are_the_published_ones(systems: Systems, tmp_path: Path) -> None:
    """1x1 convolutions in SD 1's proj_in and proj_out; linear layers in the others."""
    sd = systems.ours
    sd.save_adapter(tmp_path / "style.safetensors", trained(sd.unet, r"proj_(in|out)$"), "kohya")
    with safe_open(tmp_path / "style.safetensors", "pt") as file:
        ranks = {file.get_tensor(name).ndim for name in file.keys() if "lora_" in name[9:]}  # noqa: SIM118
    assert ranks == ({4} if systems.name == "SD 1" else {2})


def test_the_metadata_is_peft_s(folders: dict[str, Path], tmp_path: Path) -> None:
    sd = both("SD 1", folders).ours
    sd.save_adapter(tmp_path / "style.safetensors", trained(sd.unet, ATTENTION))
    with safe_open(tmp_path / "style.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    assert settings["unet.r"] == 3
    assert settings["unet.lora_alpha"] == 6
    assert settings["unet.target_modules"] == sorted(layers(sd.unet, ATTENTION))


def test_alpha_of_zero_or_none_is_the_rank(folders: dict[str, Path], tmp_path: Path) -> None:
    sd = both("SD 1", folders).ours
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    c = sd.unet.config.block_out_channels[-1]
    state = {
        f"{layer}.lora_down.weight": torch.ones(5, c),
        f"{layer}.lora_up.weight": torch.ones(c, 5),
    }
    for alpha in (None, 0.0, 2.0):
        own = {} if alpha is None else {f"{layer}.alpha": torch.tensor(alpha)}
        save_file(state | own, tmp_path / "style.safetensors")
        (adapter,) = sd.load_adapter(tmp_path / "style.safetensors").adapters
        ((name, update),) = adapter.updates.items()
        assert name == "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        assert (update.rank, update.alpha) == (5, alpha or 5)


def test_a_file_in_half_precision_is_read_in_the_network_s(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    sd = both("SD 1", folders).ours
    made = trained(sd.unet, ATTENTION)
    sd.save_adapter(tmp_path / "style.safetensors", made, dtype=torch.float16)
    (read,) = sd.load_adapter(tmp_path / "style.safetensors").adapters
    assert not any(p.requires_grad for p in read.parameters())
    for name, update in read.updates.items():
        assert update.down.dtype == torch.float64
        assert torch.equal(update.down, made.updates[name].down.half().double())


@pytest.mark.parametrize("name", ["sd1.5", "sd2.1", "sdxl"])
def test_no_two_layers_share_a_name(name: str) -> None:
    """At full size, with underscores for dots: the table can be looked up either way."""
    spec = sdlearn.SPECS[name]
    with without_memory():
        networks: dict[str, nn.Module] = {"unet": UNet(spec.unet)}
        for part, config in zip(("text_encoder", "text_encoder_2"), spec.text, strict=False):
            networks[part] = sdlearn.CLIPTextEncoder(config)
    table = stems(networks)
    for part, network in networks.items():
        alone = stems({part: network})
        assert all(table[stem] == place for stem, place in alone.items())
        for layer in layers(network, ""):
            assert sum(place == (part, layer) for place in alone.values()) >= 2
            kohya = {
                "unet": "lora_unet_",
                "text_encoder": "lora_te1_",
                "text_encoder_2": "lora_te2_",
            }
            assert alone[kohya[part] + layer.replace(".", "_")] == (part, layer)
    if name == "sdxl":
        known = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
        assert table[known].layer == "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
        assert table["lora_unet_output_blocks_2_2_conv"].layer == "up_blocks.0.upsamplers.0.conv"
        assert table["lora_unet_input_blocks_3_0_op"].layer == "down_blocks.0.downsamplers.0.conv"


# ------------------------------------------------------------------------------------ whole images


def test_images_with_an_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    """Text to image, image to image and inpainting all run with it, and without it as before."""
    sd = both("SD 1", folders).ours
    options = {"steps": 2, "seed": 1, "progress": False, "output": "latent"}
    (start,) = sd.text_to_image(PROMPT, steps=2, progress=False)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1

    def images() -> list[Tensor]:
        return [
            sd.text_to_image(PROMPT, **options),
            sd.image_to_image(PROMPT, start, **options),
            sd.inpaint(PROMPT, start, mask, **options),
        ]

    before = images()
    sd.save_adapter(tmp_path / "style.safetensors", adapters(sd, text=TEXT_ATTENTION))
    sd.load_adapter(tmp_path / "style.safetensors", 0.8)
    assert all(relative_error(a, b) > 1e-3 for a, b in zip(images(), before, strict=True))
    sd.unload_adapters()
    assert all(torch.equal(a, b) for a, b in zip(images(), before, strict=True))
