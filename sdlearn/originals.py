"""The original files of CompVis and Stability -> the names of our modules.

One file holds a whole system, under the names of the code that trained it. There the U-Net is a row
of numbered blocks, the autoencoder's decoder counts its levels against the order in which they
run, and OpenCLIP stacks the projections to queries, keys and values. Most names follow from a
table, and the numbers from the configuration. The prefix says which part a tensor belongs to:

    model.diffusion_model.       the U-Net; model_ema. its average, names without dots
    first_stage_model.           the autoencoder
    cond_stage_model.            the text encoder of SD 1 and 2
    conditioner.embedders.0.     the text encoders of SDXL, and conditioner.embedders.1.
    control_model.               a ControlNet

The files of one part alone have its names without the prefix.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.stored import Stored
from sdlearn.unet import UNet, UNetConfig, UNetEncoder
from sdlearn.vae import VAE, VAEConfig

Names = dict[str, str]

# A place in our modules -> the same place in the original's.
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "mid_block.attentions.0": "middle_block.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
STACKED = ("q_proj", "k_proj", "v_proj")  # the order in which OpenCLIP stacks them

# What the files hold beside the weights: the schedule's tables, parts of the training, and numbers
# that are known without a file (CLIP's temperature is not needed to draw).
TABLES = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}
PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
TRAINING = ("model_ema.", "denoiser.", "loss.")
KNOWN = ("position_ids", "logit_scale")


# -------------------------------------------------------------------------------------- the places


def unet_places(config: UNetConfig) -> Names:
    """The places of a U-Net, or of the half that a ControlNet has.

    Going down, blocks are counted from 1 (0 is conv_in): each level's layers, then its
    downsampling. Going up, from 0: one layer more, the last of which also holds the upsampling.
    """
    places = dict(UNET)
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    for n in range(2):
        places |= within(f"mid_block.resnets.{n}", f"middle_block.{2 * n}", UNET_RESNET)
    for b in range(levels):
        for n in range(layers):
            i = 1 + b * (layers + 1) + n
            places |= within(f"down_blocks.{b}.resnets.{n}", f"input_blocks.{i}.0", UNET_RESNET)
            places[f"down_blocks.{b}.attentions.{n}"] = f"input_blocks.{i}.1"
        i = (b + 1) * (layers + 1)
        places[f"down_blocks.{b}.downsamplers.0.conv"] = f"input_blocks.{i}.0.op"
        for n in range(layers + 1):
            i = b * (layers + 1) + n
            places |= within(f"up_blocks.{b}.resnets.{n}", f"output_blocks.{i}.0", UNET_RESNET)
            places[f"up_blocks.{b}.attentions.{n}"] = f"output_blocks.{i}.1"
        after = 2 if config.cross_attention[levels - 1 - b] else 1
        places[f"up_blocks.{b}.upsamplers.0.conv"] = f"output_blocks.{i}.{after}.conv"
    return places


def controlnet_places(config: UNetConfig, hints: int) -> Names:
    """The places of a ControlNet; hints: convolutions of its hint encoder, between which there is
    a SiLU each."""
    places = unet_places(config) | {"controlnet_mid_block": "middle_block_out.0"}
    for i in range(len(config.block_out_channels) * (config.layers_per_block + 1)):
        places[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    inner = [f"blocks.{i}" for i in range(hints - 2)]
    for i, name in enumerate(["conv_in", *inner, "conv_out"]):
        places[f"controlnet_cond_embedding.{name}"] = f"input_hint_block.{2 * i}"
    return places


def vae_places(config: VAEConfig) -> Names:
    """The places of an autoencoder. The decoder's levels have the numbers of the encoder's, so
    the first that it passes has the highest."""
    places = {}
    levels, layers = len(config.block_out_channels), config.layers_per_block
    for half in ("encoder", "decoder"):
        places[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        for n in range(2):
            ours, theirs = f"{half}.mid_block.resnets.{n}", f"{half}.mid.block_{n + 1}"
            places |= within(ours, theirs, VAE_RESNET)
        middle = f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
        places |= within(*middle, VAE_ATTENTION)
    for b in range(levels):
        down, up = f"encoder.down.{b}", f"decoder.up.{levels - 1 - b}"
        for n in range(layers + 1):
            places |= within(
                f"encoder.down_blocks.{b}.resnets.{n}", f"{down}.block.{n}", VAE_RESNET
            )
            places |= within(f"decoder.up_blocks.{b}.resnets.{n}", f"{up}.block.{n}", VAE_RESNET)
        places[f"encoder.down_blocks.{b}.downsamplers.0"] = f"{down}.downsample"
        places[f"decoder.up_blocks.{b}.upsamplers.0"] = f"{up}.upsample"
    return places


def open_clip_places(config: CLIPTextConfig) -> Names:
    """The places of an OpenCLIP text encoder; three projections share one."""
    places = dict(OPEN_CLIP)
    for n in range(config.num_layers):
        ours, theirs = f"encoder.layers.{n}", f"transformer.resblocks.{n}"
        places |= within(ours, theirs, OPEN_CLIP_LAYER)
        for name in STACKED:
            for kind in ("weight", "bias"):
                places[f"{ours}.self_attn.{name}.{kind}"] = f"{theirs}.attn.in_proj_{kind}"
    return places


def within(ours: str, theirs: str, inner: Names) -> Names:
    """The places inside a block that is called `ours` here and `theirs` there."""
    return {ours: theirs} | {f"{ours}.{a}": f"{theirs}.{b}" for a, b in inner.items()}


def translate(key: str, places: Names) -> str:
    """Our key -> the original's: the longest known place in it is replaced."""
    place, rest = key, ""
    while place and place not in places:
        place, _, last = place.rpartition(".")
        rest = f".{last}{rest}"
    return places[place] + rest if place else key


