"""The looks that are kept are the model's own, and the lens shows them for every setting."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdlearn.course import attention_maps
from sdlearn.course.figures import attention_map_grid, heatmap, matrix, overlay
from sdlearn.course.widgets import AttentionLens
from sdlearn.text import token_ids

PROMPT = "a red cat on the sand"


@pytest.fixture(scope="module")
def looks(tiny_storybook):
    return attention_maps.record(tiny_storybook, PROMPT, seed=3, steps=2)


def test_watching_changes_nothing_and_leaves_nothing_behind(tiny_storybook, looks):
    (expected,) = tiny_storybook.text_to_image(PROMPT, seed=3, steps=2, progress=False)
    assert np.array_equal(np.array(looks.image), np.array(expected))
    assert not any(m._forward_pre_hooks for m in tiny_storybook.unet.modules())


def test_its_words_are_the_prompt_s_tokens(tiny_storybook, looks):
    assert looks.words[:3] == ("(start)", "a", "red")
    assert looks.words[-1] == "(end)"
    assert "".join(looks.words[1:-1]) == PROMPT.replace(" ", "")


def test_the_weights_are_those_of_the_layer_s_own_attention(tiny_storybook, looks):
    """With v they give what the fused attention gives, for the prompt and not for the empty one."""
    ids = token_ids(tiny_storybook.text.tokenizers[0], [PROMPT])
    context = tiny_storybook.text.encoders[0](ids).last
    for name in looks.q:
        layer = tiny_storybook.unet.get_submodule(name)
        q, k = looks.q[name][1], layer.split(layer.to_k(context))[0]
        v = layer.split(layer.to_v(context))[0]
        expected = F.scaled_dot_product_attention(q, k, v)
        for head in range(len(q)):
            shares = attention_maps.attention_weights(looks, name, 1, head)
            assert torch.allclose(shares @ v[head], expected[head], atol=1e-5)
        mean = torch.stack(
            [attention_maps.attention_weights(looks, name, 1, head) for head in range(len(q))]
        ).mean(0)
        assert torch.allclose(attention_maps.attention_weights(looks, name, 1), mean, atol=1e-6)


def test_only_the_largest_maps_are_kept(tiny_storybook, looks):
    assert looks.side == 8
    assert {q.shape[2] for q in looks.q.values()} == {64}
    assert len(looks.q) == 3
    assert all(len(q) == 2 for q in looks.q.values())


@pytest.mark.parametrize("sharpness", [k / 4 for k in range(17)])
def test_over_the_whole_range_of_the_sliders(looks, sharpness):
    for name, q in looks.q.items():
        for step in range(q.shape[0]):
            for head in (None, *range(q.shape[1])):
                shares = attention_maps.attention_weights(looks, name, step, head, sharpness)
                assert shares.shape == (64, 77)
                assert torch.allclose(shares.sum(-1), torch.ones(64), atol=1e-5)
                assert shares.min() >= 0
    for word in range(len(looks.words)):
        assert torch.equal(
            attention_maps.token_map(looks, word, shares).flatten(), shares[:, word].contiguous()
        )


def test_sharpness_goes_from_equal_shares_to_a_choice(looks):
    name = next(iter(looks.q))
    flat = attention_maps.attention_weights(looks, name, 0, 0, 0.0)
    assert torch.allclose(flat, torch.full_like(flat, 1 / 77))
    chosen = attention_maps.attention_weights(looks, name, 0, 0, 1e6).amax(-1)
    assert chosen.min() > 0.3
    one, two = (attention_maps.attention_weights(looks, name, 0, 0, s).amax(-1) for s in (1.0, 2.0))
    assert (two >= one).all()


def test_every_control_of_the_lens_matters(looks):
    lens = AttentionLens(looks, word=3)
    for control, value in (
        (lens.word, 6),
        (lens.layer, next(iter(looks.q))),
        (lens.head, 0),
        (lens.step, 1),
        (lens.sharpness, 2.0),
    ):
        before = np.array(lens.image)
        view = lens.view.value
        assert control.value != value
        control.value = value
        assert not np.array_equal(np.array(lens.image), before)
        assert lens.view.value != view
        assert control.description
        assert control in lens.children


def test_the_lens_says_its_numbers(looks):
    lens = AttentionLens(looks, word=2)
    lens.sharpness.value = 0
    said = re.sub("<[^>]*>", "", lens.message.value)
    assert said == (
        "The token “red” gets 1.3% of the attention, and 1.3% where it gets most; an equal share "
        "would be 1.3%. White is 1.3%, the most that any word gets here."
    )
    assert 'role="status"' in lens.message.value
    assert 'alt="Attention map of red. The token “red” gets 1.3%' in lens.view.value
    assert "mean of all heads" in lens.view.value
    lens.head.value = 1
    assert f"Settings: red: {lens.layer.label}, head 1, step" in lens.view.value


def test_a_mistake_in_the_callback_is_not_swallowed(looks, monkeypatch):
    lens = AttentionLens(looks)
    monkeypatch.setattr(attention_maps, "attention_weights", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lens.sharpness.value = 2


def test_the_maps_of_all_words_share_one_scale(looks):
    """A word that gets half of the most that any word gets is grey, not white."""
    lens = AttentionLens(looks, word=1)
    weights = attention_maps.attention_weights(looks, lens.layer.value, lens.step.value - 1)
    inside = weights[:, 1 : len(looks.words) - 1]
    for word in range(1, len(looks.words) - 1):
        lens.word.value = word
        side = 2 * looks.image.width
        middle = np.array(lens.image.convert("L"))[-side - 6 :, side:-side]
        tile = np.array(heatmap(weights[:, word].reshape(8, 8), float(inside.max())))
        assert abs(int(middle.max()) - 255) < 2  # the white around it
        assert tile.max() == round(float(weights[:, word].max() / inside.max()) * 15) * 17


def test_weights_of_ones_own_give_the_models_image_and_masked_ones_another(looks, tiny_storybook):
    """The softmax itself draws what the model draws; a mask before it, what masked keys draw."""
    sd = tiny_storybook
    prompt, asked = "a red cat", []

    def own(layer, scores):
        asked.append((layer, scores.shape))
        return scores.softmax(dim=-1)

    def masked(layer, scores):
        scores[..., 2] = float("-inf")
        return scores.softmax(dim=-1)

    def draw(weigh=None):
        if weigh is None:
            return sd.text_to_image(prompt, seed=3, steps=3, output="latent", progress=False)
        with attention_maps.custom_weights(sd.unet, weigh):
            return sd.text_to_image(prompt, seed=3, steps=3, output="latent", progress=False)

    before, same, other = draw(), draw(own), draw(masked)
    assert torch.allclose(same, before, atol=1e-4)
    assert not torch.allclose(other, before, atol=1e-4)
    layers = [name for name, _ in sd.unet.named_modules() if name.endswith("attn2")]
    assert len(asked) == 3 * len(layers)
    assert {layer for layer, _ in asked} == set(layers)
    assert all(shape[2] == 77 for _, shape in asked)
    assert torch.equal(draw(), before)  # nothing is left behind
    with pytest.raises(ZeroDivisionError):
        draw(lambda *_: 1 / 0)
    assert torch.equal(draw(), before)


def test_a_tile_is_white_where_most_and_black_at_zero():
    weights = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    pixels = np.array(heatmap(weights, size=4))
    assert pixels[0, 0] == 0
    assert pixels[3, 0] == 255
    assert abs(int(pixels[0, 3]) - 128) <= 9
    assert np.array(heatmap(weights, most=2.0, size=2)).max() in range(119, 137)
    assert (np.array(heatmap(torch.zeros(2, 2), size=2)) == 0).all()


def test_a_picture_is_lit_where_the_map_is_large(looks):
    weights = torch.zeros(8, 8)
    weights[0, 0] = 1.0
    page, seen = (
        np.array(x.convert("RGB"), float) for x in (looks.image, overlay(looks.image, weights))
    )
    assert np.array_equal(seen[:8, :8], page[:8, :8])
    assert np.allclose(seen[8:, 8:], 0.3 * page[8:, 8:], atol=0.5)


def test_word_maps_show_the_picture_and_every_map(looks):
    maps = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(0))
    page = np.array(attention_map_grid(looks.image, maps, list("abcdefg"), "Title", across=4))
    wanted = [looks.image, *(heatmap(one, size=64).convert("RGB") for one in maps)]
    for part in wanted:
        big = np.array(part).repeat(3, axis=0).repeat(3, axis=1)
        found = any(
            np.array_equal(page[y : y + 192, x : x + 192], big)
            for y in range(page.shape[0] - 191)
            for x in range(page.shape[1] - 191)
            if (page[y, x] == big[0, 0]).all() and (page[y + 191, x + 191] == big[-1, -1]).all()
        )
        assert found


def test_a_matrix_writes_its_numbers_and_names():
    figure = matrix(torch.tensor([[0.25, 0.75]]), ["row"], ["a", "b"], "Title", "x", "y")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["0.25", "0.75"]
    assert [text.get_color() for text in ax.texts] == ["black", "white"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b"]
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == ("Title", "x", "y")
