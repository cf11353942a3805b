"""The walk through a U-Net tells what passed; its pictures and its widget show what it tells."""

import base64
import io
import logging
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image, ImageColor
from torch.utils.flop_counter import FlopCounterMode

import sdlearn
from sdlearn.course.figures import png
from sdlearn.course.figures.diagrams import TEXT, TIME
from sdlearn.course.figures.style import INK, MUTED
from sdlearn.course.figures.unet import (
    by_resolution,
    describe_block,
    ladder,
    skip_connections,
    trace,
    u_shape,
    zero_inputs,
)
from sdlearn.course.figures.unet_charts import (
    channel_image,
    cost_bars,
    most_varying_channels,
    probe_lines,
)
from sdlearn.course.figures.unet_diagrams import few_colours, res_block, unet_diagram
from sdlearn.course.widgets.unet import UNetTour
from sdlearn.unet import skip_widths


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    config = sdlearn.UNetConfig(
        block_out_channels=(8, 16, 24),
        cross_attention=(False, True, True),
        transformer_depth=(1, 1, 2),
        num_heads=(1, 2, 3),
        cross_attention_dim=6,
        norm_num_groups=4,
    )
    return sdlearn.UNet(config).eval()


@pytest.fixture(scope="module")
def large():
    found = {}
    for name, side in (("sd1.5", 64), ("sdxl", 128)):
        with torch.device("meta"):
            unet = sdlearn.UNet(sdlearn.SPECS[name].unet)
        found[name] = unet, trace(unet, side, side)
    return found


def test_a_walk_tells_every_block_in_order_with_its_shapes(small):
    stops = trace(small, 9, 14, tokens=5)
    names = [stop.name for stop in stops]
    assert names[:4] == [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.resnets.1",
        "down_blocks.0.downsamplers.0",
    ]
    assert names[-1] == "conv_out"
    assert len(names) == len(set(names)) == 1 + 3 + 5 + 4 + 3 + 7 + 7 + 3 + 1
    shapes = {stop.name: stop.shape for stop in stops}
    assert shapes["down_blocks.0.downsamplers.0"] == (8, 5, 7)
    assert shapes["mid_block.attentions.0"] == (24, 3, 4)
    assert shapes["up_blocks.1.upsamplers.0"] == (16, 9, 14)
    for before, after in pairwise(stops):
        grown = after.kind == "resnets" and after.name.startswith("up_blocks")
        assert after.shape_in[1:] == before.shape[1:]
        assert (after.shape_in[0] > before.shape[0]) == grown
    assert not any(m._forward_hooks for m in small.modules())


