"""The tensor names in the original files of CompVis and Stability (the ldm layout).

The names are those of the code that trained the models. The U-Net's blocks are numbered
consecutively, the decoder of the autoencoder counts its levels in the reverse order of execution,
and OpenCLIP stacks the projections of queries, keys and values. Most names follow from a table, and
the numbers from the configuration. The names here have no prefix: file_parts finds a network in a
file.
"""

from torch import Tensor, nn

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.unet import UNet, UNetConfig, UNetEncoder
from sdlearn.vae import VAE, VAEConfig
from sdlearn.weights.tensor_files import LazyTensor

KeyMap = dict[str, str]

# The start of a name here -> the start of the original name.
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
# Every other name of these layers that a converter has written -> the name here.
VAE_ATTENTION_NAMES = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
    "to_out": "to_out.0",
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


# ------------------------------------------------------------------------------------ the key maps


def unet_key_map(config: UNetConfig) -> KeyMap:
    """The key map of a U-Net, or of the half that a ControlNet has.

    input_blocks are counted from 1 (0 is conv_in): the layers of each level, then its downsampling.
    output_blocks are counted from 0: one layer more per level, and the last also upsamples.
    """
    keys = dict(UNET)
    layers, levels = config.layers_per_block, len(config.block_out_channels)
    for n in range(2):
        keys |= nested_keys(f"mid_block.resnets.{n}", f"middle_block.{2 * n}", UNET_RESNET)
    for b in range(levels):
        down, up = f"down_blocks.{b}", f"up_blocks.{b}"
        for n in range(layers):
            i = 1 + b * (layers + 1) + n
            keys |= nested_keys(f"{down}.resnets.{n}", f"input_blocks.{i}.0", UNET_RESNET)
            keys[f"{down}.attentions.{n}"] = f"input_blocks.{i}.1"
        i = (b + 1) * (layers + 1)
        keys[f"{down}.downsamplers.0.conv"] = f"input_blocks.{i}.0.op"
        for n in range(layers + 1):
            i = b * (layers + 1) + n
            keys |= nested_keys(f"{up}.resnets.{n}", f"output_blocks.{i}.0", UNET_RESNET)
            keys[f"{up}.attentions.{n}"] = f"output_blocks.{i}.1"
        upsampler = 2 if config.cross_attention[levels - 1 - b] else 1
        keys[f"{up}.upsamplers.0.conv"] = f"output_blocks.{i}.{upsampler}.conv"
    return keys


