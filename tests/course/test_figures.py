"""Figures show what they are given: exact pixels, all points, words for who cannot see them."""

import base64
import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from sdlearn.course import figures


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def found(page: Image.Image, part: Image.Image, scale: int) -> list[tuple[int, int]]:
    """Where `part`, every pixel a square of scale x scale, stands on the page: (x, y), ..."""
    big = np.array(part.convert("RGB")).repeat(scale, axis=0).repeat(scale, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(np.array(page), big.shape)[:, :, 0]
    rows, columns = np.nonzero((windows == big).all(axis=(2, 3, 4)))
    return list(zip(columns.tolist(), rows.tolist(), strict=True))


def test_a_grid_holds_every_pixel_as_a_square_in_reading_order():
    pictures = [picture(k) for k in range(5)]
    page = figures.grid(
        [pictures[:3], pictures[3:]], ["a", "b", "c"], ["first", "second"], "A title", scale=3
    )
    places = [found(page, one, 3) for one in pictures]
    assert [len(place) for place in places] == [1] * 5
    (x0, y0), (x1, _), (x2, _), (x3, y3), (x4, y4) = [place[0] for place in places]
    assert (x0, x1) == (x3, x4)
    assert x1 - x0 == x2 - x1 > 7 * 3
    assert y0 < y3 == y4


def test_the_labels_of_a_grid_are_drawn_beside_the_pictures_not_on_them():
    white = Image.new("RGB", (8, 8), "white")
    labelled = np.array(figures.grid([[white, white]], ["up", "down"], ["left"], "Title", scale=9))
    dark = np.argwhere((labelled < 128).all(axis=2))
    pictures_end = labelled.shape[0] - 6, labelled.shape[1] - 6
    inside = (dark[:, 0] >= pictures_end[0] - 72) & (dark[:, 1] >= pictures_end[1] - 150)
    assert len(dark) > 50
    assert not inside.any()


def test_the_name_of_a_row_may_have_several_lines():
    names = f"{'a' * 30} {'b' * 30}", f"{'a' * 30}\n{'b' * 30}"
    wide, narrow = (figures.grid([[picture(0)]], [], [name]) for name in names)
    assert narrow.width < wide.width
    assert narrow.height == wide.height
    assert found(narrow, picture(0), 3)


def test_every_picture_of_a_grid_has_an_outline_one_pixel_wide_around_it():
    white = Image.new("RGB", (8, 8), "white")
    page = np.array(figures.grid([[white, white], [white]], scale=9))
    expected = np.full_like(page, 255)
    for x, y in ((6, 6), (84, 6), (6, 84)):
        expected[y - 1 : y + 73, x - 1 : x + 73] = 170
        expected[y : y + 72, x : x + 72] = 255
    assert np.array_equal(page, expected)


def test_a_long_title_is_wrapped_and_never_cut():
    short = figures.grid([[picture(0)]], title="word")
    longer = figures.grid([[picture(0)]], title="word " * 24)
    assert longer.width == short.width
    assert longer.height > short.height + 40
    dark = np.argwhere((np.array(longer) < 128).all(axis=2))
    assert dark[:, 1].max() < longer.width - 6
    font = figures.label_font(13)
    lines = figures.wrapped("one two three four five", font, 60)
    assert " ".join(lines) == "one two three four five"
    assert len(lines) > 2
    assert all(font.getlength(line) <= 60 for line in lines)


@pytest.mark.parametrize(
    ("lengths", "headings", "names"),
    [([], 0, 0), ([0], 0, 0), ([1, 2], 0, 0), ([2, 1, 2], 0, 0), ([2, 2], 3, 0), ([2], 0, 2)],
)
def test_a_grid_that_does_not_add_up_is_refused(lengths, headings, names):
    rows = [[picture(0)] * length for length in lengths]
    with pytest.raises(ValueError, match=r"rows have .* images"):
        figures.grid(rows, ["h"] * headings, ["n"] * names)


def test_latent_shows_every_channel_on_one_scale_around_zero():
    z = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    figure = figures.latent(z, "A latent")
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in maps] == [f"channel {k}" for k in range(4)]
    for ax, channel in zip(maps, z[0], strict=True):
        assert np.array_equal(np.asarray(ax.images[0].get_array()), channel.numpy())
        assert ax.images[0].get_clim() == pytest.approx((-3, 3))
        assert ax.images[0].get_interpolation() in (None, "auto", "antialiased", "nearest")
        assert ax.get_xlabel()
    assert maps[0].get_ylabel()
    beside = figures.latent(z, "A latent", picture(0))
    assert np.array_equal(np.asarray(beside.axes[0].images[0].get_array()), np.array(picture(0)))
    assert [ax.get_title(loc="left") for ax in beside.axes[1:5]] == [
        f"channel {k}" for k in range(4)
    ]


