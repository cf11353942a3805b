"""The figures and the widget of notebook 07: what they draw is what the schedule says."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.course.figures import noise_schedule, schedule_charts
from sdlearn.course.widgets.noise_schedule import NoiseScheduleWidget
from sdlearn.schedule import NoiseSchedule

SCHEDULES = {
    "published": NoiseSchedule(),
    "linear": NoiseSchedule(beta_start=1e-4, beta_end=0.02, kind="linear"),
    "cosine": NoiseSchedule(kind="cosine"),
    "zero": NoiseSchedule(zero_terminal_snr=True),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------- under the noise


def test_a_mosaic_shows_every_number_of_four_channels_in_its_place():
    z = torch.zeros(4, 8, 8)
    z[0, 0, 0], z[1, 0, 7], z[2, 7, 0], z[3, 7, 7] = 3.0, -3.0, 9.0, -9.0
    pixels = np.array(noise_schedule.mosaic(z, 64))  # squares of 4 x 4 pixels
    assert pixels.shape == (64, 64)
    assert (pixels[:4, :4] == 255).all()
    assert (pixels[:4, -4:] == 0).all()
    assert (pixels[-4:, :4] == 255).all()
    assert (pixels[-4:, -4:] == 0).all()
    assert set(np.unique(pixels)) == {0, 136, 255}


def test_a_mosaic_is_lighter_where_the_number_is_larger():
    values = torch.linspace(-3, 3, 16).view(4, 2, 2)
    pixels = np.array(noise_schedule.mosaic(values, 4))
    order = values.view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    assert (np.diff(pixels.flatten()[order.flatten().argsort().numpy()].astype(int)) == 17).all()


@pytest.mark.parametrize("t", [0, 500, 999])
def test_noisy_is_the_closed_form(t):
    z_0, eps = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    alpha, sigma = SCHEDULES["published"].at(t)
    z = noise_schedule.add_noise(z_0, eps, alpha, sigma)
    assert z.dtype == torch.float32
    assert torch.allclose(z, float(alpha) * z_0 + float(sigma) * eps, atol=1e-6)


def test_nearest_finds_each_where_there_is_no_noise_and_the_most_likely_where_there_is():
    codes = randn(5, 4, 3, 3) * torch.linspace(0.2, 2, 5).view(5, 1, 1, 1)
    alpha, sigma = SCHEDULES["published"].at(900)
    assert noise_schedule.nearest_latent(float(alpha) * codes, alpha, codes).tolist() == [*range(5)]
    z = noise_schedule.add_noise(codes, randn(5, 4, 3, 3, seed=3), alpha, sigma)
    density = torch.distributions.Normal(alpha * codes[None], sigma).log_prob(z[:, None])
    likely = density.sum(dim=(2, 3, 4)).argmax(dim=1)
    assert noise_schedule.nearest_latent(z, alpha, codes).tolist() == likely.tolist() != [*range(5)]


def test_what_is_said_of_a_time():
    alpha, sigma = (x.item() for x in SCHEDULES["published"].at(500))
    said = noise_schedule.describe_noise_level(500, alpha, sigma)
    assert said == ("At t = 500: alpha 0.526, sigma 0.851, signal-to-noise ratio 0.3819 (-4.2 dB).")
    assert "1e-05 (-50.0 dB)" in noise_schedule.describe_noise_level(9, 1e-5**0.5, 1.0)
    assert "ratio 0 (no signal is left)" in noise_schedule.describe_noise_level(999, 0.0, 1.0)
    assert f"({10 * math.log10(1175.4706):.1f} dB)" in noise_schedule.describe_noise_level(
        0, 0.99915**0.5, 0.00085**0.5
    )


def test_a_row_of_fog_is_four_pictures_and_an_empty_one_where_nothing_is_found():
    page, other = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    z = randn(1, 4, 2, 2)
    row = noise_schedule.noise_and_nearest(
        page, z, other, lambda _: Image.new("RGB", (16, 16), "lime")
    )
    bare = noise_schedule.noise_and_nearest(
        page, z, None, lambda _: Image.new("RGB", (16, 16), "lime")
    )
    area = 32 * 32
    for picture, blue in ((row, area), (bare, 0)):
        pixels = np.array(picture)
        for colour, count in (((255, 0, 0), area), ((0, 255, 0), area), ((0, 0, 255), blue)):
            assert (pixels == colour).all(axis=-1).sum() == count
    assert row.size == bare.size


# ------------------------------------------------------------------------------ images under noise


def flat(colour="red", side=16):
    return Image.new("RGB", (side, side), colour)


def test_figures_of_images_say_their_numbers_and_have_few_colours():
    noise = [Image.fromarray((randn(64, 64, 3, seed=k).abs() * 90).clamp(0, 255).byte().numpy())
             for k in range(3)]  # fmt: skip
    drawn = noise_schedule.noise_strip({0: noise[0], 500: noise[1], 999: noise[2]}, [1, 0.5257, 0])
    assert drawn.words.startswith("3 panels of one image")
    assert "t = 0: 1.00; t = 500: 0.53; t = 999: 0.00" in drawn.words
    assert len(drawn.figure.getcolors()) <= noise_schedule.COLOURS

    rows = {"linear": noise[:2], "cosine": noise[1:]}
    alphas = {"linear": torch.tensor([0.5, 0.25]), "cosine": torch.tensor([0.75, 0.125])}
    drawn = noise_schedule.under_schedules(rows, (200, 800), alphas)
    assert "linear: 0.50, 0.25; cosine: 0.75, 0.12" in drawn.words
    assert drawn.figure.height > 2 * 128

    drawn = noise_schedule.averaged_sizes(noise, (64, 128, 256), "Title", [4, 2, 1])
    assert drawn.words.endswith("64 pixels: 4.00; 128 pixels: 2.00; 256 pixels: 1.00.")
    latents = {0: randn(4, 8, 8), 999: randn(4, 8, 8, seed=1)}
    drawn = noise_schedule.latent_and_decoded(latents, noise[:2])
    assert "Two rows at t = 0, t = 999" in drawn.words


def test_variants_are_named_with_their_numbers():
    images = {name: flat(colour) for name, colour in (("original", "red"), ("spots", "blue"))}
    drawn = noise_schedule.told_apart(images, [224])
    assert drawn.words == "An image and 1 variants of it: spots: t = 224."
    pixels = np.array(drawn.figure)
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(axis=-1).sum() == 48 * 48


def test_swaps_are_named_with_their_numbers_and_show_where_they_differ():
    """A square that is 64 levels lighter in one channel and 20 in another is half grey."""
    image, other = flat((100, 100, 100), 64), flat((100, 100, 100), 64)
    other.paste((164, 120, 100), (12, 36, 28, 52))
    other.paste((100, 100, 255), (0, 0, 8, 8))  # 155 levels: black, as 128 are
    drawn = noise_schedule.swapped({"own": image, "other": other}, [0, 155.2])
    assert drawn.words.endswith("Largest difference: own: 0; other: 155.")
    assert (np.array(drawn.figure.convert("L")) == 128).sum() >= 4 * 256  # at twice the size
    shown = noise_schedule.difference_map(image, other)
    assert np.array_equal(np.array(shown)[36:52, 12:28], np.full((16, 16), 128))
    assert np.bincount(np.array(shown).ravel())[[0, 128, 255]].tolist() == [64, 256, 4096 - 320]
    assert noise_schedule.difference_map(other, image).tobytes() == shown.tobytes()
    assert noise_schedule.difference_map(image, image).getextrema() == (255, 255)


# ------------------------------------------------------------------------------------------- charts


@pytest.fixture
def axes(monkeypatch):
    """A chart's axes and its words, before it becomes an image."""
    monkeypatch.setattr(schedule_charts, "compact", lambda figure: figure)

    def axes(drawn):
        return drawn.figure.axes, drawn.words

    return axes