def controlnet_key_map(config: UNetConfig, convolutions: int) -> KeyMap:
    """The key map of a ControlNet whose hint encoder has this many convolutions.

    There is a SiLU between two of them, which takes a number, too.
    """
    keys = unet_key_map(config) | {"controlnet_mid_block": "middle_block_out.0"}
    for i in range(len(config.block_out_channels) * (config.layers_per_block + 1)):
        keys[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    blocks = [f"blocks.{i}" for i in range(convolutions - 2)]
    for i, name in enumerate(["conv_in", *blocks, "conv_out"]):
        keys[f"controlnet_cond_embedding.{name}"] = f"input_hint_block.{2 * i}"
    return keys


def vae_key_map(config: VAEConfig) -> KeyMap:
    """The key map of an autoencoder; the decoder's first level has the highest number."""
    keys = {}
    levels, layers = len(config.block_out_channels), config.layers_per_block
    for half in ("encoder", "decoder"):
        keys[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        for n in range(2):
            ours, theirs = f"{half}.mid_block.resnets.{n}", f"{half}.mid.block_{n + 1}"
            keys |= nested_keys(ours, theirs, VAE_RESNET)
        ours, theirs = f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
        keys |= nested_keys(ours, theirs, VAE_ATTENTION)
    for b in range(levels):
        down, up = f"encoder.down.{b}", f"decoder.up.{levels - 1 - b}"
        for n in range(layers + 1):
            ours = f"encoder.down_blocks.{b}.resnets.{n}"
            keys |= nested_keys(ours, f"{down}.block.{n}", VAE_RESNET)
            ours = f"decoder.up_blocks.{b}.resnets.{n}"
            keys |= nested_keys(ours, f"{up}.block.{n}", VAE_RESNET)
        keys[f"encoder.down_blocks.{b}.downsamplers.0"] = f"{down}.downsample"
        keys[f"decoder.up_blocks.{b}.upsamplers.0"] = f"{up}.upsample"
    return keys


def open_clip_key_map(config: CLIPTextConfig) -> KeyMap:
    """The key map of an OpenCLIP text encoder; q_proj, k_proj and v_proj share one tensor there."""
    keys = dict(OPEN_CLIP)
    for n in range(config.num_layers):
        ours, theirs = f"encoder.layers.{n}", f"transformer.resblocks.{n}"
        keys |= nested_keys(ours, theirs, OPEN_CLIP_LAYER)
        for name in STACKED:
            for kind in ("weight", "bias"):
                keys[f"{ours}.self_attn.{name}.{kind}"] = f"{theirs}.attn.in_proj_{kind}"
    return keys


def nested_keys(ours: str, theirs: str, inner: KeyMap) -> KeyMap:
    """The key map of a block that is called `ours` here and `theirs` in the original."""
    return {ours: theirs} | {f"{ours}.{a}": f"{theirs}.{b}" for a, b in inner.items()}


def map_key(key: str, keys: KeyMap) -> str:
    """Translate a name: its longest start that is in the key map is replaced."""
    start, rest = key, ""
    while start and start not in keys:
        start, _, last = start.rpartition(".")
        rest = f".{last}{rest}"
    return keys[start] + rest if start else key


def key_map(module: nn.Module, open_clip: bool = False) -> KeyMap:
    """The original name of each tensor of a network, without the prefix of its part.

    Args:
        module: A UNet, ControlNet, VAE or CLIPTextEncoder.
        open_clip: For a text encoder, OpenCLIP's names instead of the published folders'.
    """
    keys: KeyMap = {}
    if isinstance(module, UNet):
        keys = unet_key_map(module.config)
    elif isinstance(module, UNetEncoder):
        hints = [key for key in module.state_dict() if key.startswith("controlnet_cond_")]
        keys = controlnet_key_map(module.config, len(hints) // 2)  # a weight and a bias each
    elif isinstance(module, VAE):
        keys = vae_key_map(module.config)
    elif isinstance(module, CLIPTextEncoder) and open_clip:
        keys = open_clip_key_map(module.config)
    return {key: map_key(key, keys) for key in module.state_dict()}


def ema_key(name: str) -> str:
    """The name of the moving average of a tensor of the U-Net."""
    return "model_ema.diffusion_model" + name.replace(".", "")


def vae_attention_key(name: str) -> str:
    """A tensor of an autoencoder with the attention's layers named as in the rest of the file.

    Converters have given the layers of `attn_1`, the original name of the block, and of
    `attentions.0`, the published one, each other's names and older ones.
    """
    for block in (".attn_1.", ".attentions.0."):
        start, found, rest = name.partition(block)
        if found:
            layer, _, kind = rest.rpartition(".")
            layer = VAE_ATTENTION_NAMES.get(layer, layer)
            if block == ".attn_1.":
                layer = VAE_ATTENTION.get(layer, layer)
            return f"{start}{block}{layer}.{kind}"
    return name


def third_of_stack(key: str, tensor: LazyTensor) -> LazyTensor:
    """The part of OpenCLIP's stacked projections that a tensor here is; others as they are.

    Args:
        key: The name here.
        tensor: The tensor in the file.
    """
    shape, read = tensor.shape, tensor.read
    owner = key.rpartition(".")[0].rpartition(".")[2]
    if owner not in STACKED or not shape or shape[0] % 3:
        return tensor

    def third() -> Tensor:
        return read().chunk(3)[STACKED.index(owner)].clone()  # a view would keep all three

    return tensor._replace(shape=(shape[0] // 3, *shape[1:]), read=third)


def transposed(tensor: LazyTensor) -> LazyTensor:
    """OpenCLIP's text_projection, (hidden_size, projection_dim), as the weight of a layer."""
    shape, read = tensor.shape, tensor.read
    return tensor._replace(shape=shape[::-1], read=lambda: read().T.contiguous())
