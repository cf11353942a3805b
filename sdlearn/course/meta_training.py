"""The networks of a training run on torch's meta device, where they have shapes but no memory.

`sdlearn train --dry-run` counts their parameters and the cost of one forward pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.controlnet import ControlNet
from sdlearn.course.live_memory import kept_bytes, recomputed_bytes
from sdlearn.course.version_costs import flops
from sdlearn.evaluation.judge import Judge, JudgeConfig
from sdlearn.inpainting import widen_for_inpainting
from sdlearn.recipes import clip, unet, vae
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.recipes.base_model import model_folder
from sdlearn.recipes.controlnet import ControlNetRecipe
from sdlearn.recipes.distill import DistillRecipe
from sdlearn.recipes.flow import FlowRecipe
from sdlearn.recipes.inpaint import InpaintRecipe
from sdlearn.recipes.judge import JudgeRecipe
from sdlearn.recipes.latent_cache import part_folder
from sdlearn.recipes.muon import Muon
from sdlearn.recipes.perceptual import PerceptualNetwork, PerceptualRecipe
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.tokenizer import CONTEXT, MERGES
from sdlearn.unet import UNet
from sdlearn.vae import VAE, VAEConfig
from sdlearn.vae_losses import PatchDiscriminator
from sdlearn.versions import STORYBOOK
from sdlearn.weights.configs import unet_config_from_json, vae_config_from_json
from sdlearn.weights.text_config import text_config_from_json


@dataclass(frozen=True)
class MetaTraining:
    """What a training run keeps and computes.

    Attributes:
        trained: The networks that are trained, by name.
        forward: Runs their forward pass on n images, with the frozen networks that it needs.
        averaged: The names of those with an exponential moving average.
        frozen: The networks that stay as they are, by name.
        optimizer_values: Number of values that the optimizers keep; two per parameter for AdamW.
    """

    trained: Mapping[str, nn.Module]
    forward: Callable[[int], Any]
    averaged: tuple[str, ...]
    frozen: Mapping[str, nn.Module]
    optimizer_values: int

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return count(*self.trained.values(), trained=True)

    def activations(self, n: int) -> int:
        """Bytes of n images in a training pass: `kept_bytes` and `recomputed_bytes`."""
        networks = (*self.trained.values(), *self.frozen.values())
        with torch.device("meta"):
            kept = kept_bytes(lambda: self.forward(n), *networks)
            return kept + recomputed_bytes(self.forward, networks, n)

    def flops(self) -> int:
        """Operations of the forward pass of one image."""
        with torch.device("meta"):
            return flops(self.forward, 1)


def count(*networks: nn.Module, trained: bool = False) -> int:
    """Return the number of parameters of some networks, or of those among them that are trained."""
    each = (p for network in networks for p in network.parameters())
    return sum(p.numel() for p in each if p.requires_grad or not trained)


def meta_training(recipe: Recipe, cache: Path) -> MetaTraining:
    """Build the networks of a recipe on the meta device.

    Args:
        recipe: The recipe of any part.
        cache: A folder whose parent holds the runs; see `FrozenParts.load`.

    Raises:
        FileNotFoundError: If a part that the recipe names is missing.
        ValueError: If a part does not fit the recipe.
    """
    with torch.device("meta"):
        for kind, build in BUILDERS.items():
            if isinstance(recipe, kind):
                return build(recipe, cache)
    raise ValueError(f"there is no dry run for a {type(recipe).__name__}")


def with_adamw(
    trained: dict[str, nn.Module],
    forward: Callable[[int], Any],
    averaged: tuple[str, ...] = (),
    frozen: Mapping[str, nn.Module] | None = None,
) -> MetaTraining:
    """A training run in which AdamW updates all parameters; see `MetaTraining`."""
    return MetaTraining(
        trained, forward, averaged, frozen or {}, 2 * count(*trained.values(), trained=True)
    )


def images(n: int, recipe: Recipe) -> Tensor:
    """A batch of n images, (n, 3, size, size)."""
    return torch.empty(n, 3, recipe.size, recipe.size)


def inputs(n: int, config: Any, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times and hidden states for a U-Net: (n, c, side, side), (n,), (n, 77, d)."""
    z = torch.empty(n, config.in_channels, side, side)
    return z, torch.empty(n), torch.empty(n, CONTEXT, config.cross_attention_dim)


def perceptual_training(recipe: PerceptualRecipe, _: Path) -> MetaTraining:
    """The network of the perceptual loss."""
    network = PerceptualNetwork(recipe.widths)
    return with_adamw({"perceptual": network}, lambda n: network.classify(images(n, recipe)))


def judge_training(recipe: JudgeRecipe, _: Path) -> MetaTraining:
    """The judge."""
    half, quarter, eighth = recipe.channels
    judge = Judge(JudgeConfig(channels=(half, quarter, eighth), size=recipe.size))
    return with_adamw({"judge": judge}, lambda n: judge(images(n, recipe)))


def clip_training(recipe: clip.CLIPRecipe, _: Path) -> MetaTraining:
    """The text encoder with its largest vocabulary, and the image encoder beside it."""
    text, image = clip.new_networks(recipe, 2 * 256 + MERGES + 2, 0)

    def forward(n: int) -> None:
        image(images(n, recipe))
        image.text_projection(text(torch.zeros(n, CONTEXT, dtype=torch.long)).pooled)

    return with_adamw({"text": text, "image": image}, forward)