def names(module: nn.Module, open_clip: bool = False) -> Names:
    """Our name of each tensor of a module -> its original name, without the prefix of its part.

    open_clip: a text encoder as OpenCLIP holds it, else under the names of the published folders.
    """
    places: Names = {}
    if isinstance(module, UNet):
        places = unet_places(module.config)
    elif isinstance(module, UNetEncoder):
        hints = [key for key in module.state_dict() if key.startswith("controlnet_cond_")]
        places = controlnet_places(module.config, len(hints) // 2)  # a weight and a bias each
    elif isinstance(module, VAE):
        places = vae_places(module.config)
    elif isinstance(module, CLIPTextEncoder) and open_clip:
        places = open_clip_places(module.config)
    return {key: translate(key, places) for key in module.state_dict()}


# --------------------------------------------------------------------------------- a part of a file


class Place(NamedTuple):
    """Where an original file may hold a module: the prefix of its names, a name after the prefix
    that is surely there, and whether it is a text encoder of OpenCLIP's."""

    prefix: str
    sign: str
    open_clip: bool = False


def candidates(module: nn.Module, number: int) -> Iterator[Place]:
    if isinstance(module, UNetEncoder):
        own = "model.diffusion_model." if isinstance(module, UNet) else "control_model."
        yield from (Place(prefix, "input_blocks.0.0.weight") for prefix in (own, ""))
    elif isinstance(module, VAE):
        for prefix in ("first_stage_model.", ""):
            yield Place(prefix, "encoder.mid.block_1.norm1.weight")
    elif isinstance(module, CLIPTextEncoder):
        roots = [f"conditioner.embedders.{number}."]
        roots += ["cond_stage_model."] if number == 0 else []
        for root in roots:
            for prefix in (f"{root}transformer.text_model.", f"{root}transformer."):
                yield Place(prefix, "embeddings.token_embedding.weight")
            yield Place(f"{root}model.", "positional_embedding", open_clip=True)


def averaged(name: str) -> str:
    """The name of the average of a tensor of the U-Net."""
    return "model_ema.diffusion_model" + name.replace(".", "")


def find_part(
    module: nn.Module, stored: Mapping[str, Stored], number: int = 0, ema: bool = False
) -> tuple[str, dict[str, Stored]] | None:
    """What an original file holds for a module: the prefix there, and the tensors under our names.

    Tensors with the prefix that the module has no place for keep their names. None where the file
    does not hold such a module, or not in the original layout. number: which text encoder. ema:
    the U-Net's average, which is also taken where the file holds nothing else.
    """
    here = [place for place in candidates(module, number) if place.prefix + place.sign in stored]
    if isinstance(module, UNet) and averaged("input_blocks.0.0.weight") in stored:
        ema = ema or not here
        here = here or [next(candidates(module, number))]
    elif ema and isinstance(module, UNet):
        return None
    if not here:
        return None
    prefix, _, open_clip = here[0]
    found, used = {}, set()
    for key, name in names(module, open_clip).items():
        theirs = averaged(name) if ema and isinstance(module, UNet) else prefix + name
        used.add(prefix + name)
        if theirs in stored:
            found[key] = unstacked(key, stored[theirs]) if open_clip else stored[theirs]
    for name, tensor in stored.items():
        if name.startswith(prefix) and name not in used and not beside(name, prefix, module):
            found[name] = tensor
    return prefix, found


def beside(name: str, prefix: str, module: nn.Module) -> bool:
    """Whether a tensor is none of the weights that the module is to hold.

    SD 2 looks at the last but one layer of its text encoder, and so never at the last; and only
    SDXL at a projection.
    """
    name = name.removeprefix(prefix)
    if isinstance(module, CLIPTextEncoder):
        unused = f"transformer.resblocks.{module.config.num_layers}."
        no_projection = module.config.projection_dim is None
        if name.startswith(unused) or (name == "text_projection" and no_projection):
            return True
    return name in TABLES or name.startswith(TRAINING) or name.endswith(KNOWN)


def unstacked(key: str, tensor: Stored) -> Stored:
    """A tensor of OpenCLIP as we hold it: a third of a stack, or the projection transposed."""
    _, shape, _, read = tensor
    if key == "text_projection.weight" and len(shape) == 2:  # (width, projection_dim) there
        return tensor._replace(shape=shape[::-1], read=lambda: read().T.contiguous())
    owner = key.split(".")[-2]
    if owner not in STACKED or not shape or shape[0] % 3:
        return tensor

    def third() -> Tensor:
        return read().chunk(3)[STACKED.index(owner)].clone()  # a piece would keep the whole alive

    return tensor._replace(shape=(shape[0] // 3, *shape[1:]), read=third)