def test_charts_are_images_with_a_palette():
    drawn = schedule_charts.visited_timesteps({"one": [999, 1]})
    assert drawn.figure.mode == "P"
    assert drawn.figure.width == 624


def test_curves_are_those_of_the_tables(axes):
    tables = {name: schedule.alphas_cumprod for name, schedule in SCHEDULES.items()}
    (above, below), words = axes(schedule_charts.schedule_curves(tables))
    assert len({line.get_color() for line in above.lines}) == 4
    assert len({line.get_linestyle() for line in above.lines}) == 4
    for line, ratio, (name, table) in zip(above.lines, below.lines, tables.items(), strict=False):
        assert line.get_label() == name
        assert np.array_equal(line.get_ydata(), table)
        whole = table > 0
        expected = 10 * (table / (1 - table))[whole].log10()
        assert np.allclose(ratio.get_ydata(), expected)
        assert list(ratio.get_xdata()) == whole.nonzero()[:, 0].tolist()
    assert "published: 0 dB at t = 353, at the end 0.005" in words
    assert "zero: 0 dB at t = 336, at the end 0" in words


def test_bars_add_up_and_are_cut_after_the_limits(axes):
    limits = {"a": [99, 499], "b": [0, 899]}
    (ax,), words = axes(schedule_charts.legible_steps(limits, ["spots", "day or night"], 1000))
    bars = [(patch.get_x(), patch.get_width()) for patch in ax.patches]
    assert bars == [(0, 100), (100, 400), (500, 500), (0, 1), (1, 899), (900, 100)]
    texts = [text.get_text() for text in ax.texts]
    assert texts[:3] == ["10 %", "40 %", "50 %"]
    assert texts[-3:] == ["spots", "day or\nnight", "none of\nthem"]
    assert "a: 10 %, 40 %, 50 %; b: 0 %, 90 %, 10 %" in words


