"""The figures and the widget of notebook 05: what they show is what they were given."""

import logging
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from sdlearn.course.figures import text_encoder, text_images, text_towers
from sdlearn.course.figures.style import BLUE, VERMILION
from sdlearn.course.widgets.text_encoder import TextEncoderWidget, compare, describe
from sdlearn.versions import SPECS

TOKENS = ["<|startoftext|>", "a</w>", "gh", "cat</w>", "<|endoftext|>", "<|endoftext|>"]


def box(page, k, title=True, across=7):
    """The pixels of box k, without its frame."""
    (w, h), gap, top = text_encoder.BOX, 6, 26 if title else 6
    x, y = gap + k % across * w, top + k // across * h
    return np.array(page.convert("L"))[y + 4 : y + h - 3, x + 4 : x + w - 3]


def test_tokens_are_written_for_people():
    assert [text_encoder.display_token(t) for t in TOKENS] == [
        "(start)",
        "a",
        "gh-",
        "cat",
        "(end)",
        "(end)",
    ]


def test_a_page_has_a_box_for_every_token_in_reading_order():
    tokens = [TOKENS[0], *["a</w>"] * 12, *[TOKENS[-1]] * 64]
    page = text_encoder.token_grid(tokens, range(77), title="Title")
    assert page.size == (7 * text_encoder.BOX[0] + 12, 26 + 11 * text_encoder.BOX[1] + 6)
    darkest = [box(page, k).min() for k in range(77)]
    assert max(darkest[:14]) < 60  # words, start and the first end in black
    assert min(darkest[14:]) > 100  # the padding in grey
    assert np.array_equal(box(page, 5)[:22], box(page, 11)[:22])  # the same word
    assert not np.array_equal(box(page, 5)[22:], box(page, 11)[22:])  # another number


def test_an_embedding_that_changed_is_shaded_and_says_by_how_much():
    moved = torch.tensor([0, 1e-7, 0.001, 0.5, 1.3, 0.2])
    page = text_encoder.token_grid(TOKENS, range(6), moved, title="Title")
    paper = [np.median(box(page, k)) for k in range(6)]
    assert paper[0] == paper[1] == 255
    assert 255 > paper[2] > paper[5] > paper[3] > paper[4] > 100
    said = [text_encoder.format_distance(value) for value in moved.tolist()]
    assert said == ["0", "0", "<0.01", "0.50", "1.30", "0.20"]
    less, more = (
        text_encoder.token_grid(TOKENS, range(6), torch.full((6,), part), title="Title")
        for part in (0.5, 0.6)
    )
    assert np.array_equal(box(less, 2)[:22], box(more, 2)[:22])  # as dark, each on its own scale
    assert not np.array_equal(box(less, 2)[22:], box(more, 2)[22:])  # but not as far
    framed = text_encoder.token_grid(TOKENS, range(6), moved, changed=[3], title="Title")
    differs = np.array(page.convert("L")) != np.array(framed.convert("L"))
    columns = np.nonzero(differs)[1]
    width = text_encoder.BOX[0]
    assert columns.min() >= 6 + 3 * width
    assert columns.max() <= 6 + 4 * width


def test_no_word_of_a_page_leaves_its_box():
    page = text_encoder.token_grid(["incomprehensibilities</w>", "a</w>"], [1, 2], title="Title")
    right = 6 + text_encoder.BOX[0]
    assert (np.array(page.convert("L"))[30:66, right - 2 : right].min()) > 100


def test_the_distances_write_every_number():
    moved = torch.tensor([[0, 0, 0, 0.82, 0, 0], [0, 0, 0, 0.3, 0.25, 0.004]])
    drawn = text_encoder.state_distances(moved, TOKENS, ["embedding", "layer 1"], "Title")
    (ax,) = drawn.figure.axes
    assert "embedding: cat; layer 1: cat, (end), (end)." in drawn.words
    assert [t.get_text() for t in ax.texts] == [
        text_encoder.format_distance(v) for v in moved.flatten().tolist()
    ]
    shades = np.asarray(ax.images[0].get_array())
    assert ((shades == 0) == (moved.numpy() == 0)).all()
    assert shades.max() < 0.5  # black numbers can be read on it
    assert shades[0, 3] > shades[1, 3] > shades[1, 4] > 0.1  # one scale for all rows
    assert [label.get_text() for label in ax.get_xticklabels()][3] == "cat"
    with np.errstate(all="raise"):
        still = text_encoder.state_distances(torch.zeros(2, 6), TOKENS, ["a", "b"], "Title")
    assert still.words.endswith("a: none; b: none.")
    (nothing,) = still.figure.axes
    assert {t.get_text() for t in nothing.texts} == {"0"}


