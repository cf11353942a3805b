"""What must hold for a diffusion transformer, whatever its weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn import flow
from sdlearn.diffusion_transformer import (
    DiffusionTransformer,
    DiffusionTransformerConfig,
    JointAttention,
    JointBlock,
    Modulation,
    modulate,
    position_embedding,
    unpatchify,
)
from sdlearn.text import Conditioning

CONFIG = DiffusionTransformerConfig(
    in_channels=4, num_layers=2, num_heads=3, head_dim=8, context_dim=10, pooled_dim=7,
    sample_size=8, pos_embed_max_size=6,
)  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_fresh_block_is_the_identity_on_both_streams() -> None:
    x, context, emb = normal(2, 5, 24), normal(2, 7, 24, seed=1), normal(2, 24, seed=2)
    for last in (False, True):
        block = JointBlock(CONFIG, context_pre_only=last).double()
        found = block(x, context, emb)
        assert torch.equal(found[0], x)
        assert torch.equal(found[1], context)
        nn.init.ones_(block.norm1.linear.bias)
        assert not torch.allclose(block(x, context, emb)[0], x)


def test_a_fresh_network_predicts_zero_and_still_learns() -> None:
    network = DiffusionTransformer(CONFIG).double()
    out = network(normal(2, 4, 4, 6), 500, normal(2, 3, 10), normal(2, 7))
    assert torch.equal(out, torch.zeros(2, 4, 4, 6, dtype=torch.float64))
    (out - 1).square().mean().backward()
    gradient = network.proj_out.weight.grad
    assert gradient is not None
    assert gradient.abs().max() > 0


def test_joint_attention_is_attention_over_the_concatenation() -> None:
    """With the same projections for both streams, the streams are one sequence."""
    joint = JointAttention(CONFIG, context_pre_only=False).double()
    for image, text in (
        (joint.to_q, joint.add_q_proj),
        (joint.to_k, joint.add_k_proj),
        (joint.to_v, joint.add_v_proj),
        (joint.to_out[0], joint.to_add_out),
    ):
        text.load_state_dict(image.state_dict())
    x, context = normal(2, 5, 24), normal(2, 7, 24, seed=1)
    both = torch.cat([x, context], dim=1)
    q, k, v = (to(both).unflatten(-1, (3, 8)) for to in (joint.to_q, joint.to_k, joint.to_v))
    weights = (torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5).softmax(-1)
    wanted = joint.to_out[0](torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))
    torch.testing.assert_close(torch.cat(joint(x, context), dim=1), wanted, rtol=0, atol=1e-12)


def test_text_tokens_have_no_order_of_their_own() -> None:
    """Positions of the text come from the text encoder: permuted tokens give the same velocity."""
    network = trained_like(DiffusionTransformer(CONFIG).double())
    x, context, pooled = normal(1, 4, 4, 6), normal(1, 9, 10, seed=1), normal(1, 7, seed=2)
    found = network(x, 300, context.flip(1), pooled)
    torch.testing.assert_close(found, network(x, 300, context, pooled), rtol=0, atol=1e-12)
    assert not torch.allclose(network(x.flip(-1), 300, context, pooled).flip(-1), found)


def test_the_text_is_changed_by_the_image_in_every_block_but_the_last() -> None:
    network = trained_like(DiffusionTransformer(CONFIG).double())
    first, last = network.transformer_blocks
    x, context, emb = normal(1, 6, 24), normal(1, 4, 24, seed=1), normal(1, 24, seed=2)
    assert not torch.allclose(first(x, context, emb)[1], first(-x, context, emb)[1])
    assert torch.equal(last(x, context, emb)[1], context)
    assert not torch.allclose(last(x, context, emb)[0], last(x, -context, emb)[0])


def test_modulation_is_a_layer_norm_with_scale_and_shift() -> None:
    x, emb = normal(2, 5, 24), normal(2, 24, seed=1)
    modulation = Modulation(24, 2).double()
    shift, scale = modulation(emb)
    assert torch.equal(modulate(x, shift, scale), F.layer_norm(x, (24,), eps=1e-6))
    out = modulate(x, torch.full_like(shift, 3), torch.full_like(scale, 1))
    torch.testing.assert_close(out.mean(-1), torch.full((2, 5), 3.0, dtype=torch.float64))
    assert float((out.std(-1, correction=0) - 2).abs().max()) < 1e-4


def test_the_loss_and_the_velocity_use_the_convention_of_the_path() -> None:
    """x_t = (1 - t) x_0 + t eps goes in with 1000 t, and eps - x_0 is to come out."""
    x_0, eps, t = normal(2, 4, 4, 6), normal(2, 4, 4, 6, seed=1), torch.tensor([0.25, 0.9])
    text = Conditioning(normal(2, 3, 10), normal(2, 7))
    asked = []

    def model(x: Tensor, timestep: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        asked.append((x, timestep, context, pooled))
        return eps - x_0 + 0.5

    assert float(flow.transformer_loss(model, x_0, t, eps, text)) == pytest.approx(0.25, abs=1e-6)
    ((x, timestep, context, pooled),) = asked
    torch.testing.assert_close(x[1], 0.1 * x_0[1] + 0.9 * eps[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(timestep, torch.tensor([250.0, 900.0], dtype=torch.float64))
    assert context is text.context
    assert pooled is text.pooled


def test_guidance_extrapolates_from_the_unconditional_velocity() -> None:
    network = trained_like(DiffusionTransformer(CONFIG).double())
    x = normal(2, 4, 4, 6)
    cond = Conditioning(normal(2, 3, 10, seed=1), normal(2, 7, seed=2))
    uncond = Conditioning(normal(2, 3, 10, seed=3), normal(2, 7, seed=4))
    with torch.no_grad():
        alone = [network(x, 300, each.context, each.pooled) for each in (uncond, cond)]
        for scale in (0.0, 1.0, 3.0):
            found = flow.transformer_velocity(network, cond, uncond, scale)(x, 0.3)
            wanted = alone[0] + scale * (alone[1] - alone[0])
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
        free = flow.transformer_velocity(network, cond, None, 1.0)(x, 0.3)
        assert torch.equal(free, alone[1])
    with pytest.raises(ValueError, match=r"scale 3\.0 needs the unconditional prompts; give unc"):
        flow.transformer_velocity(network, cond, None, 3.0)


def test_a_patch_comes_back_to_its_place() -> None:
    """With projections that copy, tokens of patches are put together to the same latent."""
    x = torch.arange(2 * 4 * 4 * 6, dtype=torch.float32).reshape(2, 4, 4, 6)
    tokens = F.unfold(x, 2, stride=2).unflatten(1, (4, 4)).permute(0, 3, 2, 1).flatten(2)
    assert torch.equal(unpatchify(tokens, 2, 4, 6), x)


def test_positions_tell_columns_from_rows_and_are_centred() -> None:
    grid = position_embedding(24, 6, 1.0).unflatten(1, (6, 6))[0]
    column, row = grid.split(12, dim=-1)
    assert torch.equal(column, column[:1].expand(6, -1, -1))
    assert torch.equal(row, row[:, :1].expand(-1, 6, -1))
    assert torch.equal(column[0], row[:, 0])
    torch.testing.assert_close(column[0, :, 0], torch.arange(6.0).sin())
    torch.testing.assert_close(column[0, :, 6], torch.arange(6.0).cos())
    embed = DiffusionTransformer(CONFIG).pos_embed
    nn.init.zeros_(embed.proj.weight)
    nn.init.zeros_(embed.proj.get_parameter("bias"))
    small = embed(torch.zeros(1, 4, 4, 8)).unflatten(1, (2, 4))
    centre = embed.pos_embed.unflatten(1, (6, 6))[:, 2:4, 1:5]
    assert torch.equal(small, centre)


def trained_like(network: DiffusionTransformer) -> DiffusionTransformer:
    """Random weights everywhere, so that no gate is closed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * (0.3 if parameter.ndim == 1 else parameter.shape[1] ** -0.5))
    return network