def test_a_line_or_a_bar_that_could_not_be_drawn_is_refused():
    table = SCHEDULES["published"].alphas_cumprod
    with pytest.raises(ValueError, match=r"tables has 5 schedules, .*; accepted: up to 4"):
        schedule_charts.schedule_curves({str(k): table for k in range(5)})
    with pytest.raises(ValueError, match=r"names has 5 details, .*; accepted: up to 4"):
        schedule_charts.legible_steps({"a": [1, 2, 3, 4, 5]}, "vwxyz", 10)
    with pytest.raises(ValueError, match=r"limits has 1 timesteps for 'b'; accepted: .* 2 names"):
        schedule_charts.legible_steps({"a": [1, 2], "b": [3]}, ["spots", "colour"], 10)


def test_histograms_share_bins_and_have_the_area_one(axes):
    sets = {"dark": randn(500) - 2, "bright": randn(400, seed=1) + 2, "noise": randn(300, seed=2)}
    panels = {"small": sets, "large": {name: x / 2 for name, x in sets.items()}}
    (above, below), words = axes(schedule_charts.brightness_readings(panels, bins=20))
    drawn = [patch.get_data() for patch in above.patches]
    assert len(drawn) == 3
    for patch, x in zip(drawn, sets.values(), strict=True):
        assert (patch.values * np.diff(patch.edges)).sum() == pytest.approx(1)
        centres = (patch.edges[1:] + patch.edges[:-1]) / 2
        mean = (patch.values * np.diff(patch.edges) * centres).sum()
        assert mean == pytest.approx(float(x.mean()), abs=0.3)
    assert np.array_equal(drawn[0].edges, below.patches[0].get_data().edges)
    assert f"small: dark {sets['dark'].mean():.2f} ± {sets['dark'].std():.2f}" in words