def test_own_and_negative_shows_which_of_the_two_images_wins():
    matrix = torch.arange(16.0).reshape(4, 4) / 16
    same = matrix[:, [0, 0, 2, 2]]  # both captions of a pair have the same vector
    drawn = text_encoder.own_and_negative(
        {"one": matrix, "two": matrix.T, "bag": same, "none": torch.ones(4, 4)}, "Title"
    )
    heights = [[bar.get_height() for bar in ax.patches] for ax in drawn.figure.axes]
    # A caption's own image minus the hard negative, which is another row of its column.
    assert heights[0] == [-4 / 16, 4 / 16, -4 / 16, 4 / 16]
    assert heights[1] == [-1 / 16, 1 / 16, -1 / 16, 1 / 16]
    assert heights[2][0] == -heights[2][1]
    assert heights[3] == [0] * 4
    colours = [to_hex(bar.get_facecolor()) for bar in drawn.figure.axes[0].patches]
    assert colours == [VERMILION.lower(), BLUE.lower()] * 2
    assert drawn.words.count("2 of 4 right, one of each pair") == 3
    assert drawn.words.endswith("none, all tied.")
    titles = [ax.get_title(loc="left") for ax in drawn.figure.axes]
    assert titles[0] == "one: 2 of 4 right, one of each pair"
    assert {ax.get_ylim() for ax in drawn.figure.axes} == {drawn.figure.axes[0].get_ylim()}


def test_the_bars_of_a_swap_carry_their_values():
    drawn = text_encoder.swap_changes({"neither": 0.0, "both": 0.3, "trained": 1.2}, "T", "change")
    (ax,) = drawn.figure.axes
    assert [text.get_text() for text in ax.texts] == ["0 %", "30 %", "120 %"]
    assert drawn.words == "A bar for each encoder: neither, 0%; both, 30%; trained, 120%."


def test_the_caption_lengths_end_at_the_number_of_words():
    drawn = text_encoder.caption_lengths({0: 50.0, 10: 20.0, 20: 10.0}, 10.0)
    (ax,) = drawn.figure.axes
    assert [*ax.lines[0].get_ydata()] == [50, 20, 10]
    assert "from 50 without merges" in drawn.words
    assert "to 10.0 after 20 merges, steeply" in drawn.words


def test_a_padded_prompt_counts_its_padding():
    drawn = text_encoder.positions(TOKENS, range(6), "Title")
    assert "(start), a, gh-, cat, (end). All 1 boxes" in drawn.words


def test_a_wrong_caption_is_crossed_and_said():
    images = [Image.new("RGB", (8, 8), "white")] * 2
    plain, crossed = (
        text_images.captioned(images, ["a cat", "a dog"], "Title", "Two images.", wrong)
        for wrong in ((), (1,))
    )
    assert crossed.words == "Two images. The captions: a cat; a dog (wrong)."
    differs = np.array(plain.figure) != np.array(crossed.figure)
    assert np.nonzero(differs.any(axis=(0, 2)))[0].min() >= 174  # the first is left alone


def test_weighted_images_have_a_column_for_each_weight():
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    drawn = text_images.weighted({"a": [images] * 2, "b": [images]}, [0, 1.5], "Title", "Words.")
    assert drawn.words == (
        "Images in rows: a (2 rows); b (1 rows). Columns: weights 0, 1.5. Words."
    )
    pixels = np.array(drawn.figure).reshape(-1, 3)
    for colour in ((255, 0, 0), (0, 128, 0)):
        assert (pixels == colour).all(-1).sum() == 3 * 16 * 16  # three rows, enlarged twice


def test_images_in_several_rows_are_read_row_by_row():
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    page = text_images.captioned(images, ["a", "b", "c"], "T", "W", size=40, across=2).figure
    reds, greens, blues = (
        np.argwhere((np.array(page) == colour).all(-1))[0]
        for colour in ((255, 0, 0), (0, 128, 0), (0, 0, 255))
    )
    assert reds[0] == greens[0] < blues[0]
    assert reds[1] == blues[1] < greens[1]


def test_the_two_towers_mark_the_right_pairs():
    drawn = text_towers.two_towers()
    (ax,) = drawn.figure.axes
    words = [text.get_text() for text in ax.texts]
    assert sum(word.startswith("$u_") and "v_" in word for word in words) == 25
    squares = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    marked = [patch.get_facecolor() for patch in squares]
    assert len(set(marked)) == 2
    assert sorted(marked.count(colour) for colour in set(marked)) == [5, 20]
    assert "right pairs are on its diagonal" in drawn.words


