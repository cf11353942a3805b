"""Small systems with random weights, and the original single files that hold them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.unet import UNet, UNetConfig
from sdlearn.vae import VAE, VAEConfig
from sdlearn.versions import SD1_5, SDXL, ModelSpec
from sdlearn.weights.ldm_keys import STACKED, key_map
from sdlearn.weights.system_parts import Parts
from tests.parity.oracle import randomise

TINY_UNET = UNetConfig(
    block_out_channels=(16, 32, 32),
    cross_attention=(True, True, False),
    transformer_depth=(1, 2, 1),
    num_heads=(2, 4, 4),
    cross_attention_dim=24,
    norm_num_groups=4,
)
TINY_TEXT = CLIPTextConfig(
    vocab_size=40, hidden_size=24, num_layers=2, num_heads=2, intermediate_size=40, max_positions=9
)
TINY_VAE = VAEConfig(block_out_channels=(8, 16, 16), norm_num_groups=4)
TINY1 = replace(SD1_5, name="tiny1", unet=TINY_UNET, vae=TINY_VAE, text=(TINY_TEXT,))
TINY2 = replace(
    TINY1,
    name="tiny2",
    unet=replace(TINY_UNET, use_linear_projection=True, layers_per_block=1),
    text=(replace(TINY_TEXT, activation="gelu"),),
)
TINYXL = replace(
    SDXL,
    name="tinyxl",
    unet=replace(
        TINY_UNET,
        cross_attention=(False, True, True),
        transformer_depth=(1, 1, 3),
        cross_attention_dim=56,
        use_linear_projection=True,
        added_dim=20 + 6 * 4,
        added_time_dim=4,
    ),
    vae=TINY_VAE,
    text=(TINY_TEXT, replace(TINY_TEXT, hidden_size=32, num_layers=3, projection_dim=20)),
)
TINY = {spec.name: spec for spec in (TINY1, TINY2, TINYXL)}
# The tables of the schedule that CompVis stores.
SCHEDULE_TABLES = [
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod"),
    *("sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod"),
    *("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance"),
    *("posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
]
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
TEXT = {
    "tiny1": [CLIP],
    "tiny2": [OPEN_CLIP],
    "tinyxl": ["conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."],
}


def original(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The module as an original file holds it: our map backwards."""
    state: dict[str, Tensor] = {}
    stacks: dict[str, dict[str, Tensor]] = {}
    open_clip = prefix.endswith(".model.")
    convolutions = isinstance(module, VAE) or not getattr(
        module.config, "use_linear_projection", True
    )
    ours = module.state_dict()
    for key, name in key_map(module, open_clip).items():
        tensor = ours[key]
        owner = key.split(".")[-2]
        if open_clip and owner in STACKED:
            stacks.setdefault(name, {})[owner] = tensor
            continue
        if name == "text_projection":
            tensor = tensor.T.contiguous()
        flat = ("to_q", "to_k", "to_v", "0") if isinstance(module, VAE) else ("proj_in", "proj_out")
        if convolutions and owner in flat and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        state[prefix + name] = tensor
    for name, thirds in stacks.items():
        state[prefix + name] = torch.cat([thirds[owner] for owner in STACKED])
    return state


def system(spec: ModelSpec, seed: int = 0) -> tuple[Parts, dict[str, Tensor]]:
    """Parts of random weights, and the file that holds them with all that stands beside."""
    unet, vae = UNet(spec.unet), VAE(spec.vae)
    encoders = [CLIPTextEncoder(config) for config in spec.text]
    for n, module in enumerate((unet, vae, *encoders)):
        randomise(module, seed + n)
    state = original(unet, "model.diffusion_model.") | original(vae, "first_stage_model.")
    for encoder, prefix in zip(encoders, TEXT[spec.name], strict=True):
        state |= original(encoder, prefix)
        if prefix.endswith("text_model."):
            state[prefix + "embeddings.position_ids"] = torch.arange(9)[None]
        else:
            state[prefix + "logit_scale"] = torch.tensor(4.6)
    if spec.name == "tiny2":  # the last layer and the projection, which SD 2 does not use
        longer = replace(spec.text[0], num_layers=3, projection_dim=24)
        state |= original(randomise(CLIPTextEncoder(longer), 9), OPEN_CLIP) | state
    if spec.name != "tinyxl":
        state |= {name: torch.rand(1000) for name in SCHEDULE_TABLES}
        state["alphas_cumprod"] = spec.schedule.alphas_cumprod.float()
    return Parts(unet, vae, encoders), {k: v.contiguous() for k, v in state.items()}


def equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def same(a: Parts, b: Parts) -> bool:
    """Whether two systems have equal parts."""
    pairs = [(a.unet, b.unet), (a.vae, b.vae), *zip(a.encoders, b.encoders, strict=True)]
    return all(equal(*pair) for pair in pairs)