def test_curves_differ_without_colour():
    figure = figures.curves(
        {"a": ([0, 1], [3.0, 1.0]), "b": ([1, 2], [2.0, 2.5])}, "Title", "step", "value"
    )
    (ax,) = figure.axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1], [1, 2]]
    assert [list(line.get_ydata()) for line in ax.lines] == [[3.0, 1.0], [2.0, 2.5]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 2
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == (
        "Title",
        "step",
        "value",
    )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.get_ylim()[0] == 0


def test_show_gives_the_picture_with_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr(figures.images, "display", lambda bundle, raw=False: shown.append(bundle))
    figures.show(picture(0), alt='a "small" picture')
    image, words = shown
    data, metadata = image._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == 'a "small" picture'
    stored = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert np.array_equal(np.array(stored), np.array(picture(0)))
    assert words["text/plain"] == 'a "small" picture'
    assert "<details>" in words["text/html"]
    assert "a &quot;small&quot; picture" in words["text/html"]


def test_show_takes_the_words_of_a_described_figure_and_wants_some(monkeypatch):
    shown = []
    monkeypatch.setattr(figures.images, "display", lambda bundle, raw=False: shown.append(bundle))
    figures.show(figures.Described(picture(0), "a picture, described"))
    assert shown[1]["text/plain"] == "a picture, described"
    with pytest.raises(ValueError, match="the figure has no description"):
        figures.show(picture(0))


def test_figures_are_drawn_in_the_course_s_style_and_leave_the_reader_s_alone():
    before = dict(matplotlib.rcParams)
    figure = figures.curves({"a": ([0, 1], [0.0, 1.0])}, "T", "x", "y")
    assert dict(matplotlib.rcParams) == before
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "T"
    assert not ax.spines["top"].get_visible()


def test_the_palette_differs_in_lightness():
    """Six colours of which no two look alike in grey."""
    style = figures.style
    colours = (style.BLUE, style.VERMILION, style.GREEN, style.PURPLE, style.ORANGE, style.GREY)
    pixels = Image.new("RGB", (6, 1))
    for k, colour in enumerate(colours):
        pixels.putpixel((k, 0), ImageColor.getrgb(colour))
    cycle = matplotlib.rc_params_from_file(style.SHEET, use_default_template=False)
    assert [f"#{c['color'].removeprefix('#')}" for c in cycle["axes.prop_cycle"]] == list(colours)
    greys = sorted(np.array(pixels.convert("L"))[0].astype(int).tolist())
    assert min(np.diff(greys)) >= 15
    assert style.tint("#0b5394", 1.0) == "#0b5394"
    assert style.tint("#0b5394", 0.0) == "#ffffff"
    assert style.tint("#000000", 0.5) == "#808080"


def test_a_table_aligns_numbers_to_the_right_and_names_to_the_left():
    table = figures.table(["word", "share", "n"], [["red", "87.0%", 3], ["<at>", "0.6%", 12]])
    assert repr(table) == "word  share   n\nred   87.0%   3\n<at>   0.6%  12"
    page = table._repr_html_()
    assert '<td style="text-align: left">&lt;at&gt;</td>' in page
    assert '<td style="text-align: right">0.6%</td>' in page
    assert page.count("<tr>") == 3
    assert '<th style="text-align: right">n</th>' in page


def test_a_column_of_numbers_with_gaps_bounds_and_powers_stays_on_the_right():
    rows = [["red cat", "–", "< 0.001 %", "2 × 10⁻⁷"], ["1 to 2", "0.993", "50 %", "0.2"]]
    table = figures.table(["name", "similarity", "error", "left"], rows)
    assert table.numeric == [False, True, True, True]


def test_a_negative_number_in_a_table_has_a_minus_sign():
    table = figures.table(["name", "r"], [["a-b", -0.5], ["-", "-1"], ["-x", "+1"]])
    assert [row[1] for row in table.rows] == ["−0.5", "−1", "+1"]
    assert [row[0] for row in table.rows] == ["a-b", "-", "-x"]
    assert table.numeric == [False, True]


@pytest.mark.parametrize("fold", ["", "The numbers"])
def test_a_wide_table_scrolls(fold):
    """An output of a page is a table row, in which overflow needs a width of its own."""
    page = figures.table(["a"], [["1"]], fold=fold)._repr_html_()
    scroll = '<div style="overflow: auto; max-width: calc(100vw - 48px)">'
    assert page.count(scroll) == 1
    places = [page.index(part) for part in (scroll, "<table>", "</table>", "</div>")]
    assert places == sorted(places)
    assert page.startswith("<details>") == bool(fold)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (2.9e-16, 2, "2.9 × 10⁻¹⁶"),
        (2e-7, 1, "2 × 10⁻⁷"),
        (0.0047, 2, "0.0047"),
        (1.4, 2, "1.4"),
        (0.0, 2, "0"),
        (6.55e12, 3, "6.55 × 10¹²"),
    ],
)
def test_a_small_number_is_written_as_a_power_of_ten(value, digits, text):
    assert figures.scientific(value, digits) == text


