"""Files of whole systems with what a training, a merge or another tool has left in them."""

import re
import warnings

import pytest
import torch
from safetensors.torch import save_file

from sdlearn import weights
from tests.tiny_original import TINY, same, system

ONE = torch.ones(())
LEFT = {
    "counters and losses": {
        "model_ema.decay": ONE,
        "model_ema.num_updates": torch.tensor(3),
        "logvar": torch.zeros(1000),
        "lvlb_weights": torch.zeros(1000),
        "global_step": torch.tensor(840000),
        "first_stage_model.loss.logvar": ONE,
        "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2, 2),
        "first_stage_model.loss.perceptual_loss.net.slice1.0.weight": torch.ones(2, 2),
        "first_stage_model.model_ema.decay": ONE,
        "first_stage_model.discriminator.main.0.bias": torch.ones(2),
    },
    "tables": {
        "denoiser.sigmas": torch.ones(1000),
        "denoiser.log_sigmas": torch.ones(1000),
        "model.alphas_cumprod_prev": torch.ones(1000),
        "sqrt_alphas_cumprod": torch.ones(1000),
    },
    "what merging text encoders leaves": {
        "cond_stage_model.logit_scale": ONE,
        "cond_stage_model.text_projection": torch.ones(2, 2),
        "cond_stage_model.model.logit_scale": ONE,
        "cond_stage_model.transformer.text_projection.weight": torch.ones(2, 2),
        "cond_stage_model.transformer.visual_projection.weight": torch.ones(2, 2),
        "cond_stage_model.transformer.vision_model.post_layernorm.bias": torch.ones(2),
        "conditioner.embedders.0.logit_scale": ONE,
        "conditioner.embedders.0.text_projection": torch.ones(2, 2),
        "conditioner.embedders.0.transformer.text_projection.weight": torch.ones(2, 2),
        "conditioner.embedders.1.model.visual.conv1.weight": torch.ones(2, 2),
        "conditioner.embedders.1.model.visual.proj": torch.ones(2, 2),
        "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids": (
            torch.arange(9)[None]
        ),
        "conditioner.embedders.1.model.attn_mask": torch.ones(9, 9),
    },
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("case", LEFT)
def test_leftovers_are_left_out_without_a_word(tmp_path, case, name):
    parts, state = system(TINY[name])
    save_file(
        {k: v.clone() for k, v in (state | LEFT[case]).items()}, tmp_path / "model.safetensors"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = weights.load_original(TINY[name], tmp_path / "model.safetensors")
    assert same(loaded, parts)


COMPANIONS = {
    "control_model.input_blocks.0.0.weight": "also holds a ControlNet, which ControlNet.from_pre",
    "embedding_manager.embedder.weight": "also holds a textual-inversion embedding",
    "bundle_emb.word.string_to_param.*": "also holds a textual-inversion embedding",
    "safety_checker.concept_embeds": "also holds a safety checker, which is not used; it is left",
    "something.else": "1 unknown tensors are ignored, among them 'something.else'",
}


@pytest.mark.parametrize("tensor", COMPANIONS)
def test_whole_networks_beside_a_system_are_named(tmp_path, tensor):
    parts, state = system(TINY["tiny1"])
    save_file(state | {tensor: torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=re.escape(COMPANIONS[tensor])) as caught:
        loaded = weights.load_original(TINY["tiny1"], tmp_path / "model.safetensors")
    assert len(caught) == 1
    assert same(loaded, parts)


@pytest.mark.parametrize(
    "tensor",
    [
        "first_stage_model.encoder.extra.weight",
        "model.diffusion_model.time_embed.cond_proj.weight",
        "model.diffusion_model.input_blocks.1.1.scale_weight",
        "cond_stage_model.transformer.text_model.encoder.layers.2.mlp.fc1.bias",
        "cond_stage_model.extra",
        "conditioner.embedders.2.weight",
    ],
)
def test_an_unknown_tensor_of_a_part_is_refused(tmp_path, tensor):
    _, state = system(TINY["tiny1"])
    save_file(state | {tensor: torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"holds the tensor {re.escape(repr(tensor))}, which"):
        weights.load_original(TINY["tiny1"], tmp_path / "model.safetensors")


@pytest.mark.parametrize("wrapper", ["state_dict.", "module.", "_orig_mod.", "module.state_dict."])
@pytest.mark.parametrize("name", TINY)
def test_what_a_tool_puts_in_front_of_every_name(tmp_path, name, wrapper):
    parts, state = system(TINY[name])
    path = tmp_path / "model.safetensors"
    save_file({wrapper + key: value for key, value in state.items()}, path)
    assert same(weights.load_original(TINY[name], path), parts)
