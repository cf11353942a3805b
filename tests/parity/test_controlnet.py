"""ControlNet against diffusers' ControlNetModel: alone, on the U-Net it controls, and as files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file
from torch import Tensor

import sdlearn
from sdlearn import controlnet, unet
from sdlearn.controlnet import ControlNet, HintEncoder, guess_mode_scales, sum_residuals
from sdlearn.unet import UNet, UNetConfig, UNetEncoder
from sdlearn.utils.atomic_files import read_json, write_json
from sdlearn.utils.sampling_checks import check_control_fits
from sdlearn.weights.controlnet_files import detect_controlnet_config
from sdlearn.weights.ldm_keys import key_map
from sdlearn.weights.saving import published_state
from sdlearn.weights.tensor_files import LazyTensor

from .oracle import (
    DTYPES,
    TOLERANCE,
    Pair,
    count,
    normal,
    published,
    randomise,
    relative_error,
    shapes,
)
from .test_unet import SMALL, their_unet

WIDTHS = (6, 10, 14, 22)  # of the hint encoder in miniature
SYSTEMS = {name: replace(config, in_channels=4) for name, config in SMALL.items()}


def their_controlnet(config: UNetConfig, widths: tuple[int, ...] = WIDTHS) -> ControlNetModel:
    """Made by diffusers itself from its own U-Net, as its training scripts do."""
    return ControlNetModel.from_unet(
        their_unet(replace(config, in_channels=4)), conditioning_embedding_out_channels=widths
    )


class ControlNets(Pair):
    """Both ControlNets, see oracle.Pair, and a hint for them."""

    def __init__(
        self,
        config: UNetConfig,
        dtype: torch.dtype = torch.float64,
        size: tuple[int, int] = (8, 12),
        seed: int = 0,
    ) -> None:
        super().__init__(ControlNet(config, WIDTHS), their_controlnet(config), dtype, size, seed)
        h, w = size
        self.hint = normal(2, 3, 8 * h, 8 * w, seed=3, dtype=dtype).sigmoid()

    def answer(self, scale: float | list[float] = 1.0) -> controlnet.Residuals:
        return self.ours(self.z, self.t, self.context, self.hint, scale, self.added)

    def their_answer(self, scale: float = 1.0, guess: bool = False) -> controlnet.Residuals:
        down, mid = self.theirs(
            self.z,
            self.t,
            self.context,
            self.hint,
            conditioning_scale=scale,
            added_cond_kwargs=self.their_added,
            guess_mode=guess,
            return_dict=False,
        )
        return list(down), mid

    def errors(self, scale: float = 1.0) -> list[float]:
        return errors(self.answer(scale), self.their_answer(scale))


def errors(ours: controlnet.Residuals, theirs: controlnet.Residuals) -> list[float]:
    """The relative error of each residual, the middle last."""
    pairs = zip([*ours[0], ours[1]], [*theirs[0], theirs[1]], strict=True)
    return [relative_error(mine, wanted) for mine, wanted in pairs]


# ------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_residual_is_that_of_diffusers(name: str, dtype: torch.dtype) -> None:
    pair = ControlNets(SYSTEMS[name], dtype)
    levels, layers = len(SYSTEMS[name].block_out_channels), SYSTEMS[name].layers_per_block
    found = pair.errors()
    assert len(found) == 1 + levels * layers + (levels - 1) + 1
    assert max(found) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["SD 1", "SDXL"])
def test_sizes_that_halve_unevenly(name: str) -> None:
    assert max(ControlNets(SYSTEMS[name], size=(7, 10)).errors()) <= 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_controlled_unet_estimates_what_diffusers_estimates(
    name: str, dtype: torch.dtype
) -> None:
    pair = ControlNets(SYSTEMS[name], dtype)
    theirs = randomise(their_unet(SYSTEMS[name]).to(dtype), seed=5)
    ours = UNet(SYSTEMS[name]).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    down, mid = pair.their_answer(0.7)
    wanted = theirs(
        pair.z,
        pair.t,
        pair.context,
        added_cond_kwargs=pair.their_added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    controlled = ours(pair.z, pair.t, pair.context, pair.added, residuals=pair.answer(0.7))
    assert relative_error(controlled, wanted) <= TOLERANCE[dtype]
    assert relative_error(controlled, ours(pair.z, pair.t, pair.context, pair.added)) > 0.05


def test_an_inpainting_unet_is_controlled_by_its_latent_alone() -> None:
    config = SMALL["SD 2, nine channels"]
    assert config.in_channels == 9
    assert ControlNet(config, WIDTHS).conv_in.in_channels == 4
    inpainting = randomise(UNet(config).double())
    assert isinstance(inpainting, UNet)
    copy = ControlNet.from_unet(inpainting, WIDTHS)
    assert torch.equal(copy.conv_in.weight, inpainting.conv_in.weight[:, :4])
    pair = ControlNets(config)
    z = torch.cat([pair.z, normal(2, 5, 8, 12, seed=4)], dim=1)
    assert inpainting(z, pair.t, pair.context, residuals=pair.answer()).shape == (2, 4, 8, 12)


# --------------------------------------------------------------------------------------- strengths


@pytest.mark.parametrize("scale", [0.0, 0.35, 1.0, 2])
def test_scale_is_that_of_diffusers(scale: float) -> None:
    pair = ControlNets(SYSTEMS["SD 1"])
    if scale:
        assert max(pair.errors(scale)) <= 1e-12
    whole, scaled = pair.answer(), pair.answer(scale)
    for one, part in zip([*whole[0], whole[1]], [*scaled[0], scaled[1]], strict=True):
        assert torch.equal(scale * one, part)


def test_guess_mode_fades_towards_the_full_size() -> None:
    assert guess_mode_scales(13) == [0.825 ** (12 - i) for i in range(13)]
    pair = ControlNets(UNetConfig(**{**vars(SYSTEMS["SD 1"]), **FOUR_LEVELS}))
    faded = pair.answer(guess_mode_scales(13))
    plain = pair.answer()
    for i, (part, one) in enumerate(zip([*faded[0], faded[1]], [*plain[0], plain[1]], strict=True)):
        assert torch.equal(0.825 ** (12 - i) * one, part)
    # diffusers goes from 0.1 to 1 in equal ratios, and 0.825 ** 12 is 0.0994.
    assert max(errors(faded, pair.their_answer(guess=True))) < 0.006
    assert max(errors(plain, pair.their_answer(guess=True))) > 1
    with pytest.raises(
        ValueError, match=r"scale has 12 entries; give one number .* each of the 13"
    ):
        pair.answer([1.0] * 12)


FOUR_LEVELS = {
    "block_out_channels": (8, 16, 24, 24),
    "cross_attention": (True, True, True, False),
    "transformer_depth": (1, 1, 1, 1),
    "num_heads": (4, 4, 4, 4),
}


def test_two_controlnets_add_up() -> None:
    config = SYSTEMS["SD 2, nine channels"]
    one, two = ControlNets(config), ControlNets(config, seed=8)
    two.hint = 1 - one.hint
    down, mid = sum_residuals([one.answer(0.4), two.answer(0.9)])
    theirs = one.their_answer(0.4), two.their_answer(0.9)
    wanted = [a + b for a, b in zip(theirs[0][0], theirs[1][0], strict=True)]
    assert max(errors((down, mid), (wanted, theirs[0][1] + theirs[1][1]))) <= 1e-12


def test_a_controlnet_of_another_unet_is_refused() -> None:
    ours = ControlNet(SYSTEMS["SD 1"], WIDTHS)
    check_control_fits(ours, UNet(SYSTEMS["SD 1"]))
    check_control_fits(ours, UNet(replace(SYSTEMS["SD 1"], in_channels=9, upcast_attention=True)))
    for change, sentence in (
        ({"cross_attention_dim": 12}, "its cross_attention_dim is 10, here it is 12"),
        ({"layers_per_block": 1}, "its layers_per_block is 2, here it is 1"),
        ({"out_channels": 8}, "its out_channels is 4, here it is 8"),
        ({"block_out_channels": (16, 32, 32)}, r"is \(16, 32, 48\), here it is \(16, 32, 32\)"),
        ({"added_dim": 31, "added_time_dim": 4}, "its added_dim is None, here it is 31"),
    ):
        with pytest.raises(ValueError, match=f"for another U-Net: .*{sentence}"):
            check_control_fits(ours, UNet(replace(SYSTEMS["SD 1"], **change)))
    with pytest.raises(ValueError, match=r"torch\.float32 on cpu, but .* torch\.float64 on cpu"):
        check_control_fits(ours, UNet(SYSTEMS["SD 1"]).double())


def test_one_hint_serves_the_whole_batch() -> None:
    pair = ControlNets(SYSTEMS["storybook"])
    pair.hint = pair.hint[:1]
    alone = pair.answer()
    pair.hint = pair.hint.expand(2, -1, -1, -1)
    assert max(errors(alone, pair.answer())) <= 1e-14


# ---------------------------------------------------------------------------------------- training


def random_unet(name: str) -> UNet:
    made = randomise(UNet(SYSTEMS[name]).double())
    assert isinstance(made, UNet)
    return made


@pytest.mark.parametrize("name", ["storybook", "SDXL"])
def test_a_fresh_controlnet_changes_nothing(name: str) -> None:
    pair, ours = ControlNets(SYSTEMS[name]), random_unet(name)
    fresh = ControlNet.from_unet(ours, WIDTHS)
    assert fresh.conv_in.weight.dtype == torch.float64
    residuals = fresh(pair.z, pair.t, pair.context, pair.hint, added=pair.added)
    assert all(not x.any() for x in [*residuals[0], residuals[1]])
    free = ours(pair.z, pair.t, pair.context, pair.added)
    assert torch.equal(ours(pair.z, pair.t, pair.context, pair.added, residuals), free)


def test_from_unet_copies_what_diffusers_copies() -> None:
    theirs = randomise(their_unet(SYSTEMS["SDXL"]))
    ours = UNet(SYSTEMS["SDXL"])
    ours.load_state_dict(published(theirs))
    copy = ControlNet.from_unet(ours, WIDTHS)
    wanted = published(
        ControlNetModel.from_unet(theirs, conditioning_embedding_out_channels=WIDTHS)
    )
    drawn = ("controlnet_cond_embedding.conv_in.", "controlnet_cond_embedding.blocks.")
    assert shapes(copy.state_dict()) == shapes(wanted)
    for key, tensor in copy.state_dict().items():
        assert key.startswith(drawn) or torch.equal(tensor, wanted[key]), key
    with torch.no_grad():
        ours.conv_in.weight.zero_()
    assert copy.conv_in.weight.any()  # a copy, not the U-Net's own


def test_zero_convolutions_learn_first_and_the_hint_after_them() -> None:
    pair, ours = ControlNets(SYSTEMS["storybook"]), random_unet("storybook")
    fresh = ControlNet.from_unet(ours, WIDTHS)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.1)
    learning = []
    for _ in range(3):
        optimizer.zero_grad()
        residuals = fresh(pair.z, pair.t, pair.context, pair.hint)
        ours(pair.z, pair.t, pair.context, residuals=residuals).square().mean().backward()
        learning.append({name.split(".")[0] for name, p in fresh.named_parameters() if moves(p)})
        if len(learning) == 2:  # the hint's own last convolution is at zero, too
            assert moves(fresh.controlnet_cond_embedding.conv_out.weight)
            assert not moves(fresh.controlnet_cond_embedding.conv_in.weight)
        optimizer.step()
    assert learning[0] == {"controlnet_down_blocks", "controlnet_mid_block"}
    assert learning[1] == {name for name, _ in fresh.named_children()}
    assert moves(fresh.controlnet_cond_embedding.conv_in.weight)


def moves(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


# ----------------------------------------------------------------------------- the published files


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sd1.5", 361_279_120),
        ("sd1.5-inpaint", 361_279_120),
        ("sd2.1", 364_228_240),
        ("sd2.1-base", 364_228_240),
        ("sdxl", None),
    ],
)
def test_full_size_keys_shapes_and_count(name: str, parameters: int | None) -> None:
    config = sdlearn.SPECS[name].unet
    with torch.device("meta"):
        ours = ControlNet(config)
        theirs = their_controlnet(config, (16, 32, 96, 256))
    assert shapes(ours.state_dict()) == shapes(published(theirs))
    assert count(ours) == (parameters or count(theirs))


def test_the_storybook_model_takes_hints_of_its_own_size() -> None:
    spec = sdlearn.SPECS["storybook"]
    ours = sdlearn.ControlNet(spec.unet)
    assert ours.factor == 2 ** (len(spec.vae.block_out_channels) - 1)
    down, mid = ours(
        torch.zeros(1, 4, 8, 8), 500, torch.zeros(1, 77, 128), torch.ones(1, 3, 64, 64)
    )
    assert [tuple(x.shape[1:]) for x in [*down, mid]] == [
        (128, 8, 8),
        (128, 8, 8),
        (128, 4, 4),
        (192, 4, 4),
        (192, 4, 4),
    ]


def test_an_autoencoder_that_halves_once_takes_two_hint_widths() -> None:
    ours = ControlNet(SYSTEMS["storybook"], (4, 6))
    assert ours.factor == 2
    inputs = torch.zeros(1, 4, 8, 12), 500, torch.zeros(1, 77, 12)
    assert ours(*inputs, torch.ones(1, 3, 16, 24))[0][0].shape == (1, 24, 8, 12)
    with pytest.raises(ValueError, match=r"need \(1, 3, 16, 24\), RGB and 2 times their size"):
        ours(*inputs, torch.ones(1, 3, 64, 96))


@pytest.mark.parametrize("name", ["SD 1", "SD 2, nine channels", "SDXL"])
def test_a_folder_of_diffusers_is_read(name: str, tmp_path: Path) -> None:
    pair = ControlNets(SYSTEMS[name])
    pair.theirs.save_pretrained(tmp_path)
    loaded = ControlNet.from_pretrained(tmp_path, torch.float64)
    assert loaded.hint_channels == WIDTHS
    assert not loaded.training
    pair.ours = loaded
    assert max(pair.errors()) <= 1e-12
    single = ControlNet.from_pretrained(tmp_path)
    assert single.conv_in.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["SD 1", "SD 2, nine channels", "SDXL"])
def test_a_saved_folder_is_read_by_diffusers(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = ControlNets(SYSTEMS[name])
    pair.ours.save_pretrained(tmp_path)
    theirs = ControlNetModel.from_pretrained(tmp_path, torch_dtype=torch.float64)
    assert "not expected" not in capfd.readouterr().err
    assert shapes(theirs.state_dict()) == shapes(pair.theirs.state_dict())
    pair.theirs = theirs
    assert max(pair.errors()) <= 1e-12
    again = ControlNet.from_pretrained(tmp_path, torch.float64)
    assert (again.config, again.hint_channels) == (
        replace(pair.ours.config, sample_size=64),  # a ControlNet's file does not say it
        WIDTHS,
    )
    for key, tensor in pair.ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


@pytest.mark.parametrize(
    ("entry", "value", "sentence"),
    [
        ("global_pool_conditions", "yes", "global_pool_conditions is 'yes'; it must be true or"),
        (
            "controlnet_conditioning_channel_order",
            "bgr",
            "controlnet_conditioning_channel_order is 'bgr'; only 'rgb' is supported",
        ),
        ("conditioning_channels", 1, "conditioning_channels is 1; only 3 is supported"),
        ("_class_name", "UNet2DConditionModel", "only 'ControlNetModel' is supported"),
        ("mid_block_type", "UNetMidBlock2D", "only 'UNetMidBlock2DCrossAttn' is supported"),
        ("down_block_types", ["AttnDownBlock2D"] * 3, "are not those of Stable Diffusion"),
        ("conditioning_embedding_out_channels", 3, "has an entry of the wrong kind"),
        ("conditioning_embedding_out_channels", [6, 10], "lacks|does not have|has the shape"),
        ("cross_attention_dim", 11, "ControlNet needs"),
    ],
)
def test_what_is_not_supported_is_refused(
    entry: str, value: object, sentence: str, tmp_path: Path
) -> None:
    ControlNets(SYSTEMS["SD 1"]).ours.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    write_json(config, read_json(config) | {entry: value})
    with pytest.raises(ValueError, match=sentence) as refusal:
        ControlNet.from_pretrained(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def original_state(controlnet: ControlNet, prefix: str) -> dict[str, Tensor]:
    """The tensors of a ControlNet as its authors publish them."""
    ours = controlnet.state_dict()
    return {prefix + name: ours[key].contiguous() for key, name in key_map(controlnet).items()}


@pytest.mark.parametrize("layout", ["control_model.", "", "published"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_single_file_is_read(layout: str, suffix: str, tmp_path: Path) -> None:
    """Of the weights alone, with a specification for what their shapes do not tell."""
    pair = ControlNets(SYSTEMS["SD 1"])
    state = original_state(pair.ours, layout)
    if layout == "published":
        state = published_state(pair.ours)
    path = tmp_path / f"control_v11p_sd15_canny{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    spec = replace(sdlearn.SPECS["sd1.5"], unet=SYSTEMS["SD 1"])
    pair.ours = ControlNet.from_pretrained(path, torch.float64, spec)
    assert pair.ours.hint_channels == WIDTHS
    assert not pair.ours.training
    assert max(pair.errors()) <= 1e-12
    with pytest.raises(ValueError, match=r"looks like a ControlNet for another system; accepted:"):
        ControlNet.from_pretrained(path)
    with pytest.raises(ValueError, match=r"spec is 'sd3'; accepted: sd1\.4, sd1\.5, "):
        ControlNet.from_pretrained(path, spec="sd3")
    with pytest.raises(ValueError, match=rf"{path.name}( holds| lacks|: .*has the shape)"):
        ControlNet.from_pretrained(path, spec="sd1.5")


@pytest.mark.parametrize("name", [name for name in sdlearn.SPECS if name != "sd1.4"])
def test_a_full_size_file_tells_what_it_is_for(name: str) -> None:
    wanted = sdlearn.SPECS[name].unet
    with torch.device("meta"):
        ours = ControlNet(wanted)
    for state in (ours.state_dict(), original_state(ours, "control_model.")):
        tensors = {k: LazyTensor(k, tuple(v.shape), v.dtype, v.clone) for k, v in state.items()}
        config, hints = detect_controlnet_config(Path("control.pth"), tensors)
        assert hints == (16, 32, 96, 256)
        same = replace(ours.config, sample_size=64, upcast_attention=config.upcast_attention)
        assert replace(config, in_channels=4, sample_size=64) == same
        assert config.upcast_attention >= wanted.upcast_attention


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = published_state(UNet(SYSTEMS["SD 1"]))
    save_file(state, path)
    with pytest.raises(ValueError, match=r"model\.safetensors holds no ControlNet; give the f"):
        ControlNet.from_pretrained(path)
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    save_file(state | {attention: torch.zeros(16, 768)}, path)
    with pytest.raises(ValueError, match="no ControlNet; it looks like Stable Diffusion 1; give"):
        ControlNet.from_pretrained(path)
    (tmp_path / "notes.txt").write_text("a ControlNet")
    with pytest.raises(
        ValueError, match=r"notes\.txt is a text file that begins with 'a ControlNet'; download"
    ):
        ControlNet.from_pretrained(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="does not exist; give a model's folder, or its id"):
        ControlNet.from_pretrained(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"is not a file; spec is accepted for a single file only"):
        ControlNet.from_pretrained(tmp_path, spec="sd1.5")
    with pytest.raises(ValueError, match=r"dtype is torch\.int8; it must be one of torch\.float32"):
        ControlNet.from_pretrained(tmp_path, torch.int8)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        ControlNet.from_pretrained(tmp_path)
    ControlNets(SYSTEMS["SD 1"]).ours.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        ControlNet.from_pretrained(tmp_path)


# --------------------------------------------------------------------------------------- bad hints


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda x: 2 * x - 1, r"hint runs from -0\.\d+ to 0\.\d+; its values must be in \[0, 1\]"),
        (lambda x: 255 * x, r"hint runs from .* to 25\d\.\d; .* divide bytes by 255"),
        (lambda x: x * float("nan"), "hint runs from nan to nan"),
        (lambda x: (255 * x).to(torch.uint8), r"hint is torch\.uint8; give a tensor of floating"),
        (lambda x: x.numpy(), "hint is ndarray; give a tensor"),
        (lambda x: x[:, :, :-1], r"the shape \(2, 3, 63, 96\); .* need \(2, 3, 64, 96\)"),
        (lambda x: x.transpose(2, 3), r"the shape \(2, 3, 96, 64\)"),
        (lambda x: x[:, :, :8, :12], r"the shape \(2, 3, 8, 12\); .* RGB and 8 times their size"),
        (lambda x: x[:, :1], r"the shape \(2, 1, 64, 96\)"),
        (lambda x: x[0], r"the shape \(3, 64, 96\); .* or \(1, 3, 64, 96\) for all"),
        (lambda x: torch.cat([x, x[:1]]), r"the shape \(3, 3, 64, 96\)"),
    ],
)
def test_a_hint_that_does_not_fit_is_refused(bad: Callable, sentence: str) -> None:
    pair = ControlNets(SYSTEMS["storybook"])
    pair.hint = bad(pair.hint)
    with pytest.raises(ValueError, match=sentence) as refusal:
        pair.answer()
    assert "\n" not in str(refusal.value)


def test_the_ends_of_the_range_are_allowed() -> None:
    pair = ControlNets(SYSTEMS["storybook"])
    pair.hint = pair.hint.round()
    assert sorted(pair.hint.unique().tolist()) == [0, 1]
    assert max(pair.errors()) <= 1e-12


# ------------------------- mistakes that are easily made: each must be far outside the tolerance


def test_a_hint_in_another_range_or_order_would_show() -> None:
    for wrong in (lambda x: 2 * x - 1, lambda x: x.flip(1), lambda x: x.flip(2)):
        pair = ControlNets(SYSTEMS["SD 1"])
        wanted = pair.their_answer()
        pair.hint = wrong(pair.hint)
        assert min(errors(pair.their_answer(), wanted)) > 1e-3


def test_a_missing_activation_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_silu_at_the_door(self: HintEncoder, hint: Tensor) -> Tensor:
        h = self.conv_in(hint)
        for conv in self.blocks:
            h = torch.nn.functional.silu(conv(h))
        return self.conv_out(h)

    monkeypatch.setattr(HintEncoder, "forward", no_silu_at_the_door)
    assert min(ControlNets(SYSTEMS["SD 1"]).errors()) > 1e-3


def test_the_hint_after_the_first_skip_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    right = UNetEncoder.encode
    pair = ControlNets(SYSTEMS["SD 1"])

    def hint_kept_out_of_the_first_skip(
        self: UNetEncoder, h: Tensor, emb: Tensor, context: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        skips, mid = right(self, h, emb, context)
        return [self.conv_in(pair.z), *skips[1:]], mid

    monkeypatch.setattr(unet.UNetEncoder, "encode", hint_kept_out_of_the_first_skip)
    first, *others = pair.errors()
    assert first > 1e-2
    assert max(others) <= 1e-12