def test_a_walk_counts_what_torch_counts(small, large):
    stops = trace(small, 9, 14, tokens=5)
    counter = FlopCounterMode(display=False)
    with (
        torch.no_grad(),
        counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        small(*zero_inputs(small, 9, 14, 5))
    embedding = sum(p.numel() for n, p in small.time_embedding.named_parameters() if "weight" in n)
    total = sum(stop.macs for stop in stops) + embedding
    assert 2 * total == counter.get_total_flops()
    # What was measured with forward hooks on diffusers' networks: 803.3 and 6761.2 GFLOP.
    for name, giga in (("sd1.5", 803.3), ("sdxl", 6761.2)):
        unet, stops = large[name]
        assert round(2 * sum(stop.macs for stop in stops) / 1e9, 1) == giga
        blocks = sum(stop.parameters for stop in stops)
        apart = ("time_embedding", "add_embedding", "conv_norm_out")
        rest = sum(p.numel() for n, p in unet.named_parameters() if n.startswith(apart))
        assert blocks + rest == sum(p.numel() for p in unet.parameters())


def test_skips_are_a_stack_and_fit(small, large):
    for unet, stops in ((small, trace(small, 9, 14)), *large.values()):
        pairs = skip_connections(stops)
        assert [stops[kept].shape[0] for kept, _ in pairs] == skip_widths(unet.config)
        takers = [taken for _, taken in pairs]
        assert takers == sorted(takers, reverse=True)
        for kept, taken in pairs:
            assert stops[kept].shape[1:] == stops[taken].shape_in[1:]
            before = stops[taken - 1].shape[0]
            assert stops[taken].shape_in[0] == before + stops[kept].shape[0]


def test_sizes_add_up_and_the_bars_show_them(large):
    _, stops = large["sd1.5"]
    sums = by_resolution(stops)
    assert list(sums) == ["64 × 64", "32 × 32", "16 × 16", "8 × 8"]
    totals = [sum(column) for column in zip(*sums.values(), strict=True)]
    assert totals == [sum(s.parameters for s in stops), sum(s.macs for s in stops)]
    parameters = [100 * p / totals[0] for p, _ in sums.values()]
    spent = [100 * m / totals[1] for _, m in sums.values()]
    assert parameters[2] + parameters[3] > 80  # as the notebook says
    assert spent[0] + spent[1] > 70
    drawing = cost_bars(stops, "Title")
    (ax,) = drawing.figure.axes
    drawn = [bar.get_width() for bar in ax.patches]
    assert drawn == pytest.approx(parameters + spent)
    assert (ax.get_title(loc="left"), ax.get_xlabel() != "", ax.get_ylabel() != "") == (
        "Title",
        True,
        True,
    )
    assert len({bar.get_facecolor() for bar in ax.patches}) == 2
    assert f"parameters: {parameters[0]:.1f} % at 64 × 64" in drawing.words
    assert f"{spent[3]:.1f} % at 8 × 8." in drawing.words


@pytest.mark.parametrize("name", ["sd1.5", "sdxl"])
def test_the_drawing_has_a_box_for_each_block_and_a_rung_for_each_skip(large, name):
    _, stops = large[name]
    figure = u_shape(stops, "Title", chosen=3)
    (ax,) = figure.axes
    assert len(ax.patches) == len(stops)
    places = ladder(stops, skip_connections(stops))
    assert len(set(places.values())) == len(places) == len(stops)
    (black,) = [box for box in ax.patches if box.get_facecolor()[:3] == (0, 0, 0)]
    middle = black.get_x() + black.get_width() / 2, black.get_y() + black.get_height() / 2
    assert middle == pytest.approx(places[3])
    words = [text.get_text() for text in ax.texts]
    rungs = [f"skip {k}: {c}" for k, c in enumerate(skip_widths(sdlearn.SPECS[name].unet), 1)]
    assert [word for word in words if word.startswith("skip ")] == rungs
    assert {" × ".join(map(str, stop.shape[1:])) for stop in stops} <= set(words)
    for kept, taken in skip_connections(stops):
        assert places[kept][1] == places[taken][1]
        assert places[kept][0] < places[taken][0]
    inside(figure)


def test_an_account_tells_the_numbers_of_a_block(large):
    _, stops = large["sd1.5"]
    names = [stop.name for stop in stops]
    said = describe_block(stops, names.index("up_blocks.3.resnets.2"))
    assert "640 × 64 × 64" in said
    assert "is 640 × 64 × 64, of which 320 channels are the skip from conv_in" in said
    assert "its output is 320 × 64 × 64" in said
    assert "the skip from" not in describe_block(stops, 0)
    shares = [describe_block(stops, k).rpartition("GMACs (")[2] for k in range(len(stops))]
    total = sum(float(share.removesuffix("%).")) for share in shares)
    assert total == pytest.approx(100, abs=0.05 * len(stops))


def test_a_probe_has_a_line_for_each_setting_with_its_name_at_the_end():
    blocks = ("conv_in", "down, 8 × 8", "up, 8 × 8")
    scores = {
        "t = 200": (0.3, 0.9, 0.97),
        "t = 200, no caption": (0.32, 0.9, 0.965),
        "t = 800, no caption": (-0.01, 0.1, 0.6),
    }
    scores = {name: dict(zip(blocks, values, strict=True)) for name, values in scores.items()}
    drawn = probe_lines(scores, "Title")
    (ax,) = drawn.figure.axes
    assert [list(line.get_ydata()) for line in ax.lines] == [
        list(s.values()) for s in scores.values()
    ]
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 3
    assert [text.get_text() for text in ax.texts] == list(scores)
    heights = [text.get_position()[1] for text in ax.texts]
    assert min(a - b for a, b in pairwise(heights)) > 0.07
    assert "t = 800, no caption: -0.01, 0.10, 0.60." in drawn.words
    inside(drawn.figure)


def test_relief_and_loudest():
    maps = torch.stack([torch.zeros(3, 3), torch.eye(3), 5 * torch.eye(3) - 2])
    assert most_varying_channels(maps, 2) == [2, 1]
    assert most_varying_channels(maps, 9) == [2, 1, 0]
    drawn = np.array(channel_image(maps[2], 9))
    assert (drawn.max(), drawn.min(), drawn.shape) == (255, 0, (9, 9))
    assert (drawn[:3, :3] == 255).all()
    assert np.array(channel_image(maps[0], 6)).max() == 0


# ------------------------------------------------------------------------------------- the widget


@pytest.fixture
def tour(small, large):
    walks = {"small": trace(small, 8, 8, 5), "sdxl": large["sdxl"][1]}
    seen = {
        "small": {"conv_in": torch.randn(8, 8, 8), "mid_block.attentions.0": torch.randn(24, 2, 2)}
    }
    return UNetTour(walks, seen)


def test_every_block_of_every_network_can_be_chosen(tour, caplog):
    with caplog.at_level(logging.WARNING):
        for name in ("sdxl", "small"):
            tour.network.value = name
            assert tour.block.value == 0
            for k in list(range(len(tour.traces[name])))[:: 1 if name == "small" else 7]:
                tour.block.value = k
                assert tour.sentence == describe_block(tour.traces[name], k)
                assert tour.traces[name][k].name in tour.view.value
                assert (tour.maps is None) == (
                    tour.traces[name][k].name not in tour.feature_maps.get(name, {})
                )
    assert not [record for record in caplog.records if record.exc_info]


def test_it_marks_the_block_and_says_its_numbers(tour):
    before = np.array(tour.image)
    tour.block.value = 5
    after = np.array(tour.image)
    assert after.shape == before.shape
    assert (after != before).any()
    stops = tour.traces["small"]
    figure = u_shape(stops, "The U-Net of small", chosen=5)
    assert png(tour.image) != b""
    assert np.array_equal(after, np.array(picture_of(figure)))
    assert 'role="status"' in tour.message.value
    tour.network.value = "sdxl"
    tour.network.value = "small"
    assert np.array_equal(np.array(tour.image), before)


def test_a_stored_tour_shows_the_feature_maps_below_the_network(tour):
    tour.network.value = "small"
    tour.block.value = 0
    data, metadata = tour._repr_mimebundle_()
    stored = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert stored.height == tour.image.height + tour.maps.height
    assert np.array_equal(np.array(stored)[-tour.maps.height :, : tour.maps.width], tour.maps)
    seen = tour.feature_maps["small"]["conv_in"]
    k = most_varying_channels(seen)[0]
    row, column = divmod(int(seen[k].argmax()), 8)
    assert f"{k} in row {row + 1}, column {column + 1}" in metadata["image/png"]["alt"]


def picture_of(figure):
    return Image.open(io.BytesIO(png(figure)))


# ----------------------------------------------------------------------------------- the diagrams


@pytest.mark.parametrize("name", ["storybook", "sd1.5", "sdxl"])
def test_the_diagram_of_a_unet_follows_its_configuration(name):
    spec = sdlearn.SPECS[name]
    config, side = spec.unet, spec.resolution // 8
    drawn = unet_diagram(config, "Title", side)
    (ax,) = drawn.figure.axes
    words = [text.get_text() for text in ax.texts]
    levels, layers = len(config.block_out_channels), config.layers_per_block
    transformers = sum(config.cross_attention) * (2 * layers + 1) + 1
    assert words.count("ResBlock") == levels * (2 * layers + 1) + 2
    assert sum(word.split(" ×")[0] == "transformer" for word in words) == transformers
    assert words.count("downsampling") == words.count("upsampling") == levels - 1
    rungs = [f"skip {k}: {c}" for k, c in enumerate(skip_widths(config), start=1)]
    assert [word for word in words if re.match(r"skip \d", word)] == rungs
    low, c = side // 2 ** (levels - 1), config.block_out_channels[-1]
    assert f"middle block: {low} × {low}, {c} channels" in words
    for i, c in enumerate(config.block_out_channels):
        assert f"{side // 2**i} × {side // 2**i}, {c} channels" in words
    assert f"text, 77 × {config.cross_attention_dim} → every transformer" in words
    assert f"{len(skip_widths(config))} dashed skip connections" in drawn.words
    inside(drawn.figure)


def test_the_letters_of_the_diagrams_can_be_read_on_a_phone():
    """A figure is about 340 CSS pixels wide there; a size in points is 1/72 of an inch."""
    for drawn in (unet_diagram(sdlearn.SPECS["sd1.5"].unet, "Title", 64), res_block()):
        inches = drawn.figure.get_figwidth()
        sizes = [text.get_fontsize() / 72 / inches * 340 for text in drawn.figure.axes[0].texts]
        assert min(sizes) > 8


def test_a_rung_is_level_and_leads_to_a_resblock():
    drawn = unet_diagram(sdlearn.SPECS["sd1.5"].unet, "Title", 64)
    (ax,) = drawn.figure.axes
    at = {text.get_text(): text.get_position()[1] for text in ax.texts}
    blocks = [t.get_position() for t in ax.texts if t.get_text() == "ResBlock"]
    for k, c in enumerate(skip_widths(sdlearn.SPECS["sd1.5"].unet), start=1):
        y = at[f"skip {k}: {c}"]
        assert any(x > 3 and abs(high - y) < 0.02 for x, high in blocks)


def test_a_diagram_of_few_colours_looks_the_same_and_is_smaller():
    drawn = unet_diagram(sdlearn.SPECS["storybook"].unet, "Title", 8)
    stored = few_colours(drawn)
    before = np.array(picture_of(drawn.figure).convert("RGB"), float)
    assert stored.words == drawn.words
    assert np.abs(np.array(stored.figure.convert("RGB"), float) - before).mean() < 3
    assert len(png(stored.figure)) < 0.6 * len(png(drawn.figure))
    # Frequent colours alone gave the skips the colour of the timestep.
    used = {colour for _, colour in stored.figure.convert("RGB").getcolors()}
    assert used >= {ImageColor.getrgb(colour) for colour in (INK, MUTED, TIME, TEXT)}


def test_the_diagram_of_a_resblock():
    drawn = res_block()
    (ax,) = drawn.figure.axes
    words = [text.get_text() for text in ax.texts]
    assert words.count("SiLU") == 3
    layers = ["norm1: GroupNorm", "conv1: 3 × 3 conv", "norm2: GroupNorm", "conv2: 3 × 3 conv"]
    assert [word for word in words if word in layers] == layers
    assert "residual\nconnection" in words
    inside(drawn.figure)


def inside(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    for text in figure.axes[0].texts:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert box.y0 >= 0, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()
