"""Laws of inpainting: replacement, RePaint, and five more channels."""

import math
from itertools import pairwise

import pytest
import torch

from sdlearn.inpainting import (
    add_noise,
    inpaint_channels,
    masked_image,
    repaint,
    repaint_visits,
    replace_known,
    restore_known,
    widen_for_inpainting,
)
from sdlearn.samplers import ddim, ddpm, euler
from sdlearn.schedule import NoiseSchedule
from sdlearn.unet import UNet, UNetConfig

PATH = NoiseSchedule().path(9)
SHAPE = (2, 4, 5, 3)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def source(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(*SHAPE, generator=generator, dtype=torch.float64)


def denoise(z, point):
    return torch.tanh(point.alpha * z) + 0.1 * point.sigma * z.roll(1, -1)


def hole():
    mask = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.float64)
    mask[..., 1:3, 1:] = 1
    return mask


# ------------------------------------------------------------------------------------- RePaint


@pytest.mark.parametrize("sample", [ddim, ddpm, euler])
@pytest.mark.parametrize("jump", [1, 4, 20])
def test_once_is_replacement_to_the_bit(sample, jump):
    z, z_0 = normal(*SHAPE), normal(*SHAPE, seed=1)
    walked = repaint(denoise, z, PATH, z_0, hole(), jump, 1, source(3), sample)
    plain = sample(replace_known(denoise, z_0, hole()), z, PATH, noise=source(3))
    for mine, theirs in zip(walked, plain, strict=True):
        assert mine.step == theirs.step
        assert mine.point is theirs.point
        assert torch.equal(mine.z, theirs.z)
        assert torch.equal(mine.z_0, theirs.z_0)


def test_the_visits_of_the_published_code():
    times = [249 - i for i in repaint_visits(250, 1, 2)]
    assert times[:7] == [249, 248, 249, 248, 247, 248, 247]
    assert times[-5:] == [1, 0, 1, 0, -1]
    assert repaint_visits(4, 1, 2) == [0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert repaint_visits(5, 2, 3) == [
        0,
        1,
        2,
        1,
        0,
        1,
        2,
        1,
        0,
        1,
        2,
        3,
        4,
        3,
        2,
        3,
        4,
        3,
        2,
        3,
        4,
        5,
    ]


@pytest.mark.parametrize(("steps", "jump", "repeats"), [(250, 10, 10), (20, 5, 3), (7, 2, 4)])
def test_each_visit_is_next_to_the_last(steps, jump, repeats):
    visits = repaint_visits(steps, jump, repeats)
    assert {abs(a - b) for a, b in pairwise(visits)} == {1}
    assert (visits[0], visits[-1], visits.count(steps)) == (0, steps, 1)
    turns = math.ceil((steps - jump) / jump) * (repeats - 1)
    down = sum(b > a for a, b in pairwise(visits))
    assert down == steps + turns * jump
    assert len(visits) - 1 - down == turns * jump


def test_the_papers_setting_calls_the_network_2410_times():
    assert sum(b > a for a, b in pairwise(repaint_visits(250, 10, 10))) == 2410


@pytest.mark.parametrize(("jump", "repeats"), [(0, 2), (2, 0), (-1, 1)])
def test_a_jump_below_one_is_refused(jump, repeats):
    with pytest.raises(ValueError, match="each must be at least 1"):
        repaint_visits(5, jump, repeats)


def test_noise_is_added_to_the_level_of_the_noisier_point():
    here, there = PATH[6], PATH[2]
    z_0, eps, fresh = (normal(200_000, seed=k) for k in range(3))
    z = add_noise(here.alpha * z_0 + here.sigma * eps, here, there, fresh)
    rest = z - there.alpha * z_0
    assert rest.std().item() == pytest.approx(float(there.sigma), rel=5e-3)
    assert torch.corrcoef(torch.stack([rest, z_0]))[0, 1].abs() < 0.01
    assert torch.equal(add_noise(z, there, there, fresh), z)


def test_in_steps_or_at_once_noise_has_the_same_variance():
    variance = PATH[6].sigma ** 2
    for here, there in pairwise(PATH[6:1:-1]):
        ratio = there.alpha / here.alpha
        added = add_noise(torch.zeros(1), here, there, torch.ones(1).double()) ** 2
        variance = ratio**2 * variance + added
    assert variance.item() == pytest.approx(float(PATH[2].sigma ** 2), rel=1e-12)


def test_the_known_region_keeps_its_image_at_every_visit():
    """What is left of it is noise of the right size, and at the end none."""
    z_0, mask = normal(*SHAPE, seed=1), hole()
    eps = normal(*SHAPE)
    z = PATH[0].alpha * z_0 + PATH[0].sigma * eps
    states = list(restore_known(
        repaint(denoise, z, PATH, z_0, mask, 3, 4, source(2)), PATH[-1], z_0, mask
    ))  # fmt: skip
    known = (mask == 0).expand(SHAPE)
    noise = torch.cat([((s.z - s.point.alpha * z_0) / s.point.sigma)[known] for s in states[:-1]])
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(states[-1].z[known], z_0[known])
    assert not torch.equal(states[-1].z, z_0)


# -------------------------------------------------------------------------------- nine channels


def test_a_widened_unet_is_bit_equal_for_every_mask():
    torch.manual_seed(0)
    unet = UNet(UNetConfig(
        block_out_channels=(8, 16), layers_per_block=1, cross_attention=(True, False),
        transformer_depth=(1, 0), num_heads=(2, 2), cross_attention_dim=6, norm_num_groups=4,
        sample_size=8,
    ))  # fmt: skip
    wide = widen_for_inpainting(unet)
    z, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 5, 6)
    for mask in (torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), torch.rand(2, 1, 8, 8)):
        extra = torch.cat([mask, torch.randn(2, 4, 8, 8)], dim=1)
        with torch.no_grad():
            assert torch.equal(wide(torch.cat([z, extra], dim=1), t, context), unet(z, t, context))


def test_the_hidden_pixels_do_not_reach_the_nine_channels():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:9, 2:7] = 1
    x, other = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    changed = torch.where(mask > 0, other, x)
    assert torch.equal(masked_image(x, mask), masked_image(changed, mask))
    channels = inpaint_channels(mask, torch.full((1, 4, 2, 2), 7.0))
    assert torch.equal(channels[:, :1], mask[..., ::8, ::8])
    assert torch.equal(channels[:, 1:], torch.full((1, 4, 2, 2), 7.0))