def vae_training(recipe: vae.VAERecipe, _: Path) -> MetaTraining:
    """The autoencoder, and its discriminator if it has one."""
    autoencoder = vae.new_vae(recipe)
    trained: dict[str, nn.Module] = {"vae": autoencoder}
    if recipe.has_discriminator:
        trained["discriminator"] = PatchDiscriminator(width=32, depth=2)
    if recipe.decoder_only:
        autoencoder.encoder.requires_grad_(False)
        autoencoder.quant_conv.requires_grad_(False)

    def forward(n: int) -> None:
        x = images(n, recipe)
        y = autoencoder.decode(autoencoder.encode(x)[0])
        if recipe.has_discriminator:  # the generator's loss, and the discriminator's own
            for each in (y, x, y.detach()):
                trained["discriminator"](each)

    others, matrices = Muon(p for p in autoencoder.parameters() if p.requires_grad).param_groups
    sizes = [sum(p.numel() for p in group["params"]) for group in (others, matrices)]
    kept = 2 * sizes[0] + sizes[1]  # Muon keeps only the momentum of a matrix
    if recipe.has_discriminator:
        kept += 2 * count(trained["discriminator"])
    return MetaTraining(trained, forward, ("vae",), {}, kept)


def unet_training(recipe: unet.UNetRecipe, cache: Path) -> MetaTraining:
    """The U-Net, with the frozen parts that it is trained on."""
    vae_config, text_config = frozen_configs(recipe, cache)
    network = UNet(unet.new_config(recipe, vae_config, text_config))
    if recipe.activation_checkpointing:
        checkpoint_activations(network)
    frozen = {"vae": VAE(vae_config), "text": CLIPTextEncoder(text_config)}
    side = network.config.sample_size
    return with_adamw(
        {"unet": network}, lambda n: network(*inputs(n, network.config, side)), ("unet",), frozen
    )


def frozen_configs(recipe: unet.UNetRecipe, cache: Path) -> tuple[VAEConfig, CLIPTextConfig]:
    """The configurations of the frozen parts: the system's own where the recipe names no folder."""
    spec = recipe.spec
    vae_config, text_config = spec.vae, spec.text[0]
    if recipe.vae or spec is STORYBOOK:
        place = part_folder(recipe.vae, "vae", cache.parent / "vae")
        vae_config = vae_config_from_json(place / "config.json")
    if recipe.text or spec is STORYBOOK:
        place = part_folder(recipe.text, "text_encoder", cache.parent / "clip")
        text_config = text_config_from_json(place / "config.json")
    return vae_config, text_config


def base_networks(place: str) -> tuple[UNet, VAE, CLIPTextEncoder]:
    """The networks of the model that training starts from."""
    folder = model_folder(place)
    return (
        UNet(unet_config_from_json(folder / "unet" / "config.json")),
        VAE(vae_config_from_json(folder / "vae" / "config.json")),
        CLIPTextEncoder(text_config_from_json(folder / "text_encoder" / "config.json")),
    )


def inpaint_training(recipe: InpaintRecipe, _: Path) -> MetaTraining:
    """The U-Net with nine input channels."""
    base, autoencoder, text = base_networks(recipe.model)
    network = widen_for_inpainting(base)
    if recipe.activation_checkpointing:
        checkpoint_activations(network)
    side = recipe.size // autoencoder.factor
    return with_adamw(
        {"unet": network},
        lambda n: network(*inputs(n, network.config, side)),
        ("unet",),
        {"vae": autoencoder, "text": text, "base": base},
    )


def further_training(recipe: FlowRecipe | DistillRecipe, _: Path) -> MetaTraining:
    """The U-Net of a finished model; for a distillation, with the teacher beside it."""
    network, autoencoder, text = base_networks(recipe.model)
    frozen: dict[str, nn.Module] = {"vae": autoencoder, "text": text}
    if isinstance(recipe, DistillRecipe):
        frozen["teacher"] = base_networks(recipe.model)[0]
    if recipe.activation_checkpointing:
        checkpoint_activations(network)
    side = recipe.size // autoencoder.factor
    return with_adamw(
        {"unet": network}, lambda n: network(*inputs(n, network.config, side)), ("unet",), frozen
    )


def controlnet_training(recipe: ControlNetRecipe, _: Path) -> MetaTraining:
    """The ControlNet, with the frozen U-Net that its gradients pass through."""
    base, autoencoder, text = base_networks(recipe.model)
    control = ControlNet.from_unet(base, recipe.hint_channels)
    base.requires_grad_(False)
    if recipe.activation_checkpointing:
        checkpoint_activations(control)
        checkpoint_activations(base)
    side = recipe.size // autoencoder.factor

    def forward(n: int) -> Any:
        z = inputs(n, base.config, side)
        return base(*z, None, control(*z, images(n, recipe)))

    frozen = {"vae": autoencoder, "text": text, "unet": base}
    return with_adamw({"controlnet": control}, forward, ("controlnet",), frozen)


BUILDERS: dict[type[Recipe], Callable[[Any, Path], MetaTraining]] = {
    PerceptualRecipe: perceptual_training,
    JudgeRecipe: judge_training,
    clip.CLIPRecipe: clip_training,
    vae.VAERecipe: vae_training,
    unet.UNetRecipe: unet_training,
    InpaintRecipe: inpaint_training,
    FlowRecipe: further_training,
    DistillRecipe: further_training,
    ControlNetRecipe: controlnet_training,
}