def test_the_letters_of_a_wide_grid_grow():
    assert [figures.images.letters_for(width) for width in (100, 384, 512, 900)] == [13, 16, 18, 18]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"a row has 1 cells, \('1',\); accepted: 2, one for each"):
        figures.table(["a", "b"], [["1"]])


def test_the_diagrams_of_attention_name_their_parts():
    for drawn, names in (
        (figures.attention_diagrams.attention_matrices(), ("$Q$", "$K$", "$V$", "n × m", "to_v")),
        (figures.attention_diagrams.transformer_block(), ("attn1", "attn2", "ff", "proj_out")),
    ):
        texts = [text.get_text() for text in drawn.figure.axes[0].texts]
        assert set(names) <= {line for text in texts for line in text.split("\n")}
        assert len(drawn.words) > 100


def test_the_maps_of_several_tokens_share_one_scale():
    page = Image.new("RGB", (8, 8), "white")
    maps = torch.stack([torch.full((2, 2), 0.5), torch.full((2, 2), 0.25)])
    drawn = figures.token_overlays(page, maps, ["much", "little"], "Title")
    pixels = np.array(drawn.figure)
    middle = pixels.shape[0] - 6 - 8  # the middle of the row, at twice the size
    values = {int(v) for v in pixels[middle, :, 0]}
    assert {255, round(255 * (0.3 + 0.7 * 11 * 17 / 255))} <= values
    assert "much: 50.0% on average, 50.0% at most" in drawn.words


def test_variants_are_rows_of_one_image_for_each_seed():
    rows = {"source": [picture(1), picture(2)], "edited": [picture(3), picture(4)]}
    drawn = figures.variant_rows(rows, (5, 6), "Title", "Two and two.")
    assert (
        drawn.words
        == "A grid with a column for each seed and the rows: source; edited. Two and two."
    )
    for one in (image for row in rows.values() for image in row):
        assert len(found(drawn.figure, one, 2)) == 1


def test_img_is_an_element_with_alternative_text_and_whole_pixels():
    element = figures.img(picture(1), alt="<b>", width=140)
    assert 'alt="&lt;b&gt;"' in element
    assert 'width="140"' in element
    assert "pixelated" in element
    data = base64.b64decode(element.split("base64,")[1].split('"')[0])
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), np.array(picture(1)))


def test_curves_on_logarithmic_axes_and_below_zero():
    lines = {"a": ([1, 10, 100], [1.0, 100.0, 1e4])}
    linear, both = ("linear",) * 2, ("log",) * 2
    x, y = ("log", "linear"), ("linear", "log")
    for log, scales in (("", linear), ("x", x), ("y", y), ("xy", both)):
        (ax,) = figures.curves(lines, "T", "x", "y", log).axes
        assert (ax.get_xscale(), ax.get_yscale()) == scales
    (ax,) = figures.curves({"a": ([0, 1], [-1.0, 1.0])}, "T", "x", "y").axes
    assert ax.get_ylim()[0] < -1