def test_the_encoder_shows_each_output_where_it_is_taken():
    (ax,) = text_towers.encoder_outputs().figure.axes
    heights = {text.get_text().split("   ")[0]: text.get_position()[1] for text in ax.texts}
    for part, taken in (
        ("token + position embedding", "hidden[0]"), ("layer 1", "hidden[1]"),
        ("layer N − 1", "hidden[-2]"), ("layer N", "hidden[-1]"), ("final norm", "last"),
        ("projection (if there is one)", "pooled"),
    ):  # fmt: skip
        assert heights[part] == heights[taken]
    assert heights["last"] < heights["row of the first end-of-text token"] < heights["pooled"]


def test_the_towers_name_the_published_sizes():
    axes = text_towers.state_sources().figure.axes
    words = [text.get_text().replace("\n", " ") for ax in axes for text in ax.texts]
    widths = [int(word.split()[-1]) for word in words if " 77 × " in word and ":" not in word]
    assert widths == [768, 1024, 768, 1280]
    assert sum(widths[2:]) == SPECS["sdxl"].unet.cross_attention_dim
    assert "pooled 1280" in words
    assert f"concatenated: 77 × {SPECS['sdxl'].unet.cross_attention_dim}" in words
    assert [word for word in words if "not used" in word] == [
        "layer 24 (not used)", "layer 12 (not used)", "final norm (not used)",
    ]  # fmt: skip
    assert [word for word in words if word.startswith("layers")] == [
        "layers 1 … 11", "layers 1 … 23", "layers 1 … 11", "layers 1 … 31",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- the widget

ONE, OTHER = "a red house at night", "a red balloon at night"


@pytest.fixture
def glass(tiny_storybook, caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    with caplog.at_level(logging.WARNING):
        yield TextEncoderWidget(tiny_storybook.text, ONE, OTHER)
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def said(glass) -> str:
    return re.sub(r"<[^>]*>", "", glass.message.value)


def test_embeddings_before_the_change_stay_and_all_others_move(tiny_storybook):
    found = compare(tiny_storybook.text, ONE, OTHER)
    assert found.changed == [3]
    assert found.moved.shape == (3, 77)  # embedding, one layer, final norm
    assert (found.moved[:, :3] < text_encoder.ROUNDING).all()
    assert (found.moved[0] > text_encoder.ROUNDING).nonzero().flatten().tolist() == [3]
    assert (found.moved[1:, 3:] > text_encoder.ROUNDING).all()
    assert describe(found, 0).endswith(
        "The 3 embeddings before it stay the same; 1 of all 77 change."
    )
    assert describe(found, 2).endswith(
        "The 3 embeddings before it stay the same; 74 of all 77 change."
    )
    assert describe(found, 2).startswith("5 tokens between start and end, 70 padding tokens.")


def test_every_layer_has_its_page(glass):
    pages = []
    for _, layer in glass.layer.options:
        glass.layer.value = layer
        pages.append(np.array(glass.image))
        assert f"{74 if layer else 1} of all 77 change" in said(glass)
    assert len(pages) == 3
    assert not np.array_equal(pages[0][30:], pages[1][30:])  # below the title, too


def test_typing_reads_again(glass):
    glass.other.value = ONE
    assert said(glass) == "Both captions have the same 77 tokens; no embedding changes."
    glass.caption.value = "a red balloon at night"
    assert "first change is at position 3 (“balloon”)" in said(glass)
    glass.caption.value = ""
    assert said(glass).startswith("0 tokens between start and end, 75 padding tokens.")


def test_what_is_cut_is_said_once(glass):
    glass.caption.value = glass.other.value = "a red cat " * 40
    assert said(glass).count("this end is ignored") == 1
    assert "no embedding changes. The prompt" in said(glass)
    glass.caption.value = "a red cat " * 40 + "house"
    assert said(glass).count("this end is ignored") == 2


def test_its_page_has_words_and_its_controls_names(glass):
    assert 'alt="The tokens in their positions.' in glass.view.value
    assert 'role="status"' in glass.message.value
    for control in (glass.caption, glass.other, glass.layer):
        assert control.description
        assert not control.disabled
    glass.caption.value = "<b>"
    assert "“&lt;" in glass.message.value
    assert "“<" not in glass.message.value + glass.view.value
