"""The solutions of the exercises, beyond their own cases: they agree with sdlearn's finished parts,
and with what the statements, hints and sentences say of them."""

import json

import pytest
import torch

import sdlearn
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder, contrastive_loss
from sdlearn.course.exercises import find
from sdlearn.course.exercises.nb01_latents import (
    between,
    patch_codec,
    preview_matrix,
    shrinkage,
    times_cheaper,
    unpatchify,
)
from sdlearn.course.exercises.nb02_vae import (
    field_with,
    receptive_field,
    sample_posterior,
    scaling_factor,
)
from sdlearn.course.exercises.nb03_time import adapted, read_clocks, speeds, wavelength, waves
from sdlearn.course.exercises.nb05_text import (
    TextTransformer,
    causal_attention,
    chunks,
    info_nce,
    learn_merges,
    matching_loss,
    tokenize_word,
)
from sdlearn.course.exercises.nb06_unet import cached_forward, level_parameters, up_widths
from sdlearn.course.exercises.nb07_schedule import (
    add_noise,
    betas_from,
    ending,
    latest_time,
    renoise,
)
from sdlearn.course.exercises.nb08_training import rate, shares
from sdlearn.course.exercises.nb09_sampling import midpoint, remembered, two_values
from sdlearn.course.exercises.nb10_guidance import (
    SmallNetwork,
    guided_rows,
    paper_w,
    rescaled_noise,
    sharpened_bell,
    steered,
)
from sdlearn.course.figures.latents import project_patches
from sdlearn.embeddings import sinusoidal_embedding
from sdlearn.guidance import classifier_free_guidance
from sdlearn.samplers import ddim
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning
from sdlearn.unet import UNet, UNetConfig
from sdlearn.vae import Downsample
from tests.course.answers.nb04 import by_hand, by_hand_with_one_maximum
from tests.course.answers.nb05 import merged_in_order
from tests.course.answers.nb08 import by_the_finished_average, shares_with

# ----------------------------------------------------------------------------------------------- 01


def test_the_page_of_a_picture_s_patches_is_the_picture():
    x = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (b, c, high, wide, p, p)
    patches = patches.permute(0, 2, 3, 4, 5, 1).reshape(2, 15, 48)
    assert torch.equal(unpatchify(patches, 3, 4), x)


def test_the_arc_keeps_the_length_of_noise_and_the_line_does_not():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 4, 32, 32, generator=rng, dtype=torch.float64) for _ in range(2))
    assert between(a, b, 0.5).std().item() == pytest.approx(1, abs=0.02)
    assert torch.lerp(a, b, 0.5).std().item() == pytest.approx(0.5**0.5, abs=0.02)


def test_the_codec_is_the_projection_that_the_figures_use():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 16, 24, generator=rng, dtype=torch.float64) / 10
    mean = torch.zeros(192, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(192, 192, generator=rng, dtype=torch.float64)).Q[:7]
    z, back = patch_codec(x, mean, basis)
    assert torch.allclose(back, project_patches(x, mean, basis, 7), rtol=0, atol=1e-12)
    assert torch.allclose(patch_codec(back, mean, basis)[0], z, rtol=0, atol=1e-12)


def test_the_preview_finds_a_matrix_that_made_the_colours():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 5, 6, generator=rng, dtype=torch.float64)
    matrix = torch.randn(4, 3, generator=rng, dtype=torch.float64)
    small = torch.einsum("bchw,cd->bdhw", z, matrix)
    texture = torch.randn(3, 3, 1, 1, 8, 8, generator=rng, dtype=torch.float64)
    texture -= texture.mean(dim=(4, 5), keepdim=True)  # every patch keeps its mean colour
    x = (small[..., None, None] + texture).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    assert x.shape == (3, 3, 40, 48)
    assert torch.allclose(preview_matrix(z, x), matrix, rtol=0, atol=1e-12)


def test_three_factors_of_stable_diffusion():
    assert shrinkage(512, 512, 8, 4, 16) == (48, 64, 24)
    assert shrinkage(1024, 1024, 8, 4, 32) == (48, 64, 12)


def test_the_savings_lie_between_the_square_and_its_square():
    factors = [times_cheaper(side, side, 320, 8) for side in (16, 64, 512, 2**16)]
    assert factors == sorted(factors)
    assert factors[0] == pytest.approx(64, rel=0.1)
    assert factors[-1] == pytest.approx(4096, rel=0.01)