def test_visited_timesteps_are_marked_and_both_ends_written(axes):
    rows = {"one": [999, 500, 1], "two": [901, 400, 101]}
    (ax,), words = axes(schedule_charts.visited_timesteps(rows))
    marks = [line for line in ax.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in marks] == [*rows.values()]
    assert [text.get_text() for text in ax.texts] == ["999", "1", "901", "101"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_xlim()[0] > 999 > 0 > ax.get_xlim()[1]  # noise to the left
    assert "one: from 999 to 1; two: from 901 to 101" in words


# --------------------------------------------------------------------------------------- the widget


@pytest.fixture
def widget(caplog, tiny_storybook):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    pages = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue", "white")]
    with caplog.at_level(logging.WARNING):
        yield NoiseScheduleWidget(SCHEDULES, pages, 3 * randn(4, 4, 8, 8), tiny_storybook.vae)
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def text(part):
    return re.sub(r"<[^>]*>", "", part.value)


def test_the_widget_says_the_numbers_of_its_schedule(widget):
    widget.t.value = 250
    for name, schedule in SCHEDULES.items():
        widget.schedule.value = name
        alpha, sigma = schedule.at(250)
        said = text(widget.message)
        assert said == widget.sentence
        assert f"At t = 250: alpha {alpha:.3f}, sigma {sigma:.3f}" in said
        assert f"({10 * schedule.snr(250).log10():.1f} dB)" in said
        assert "of 4 images, the nearest is" in said
    assert 'role="status"' in widget.message.value


def test_the_widget_finds_each_page_without_noise_and_none_without_signal(widget):
    widget.t.value = 0
    for page in range(4):
        widget.page.value = page
        assert widget.found == page
        assert f"Image {page}: of 4 images, the nearest is the right one." in widget.sentence
    widget.schedule.value, widget.t.value = "zero", 999
    assert widget.found is None
    assert "no signal is left" in widget.sentence
    assert "all are equally near" in widget.sentence


def test_a_wrong_page_is_named(widget):
    widget.codes = 0.1 * widget.codes
    widget.t.value = 990
    for page in range(4):
        widget.page.value = page
        if widget.found != page:
            assert f"the nearest is image {widget.found}, a wrong one." in widget.sentence
            return
    raise AssertionError("at this time a page should have been lost")


@pytest.mark.parametrize(("control", "value"), [("schedule", "cosine"), ("t", 77), ("page", 2)])
def test_every_control_matters(widget, control, value):
    before, said = np.array(widget.image), widget.sentence
    getattr(widget, control).value = value
    after = np.array(widget.image)
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert widget.sentence != said
    assert "An image under noise" in widget.view.value


@pytest.mark.parametrize("t", [100, 999])
def test_a_page_keeps_its_noise_and_what_is_nearest_is_shown(widget, t):
    widget.codes = 0.1 * widget.codes
    widget.page.value, widget.t.value = 3, t
    alpha, sigma = SCHEDULES["published"].at(t)
    z = noise_schedule.add_noise(widget.codes[[3]], randn(1, 4, 8, 8, seed=3), alpha, sigma)
    found = int(noise_schedule.nearest_latent(z, alpha, widget.codes)[0])
    assert (found == 3) == (t == 100)
    expected = noise_schedule.noise_and_nearest(
        widget.pages[3], z, widget.pages[found], widget.decode
    )
    assert np.array_equal(np.array(widget.image), np.array(expected))


def test_the_widget_answers_over_its_whole_range(widget):
    for name in SCHEDULES:
        widget.schedule.value = name
        for t in (0, 1, 998, 999):
            for page in (0, 3):
                widget.t.value, widget.page.value = t, page
                assert f"At t = {t}:" in widget.sentence


def test_every_control_has_a_name(widget):
    controls = [widget.schedule, widget.t, widget.page]
    assert controls == list(widget.children[:3])
    assert all(control.description and not control.disabled for control in controls)