# ----------------------------------------------------------------------------------------------- 02


def test_the_factor_is_what_many_samples_tend_to():
    rng = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 3, 4, 5, 6, generator=rng, dtype=torch.float64)
    noise = torch.randn(4000, *mean.shape, generator=rng, dtype=torch.float64)
    measured = 1 / sample_posterior(mean, logvar, noise).std()
    assert abs(scaling_factor(mean, logvar) / measured - 1) < 2e-3


def test_the_solution_of_what_is_seen_is_what_gradients_find():
    for levels, width in ((1, 8), (2, 16), (3, 32)):
        layers = [Downsample(1) for _ in range(levels)]
        for layer in layers:
            torch.nn.init.ones_(layer.conv.weight)
        for i in range(width // 2**levels):
            x = torch.zeros(1, 1, width, width, requires_grad=True)
            y = x
            for layer in layers:
                y = layer(y)
            y[0, 0, 0, i].backward()
            columns = x.grad[0, 0].sum(0).nonzero()
            assert receptive_field(i, levels, width) == (int(columns.min()), int(columns.max()))


def test_the_last_hint_of_what_is_seen_says_what_gradients_find():
    """The middle of the window beside the middle of the block, with zeros on one and both sides."""
    i, levels, width = 4, 3, 200
    middle = 2**levels * i + (2**levels - 1) / 2
    one, both = receptive_field(i, levels, width), field_with(i, levels, -1, 1, width)
    apart = [sum(ends) / 2 - middle for ends in (one, both)]
    assert apart == [3.5, -3.5]
    last_hint = find("02.9").hints[2]
    assert "3.5 columns to the right" in last_hint
    assert "3.5 to the left. That is 7 apart" in last_hint


# ----------------------------------------------------------------------------------------------- 05


def test_the_spelling_is_the_shipped_tokenizer_s():
    tokenizer = sdlearn.StableDiffusion.storybook().text.tokenizers[0]
    merges = [tuple(pair) for pair in _merges(tokenizer)]
    for word in ("lighthouse", "zebra", "umbrellas", "seesaw", "mississippi", "a", "toadstooling"):
        assert tokenize_word(word, merges) == tokenizer.tokenize(word)


def test_with_a_list_that_was_learnt_it_is_enough_to_go_through_it_once():
    """What the notebook's section 1 and the sentence of the mistake say."""
    merges = [
        tuple(pair) for pair in _merges(sdlearn.StableDiffusion.storybook().text.tokenizers[0])
    ]
    for word in ("lighthouse", "zebra", "umbrellas", "seesaw", "mississippi", "toadstooling"):
        assert merged_in_order(word, merges) == tokenize_word(word, merges)
    assert merged_in_order("light", [("gh", "t</w>"), ("g", "h")])[-2:] == ["gh", "t</w>"]


def _merges(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def test_the_first_chunk_is_the_shipped_tokenizer_s():
    tokenizer = sdlearn.StableDiffusion.storybook().text.tokenizers[0]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for text in ("a red cat", "a red cat and " * 40, ""):
        plain = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        padded_ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
        rows = chunks(plain, 77, bos, eos, eos)
        assert rows[0] == padded_ids
        assert [x for row in rows for x in row if x not in (bos, eos)] == plain


def test_learnt_merges_spell_every_word_in_one_piece():
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    merges = learn_merges(words, 1000)
    assert [tokenize_word(word, merges) for word in words] == [[f"{word}</w>"] for word in words]
    assert merges[:2] == [("s", "t</w>"), ("e", "st</w>")]


def test_the_causal_attention_is_pytorch_s():
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(causal_attention(q, k, v), wanted, rtol=1e-12, atol=1e-14)


def test_info_nce_is_the_loss_of_the_finished_part():
    x, y = (torch.randn(5, 6, dtype=torch.float64) for _ in range(2))
    for scale in (0.0, 2.66, 9.0):
        log_scale = torch.tensor(scale, dtype=torch.float64)
        wanted = contrastive_loss(x, y, log_scale)
        assert torch.allclose(info_nce(x, y, log_scale), wanted, rtol=1e-12, atol=0)


def test_the_wrong_captions_are_the_loss_of_the_finished_part():
    rng = torch.Generator().manual_seed(3)
    x, y = (torch.randn(n, 6, generator=rng, dtype=torch.float64) for n in (4, 9))
    wanted = contrastive_loss(x, y, torch.tensor(1 / 0.2, dtype=torch.float64).log())
    assert torch.allclose(matching_loss(x, y, 0.2), wanted, rtol=1e-12, atol=0)


def test_the_encoder_of_the_exercise_is_the_finished_one():
    for extra in ({}, {"activation": "gelu", "projection_dim": 16}):
        config = CLIPTextConfig(
            vocab_size=99, hidden_size=12, num_layers=3, num_heads=3, intermediate_size=20,
            max_positions=11, eos_token_id=98, **extra,
        )  # fmt: skip
        theirs = CLIPTextEncoder(config).double()
        mine = TextTransformer(config).double()
        mine.load_state_dict(theirs.state_dict(), strict=True)
        ids = torch.randint(0, 98, (2, 9), generator=torch.Generator().manual_seed(0))
        ids[0, 4:], ids[1, 8] = 98, 98
        a, b = mine(ids), theirs(ids)
        assert len(a.hidden) == len(b.hidden) == 4
        for x, y in zip((a.last, a.pooled, *a.hidden), (b.last, b.pooled, *b.hidden), strict=True):
            assert torch.allclose(x, y, rtol=1e-10, atol=1e-12)


# ----------------------------------------------------------------------------------------------- 03


def test_the_adapted_weight_gives_the_same_output_on_the_other_order_of_channels():
    t, half = torch.tensor([3.0, 437.5]), 8
    ours = sinusoidal_embedding(t, 2 * half)
    in_turns = torch.stack([ours[:, half:], ours[:, :half]], dim=-1).flatten(1)
    weight = torch.randn(5, 2 * half, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours @ adapted(weight).T, in_turns @ weight.T, rtol=0, atol=1e-5)
    assert not torch.allclose(ours @ weight.T, in_turns @ weight.T, atol=0.1)


def test_the_clocks_are_read_to_a_hundredth_of_a_step():
    t = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 999
    for dim in (6, 8, 10, 32, 320):
        rounded = waves(t[:, None] * speeds(dim)).mul(100).round() / 100
        assert (read_clocks(rounded) - t).abs().max() < 0.01
        slowest = torch.atan2(rounded[:, -1], rounded[:, dim // 2 - 1]) / speeds(dim)[-1]
        assert (slowest - t).abs().max() > 1


def test_a_channel_repeats_itself_after_its_wavelength():
    for channel, dim in ((0, 8), (3, 8), (6, 8), (7, 8), (13, 24)):
        turn = wavelength(channel, dim)
        t = turn * torch.tensor([0.1, 1.1, 0.6])
        start, round_once, half_way = sinusoidal_embedding(t, dim)[:, channel]
        assert abs(start - round_once) < 1e-3 < 1 < abs(start - half_way)


# ----------------------------------------------------------------------------------------------- 06


def test_the_solutions_are_true_of_stable_diffusion():
    config = UNetConfig()
    with torch.device("meta"):
        unet = UNet(config)
    blocks = [block for level in unet.up_blocks for block in level.resnets]
    assert [b.conv1.in_channels for b in blocks] == up_widths(config.block_out_channels, 2)
    counted = level_parameters(1280, 1280, (1280, 1280, 1280), 1280, False)
    assert counted == sum(p.numel() for p in unet.up_blocks[0].parameters())


def test_a_kept_bottom_gives_what_the_unet_gives():
    config = UNetConfig(
        block_out_channels=(8, 12), layers_per_block=1, cross_attention=(False, True),
        transformer_depth=(1, 1), num_heads=(1, 2), cross_attention_dim=4, norm_num_groups=4,
    )  # fmt: skip
    torch.manual_seed(0)
    unet = UNet(config).double()
    z, context = torch.randn(2, 4, 7, 10).double(), torch.randn(2, 3, 4).double()
    expected, emb = unet(z, 7.0, context), unet.embed(z, 7.0, None)
    found, kept = cached_forward(unet, z, emb, context, None)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    again, same = cached_forward(unet, z, emb, context, kept)
    assert torch.allclose(again, expected, rtol=0, atol=1e-12)
    assert same is kept
    other, _ = cached_forward(unet, z + 0.1, emb, context, kept)
    assert 1e-3 < (other - unet(z + 0.1, 7.0, context)).norm() / expected.norm() < 1


# ----------------------------------------------------------------------------------------------- 07


SCHEDULE = NoiseSchedule()


def test_noise_in_two_goes_is_distributed_like_noise_in_one():
    rng = torch.Generator().manual_seed(0)
    table, s, t = SCHEDULE.alphas_cumprod, 200, 700
    n = 200_000
    z_0 = torch.full((n, 1, 1, 1), 1.5, dtype=torch.float64)
    noise = lambda: torch.randn(n, 1, 1, 1, generator=rng, dtype=torch.float64)  # noqa: E731
    z_s = add_noise(z_0, noise(), torch.full((n,), s), table)
    z_t = renoise(z_s, noise(), s, t, table)
    alpha, sigma = SCHEDULE.at(t)
    assert z_t.mean().item() == pytest.approx(1.5 * alpha.item(), abs=5 * sigma.item() / n**0.5)
    assert z_t.std().item() == pytest.approx(sigma.item(), abs=5 * sigma.item() / (2 * n) ** 0.5)


def test_noise_is_that_of_the_finished_schedule():
    t = torch.tensor([0, 500, 999])
    z_0, eps = torch.ones(2, 3, 4, 2, 2, dtype=torch.float64).unbind()
    alpha, sigma = SCHEDULE.at(t)
    expected = (alpha + sigma)[:, None, None, None].expand_as(z_0)
    assert torch.equal(add_noise(z_0, eps, t, SCHEDULE.alphas_cumprod), expected)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "cosine"])
@pytest.mark.parametrize("zero", [False, True])
def test_betas_give_their_table_back(kind, zero):
    table = NoiseSchedule(kind=kind, zero_terminal_snr=zero).alphas_cumprod
    assert torch.allclose(torch.cumprod(1 - betas_from(table), 0), table, rtol=1e-12, atol=1e-15)


def test_an_ending_at_zero_is_the_finished_one():
    zero = NoiseSchedule(zero_terminal_snr=True).alphas_cumprod
    assert torch.allclose(ending(SCHEDULE.alphas_cumprod, 0.0), zero, rtol=0, atol=1e-15)
    own = SCHEDULE.snr(999).item()
    assert torch.allclose(ending(SCHEDULE.alphas_cumprod, own), SCHEDULE.alphas_cumprod)
    table = ending(SCHEDULE.alphas_cumprod, 0.001)
    assert (table[-1] / (1 - table[-1])).item() == pytest.approx(0.001)
    assert table[0].item() == pytest.approx(SCHEDULE.alphas_cumprod[0].item())


def test_the_latest_time_has_enough_and_the_next_has_not():
    for decibels in (20.0, 0.0, -10.0, -23.0):
        t = latest_time(decibels, SCHEDULE.alphas_cumprod)
        here, after = (10 * SCHEDULE.snr(torch.tensor([t, t + 1])).log10()).tolist()
        assert here >= decibels > after


# ----------------------------------------------------------------------------------------------- 08


def test_the_shares_are_those_of_a_real_average():
    for steps, decay in ((1, 0.9), (7, 0.99), (60, 0.8)):
        assert shares(steps, decay) == pytest.approx(by_the_finished_average(steps, decay))
        assert sum(shares(steps, decay)) == pytest.approx(1)


def test_the_shares_after_twenty_steps_are_as_the_exercise_says():
    slow, whole = shares(20, 0.999), shares_with([0.999] * 20)
    assert max(slow) == slow[-1] > 2 * slow[0]
    assert max(whole) == whole[0] > 0.95


def test_the_schedule_is_the_same_backwards_where_its_phases_are_equally_long():
    there = [rate(k, 30, 0.1, 7, 7) for k in range(30)]
    assert there == there[::-1]
    assert max(there) == there[6] == there[23] == 0.1
    assert min(there) > 0


# ----------------------------------------------------------------------------------------------- 09


def arc(steps):
    angles = torch.linspace(1.5, 0.4, steps + 1, dtype=torch.float64)
    return [Point(float(angle), angle.cos(), angle.sin()) for angle in angles]


def test_the_midpoint_method_is_of_second_order():
    z = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [list(midpoint(two_values(0.8, 0.3), z, arc(n)))[-1] for n in (40, 80, 1000)]
    errors = [(end - ends[-1]).norm().item() for end in ends[:2]]
    assert 3.5 < errors[0] / errors[1] < 4.6


def test_a_perfect_memory_only_makes_what_it_knows():
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randn(6, 2, 3, 3, generator=rng, dtype=torch.float64)
    z = torch.randn(20, 2, 3, 3, generator=rng, dtype=torch.float64)
    path = NoiseSchedule().path(30, "trailing", "zero")
    *_, last = ddim(lambda z, point: remembered(z, pictures, point.alpha, point.sigma), z, path)
    nearest = torch.cdist(last.z.flatten(1), pictures.flatten(1)).min(dim=1).values
    assert nearest.max() < 1e-6


# ----------------------------------------------------------------------------------------------- 10


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_guiding_twice_is_one_guidance():
    without, given = drawn(2, 5)
    for s, r in ((3.0, 2.0), (7.5, 0.5)):
        hers = torch.lerp(without, given, s)
        w = paper_w(s, r)
        whole = (1 + w) * given - w * without
        assert torch.allclose(torch.lerp(without, hers, r), whole, rtol=0, atol=1e-12)


def test_with_one_prompt_it_is_the_finished_guidance():
    network, z, t = SmallNetwork(), drawn(2, 4, 3, 5), torch.tensor([3.0, 700.0])
    empty, prompt = drawn(2, 2, 7, 6, seed=1)
    conditions = Conditioning(prompt), Conditioning(empty)
    finished = classifier_free_guidance(network, *conditions, 7.5)(z, t)
    ours = steered(network, z, t, empty, prompt[None], [7.5])
    assert torch.allclose(ours, finished, rtol=0, atol=1e-12)


def test_the_sharpened_bell_is_that_of_the_grid():
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    m, v, m_c, v_c = torch.tensor([[0.3], [1.4], [-0.9], [0.5]], dtype=torch.float64)
    for s in (0.0, 1.0, 3.0, 7.5):
        logs = -s * (z - m_c) ** 2 / (2 * v_c) - (1 - s) * (z - m) ** 2 / (2 * v)
        weight = (logs - logs.max()).exp()
        weight /= weight.sum()
        mean = (weight * z).sum()
        expected = torch.stack([mean, (weight * (z - mean) ** 2).sum()])
        found = torch.cat(sharpened_bell(m, v, m_c, v_c, s))
        assert torch.allclose(found, expected, rtol=0, atol=1e-9)


def test_a_batch_of_one_time_is_the_finished_interval():
    alphabar = torch.linspace(0.99, 0.01, 100, dtype=torch.float64)
    without, given = drawn(2, 3, 2, 4, 5)
    for time, level in ((10, 0.34), (60, 1.24), (95, 4.0)):
        inside = 0.5 <= level <= 2
        found = guided_rows(without, given, torch.tensor([time] * 3), alphabar, (0.5, 2.0), 3.0)
        assert torch.allclose(found, torch.lerp(without, given, 3.0 if inside else 1.0))


def test_the_rescaled_estimate_has_the_spread_of_the_conditional_one():
    z, output, cond = drawn(3, 2, 4, 6, 6)
    output, alpha, sigma = 3 * output, 0.8, 0.6
    noise = rescaled_noise(z, output, cond, alpha, sigma, 1.0)
    z_0, goal = ((z - sigma * eps) / alpha for eps in (noise, cond))
    assert torch.allclose(z_0.std((1, 2, 3)), goal.std((1, 2, 3)), rtol=1e-12)
    assert not torch.allclose(noise.std((1, 2, 3)), cond.std((1, 2, 3)), rtol=0.05)


def test_a_maximum_of_the_batch_gives_nan_for_any_seed():
    """Where an example of small scores is beside one of large scores, whatever their numbers."""
    for seed in range(20):
        q, k, v = find("04.1").inputs(seed)[-1].inputs
        found, right = by_hand_with_one_maximum(q, k, v), by_hand(q, k, v)
        assert found.isnan().all(dim=1).tolist() == [True, False, True]
        assert right.isfinite().all()
