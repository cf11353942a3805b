"""What is painted in the playground: masks, hints, and the canvas that both are painted on."""

import base64
import io
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

from sdlearn import ControlNet, storybook
from sdlearn.course.widgets import Playground, canvas
from sdlearn.course.widgets.begin_from import mask_sentence
from sdlearn.course.widgets.canvas import ERASED, PAINTED, UNTOUCHED, Canvas
from sdlearn.course.widgets.control_hint import ControlHint, hint_sentence
from sdlearn.storybook import HINTS, KINDS, POSES, Scene, Thing
from sdlearn.utils.png_metadata import GenerationSettings, controlnet_name, png_bytes
from sdlearn.utils.sampling import Sampling
from tests.playground_parts import as_png, drawn, file, text

PROMPT = "a red cat on the sand"


@pytest.fixture
def logged(caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    with caplog.at_level(logging.WARNING):
        yield
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


@pytest.fixture(scope="module")
def controlnet(tiny_storybook):
    return trained(tiny_storybook, 0)


def trained(sd, seed: int) -> ControlNet:
    """A ControlNet whose zero convolutions are no longer zero."""
    net = ControlNet.from_unet(sd.unet).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(seed)
    convs = [*net.controlnet_down_blocks, net.controlnet_mid_block]
    for conv in [*convs, net.controlnet_cond_embedding.conv_out]:
        conv.weight.normal_(std=0.3, generator=draw)
    return net


@pytest.fixture
def playground(tiny_storybook, controlnet, logged):
    made = Playground(tiny_storybook, PROMPT, controlnet)
    made.panels[0].controls["steps"].value = 4
    yield made
    made.stop()
    made.wait()


@pytest.fixture
def panel(playground):
    return playground.panels[0]


def speckled(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8))


def square(top: int = 20, left: int = 8, side: int = 24) -> np.ndarray:
    """The marks of a painted square."""
    cells = np.zeros((64, 64), np.uint8)
    cells[top : top + side, left : left + side] = PAINTED
    return cells


def stroke(target: Canvas, cells: np.ndarray) -> None:
    """What the page sends when a stroke ends."""
    target.set_state({"marks": canvas.encode(cells)})


# ------------------------------------------------------------------------------------- the canvas


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (9, 4), (64, 64)])
@pytest.mark.parametrize("marks", [1, 2, 3])
def test_runs_give_the_marks_back(shape, marks):
    rng = np.random.default_rng(marks)
    for cells in (rng.integers(0, marks, shape, np.uint8), np.full(shape, marks - 1, np.uint8)):
        runs = canvas.encode(cells)
        assert (canvas.decode(runs, *shape) == cells).all()
        assert all(type(each) is int for each in runs)
        assert all(a != b for a, b in zip(runs[::2], runs[2::2], strict=False))
        assert (runs == []) == (not cells.any())


def test_runs_go_row_by_row():
    assert canvas.encode(np.array([[0, 1, 1], [1, 2, 0]], np.uint8)) == [0, 1, 1, 3, 2, 1, 0, 1]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([1], "in whole numbers"), ([1, 2, 1], "in whole numbers"), ([True, 12], "whole numbers"),
        ([1.5, 12], "whole numbers"), ([3, 12], r"the marks \[3\]"), ([-1, 12], r"the marks \[-1"),
        ([1, 11], "they cover 11"), ([1, 13], "they cover 13"), ([1, 12, 0, 0], "has length 0"),
        ([1, 20, 0, -8], "has length -8"), (["1", "12"], "whole numbers"),
        ([1, 10**30], "they cover"),
    ],
)  # fmt: skip
def test_what_are_no_marks_is_refused_and_changes_nothing(runs, said):
    with pytest.raises(ValueError, match=said) as caught:
        canvas.decode(runs, 3, 4)
    assert "marks must be runs of 0, 1 or 2 over 12 pixels" in str(caught.value)
    target = Canvas(rows=3, columns=4)
    target.set_state({"marks": [1, 5, 0, 7]})
    with pytest.raises(traitlets.TraitError):
        target.set_state({"marks": runs})
    assert target.marks == [1, 5, 0, 7]
    assert (target.cells == PAINTED).sum() == 5


def test_a_mask_and_its_marks():
    cells = square()
    mask = canvas.mask_of(cells)
    assert (mask.mode, mask.size) == ("L", (64, 64))
    assert (np.array(mask) == 255 * (cells == PAINTED)).all()
    assert (canvas.cells_of(mask, 64, 64) == cells).all()
    assert (canvas.cells_of(mask.resize((128, 128)), 64, 64) == cells).all()
    assert canvas.mask_of(np.full((4, 4), ERASED, np.uint8)) is None
    assert not canvas.cells_of(None, 2, 3).any()
    shades = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    assert canvas.cells_of(shades, 1, 4).tolist() == [[0, 0, 1, 1]]
    other = np.array(canvas.mask_of(canvas.inverted(cells)))
    assert (other == 255 - np.array(mask)).all()


def test_strokes_over_a_hint_are_white_and_the_eraser_is_black():
    base, cells = speckled(), np.zeros((64, 64), np.uint8)
    cells[0], cells[1] = PAINTED, ERASED
    for under in (base, None):
        shades = np.array(canvas.painted_over(under, cells))
        rest = 0 if under is None else np.array(base)[2:]
        assert (shades[0] == 255).all()
        assert (shades[1] == 0).all()
        assert (shades[2:] == rest).all()
    assert canvas.painted_over(base, cells).size == (64, 64)


@pytest.mark.parametrize(
    ("painted", "said"),
    [(0, "Nothing is painted, so the whole image is redrawn."),
     (1, "0.0 % of the image is painted: 1 of 4,096 pixels. Only this region is repainted."),
     (480, "12 % of the image is painted: 480 of 4,096 pixels."),
     (4096, "100 % of the image is painted: 4,096 of 4,096 pixels.")],
)  # fmt: skip
def test_what_is_said_of_a_mask(painted, said):
    assert mask_sentence(painted, 4096).replace("\N{NO-BREAK SPACE}", " ").startswith(said)


@pytest.mark.parametrize("scale", [0, 0.05, 1, 2])
@pytest.mark.parametrize("lit", [0, 0.1, 1])
def test_what_is_said_of_a_hint(scale, lit):
    said = hint_sentence(lit, scale)
    assert ("the ControlNet is off" in said) == (lit * scale == 0)
    assert ("The control scale is 0" in said) == (lit > 0 and scale == 0)
    assert (f"at scale {scale:g}." in said) == (lit * scale > 0)


# ----------------------------------------------------------------------------------------- a mask


def begin(panel, start: Image.Image, cells: np.ndarray | None = None) -> None:
    """Begin from an image, and paint on it."""
    panel.source.upload.value = file(as_png(start), "mine.png")
    if cells is not None:
        stroke(panel.source.box.canvas, cells)


@pytest.mark.parametrize(("strength", "n"), [(0.5, 1), (1.0, 1), (1.0, 2), (0.0, 1)])
def test_only_the_painted_region_is_repainted(playground, panel, strength, n):
    start, cells = speckled(), square()
    assert panel.source.box.layout.display == "none"
    begin(panel, start, cells)
    assert panel.source.box.layout.display is None
    assert text(panel.source.box.message).startswith("14\N{NO-BREAK SPACE}% of the image is paint")
    panel.source.strength.value, panel.controls["n"].value = strength, n
    drawn(playground)
    expected = panel.sd.inpaint(
        PROMPT, start, canvas.mask_of(cells), strength=strength, steps=4, n=n, progress=False
    )
    found = panel.drawing.images
    assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]
    same = (np.array(found[-1]) == np.array(start)).all(axis=2)
    assert same[cells == UNTOUCHED].all()
    assert same[cells == PAINTED].mean() < 0.1
    assert f"from an image with 14\N{NO-BREAK SPACE}% repainted, strength {strength:g}" in text(
        panel.viewer.caption
    )
    panel.viewer.step.value = 1
    assert panel.viewer.step.max == max(1, round(4 * strength))
    assert panel.image.tobytes() == expected[0].tobytes()


def test_without_paint_the_whole_image_is_drawn_over(playground, panel):
    start = speckled()
    begin(panel, start, square())
    painted = drawn(playground)
    panel.source.box.clear.click()
    assert text(panel.source.box.message).startswith("Nothing is painted")
    found = drawn(playground)
    (expected,) = panel.sd.image_to_image(PROMPT, start, strength=0.6, steps=4, progress=False)
    assert found.tobytes() == expected.tobytes() != painted.tobytes()


def test_the_mask_is_inverted_and_goes_with_its_image(panel):
    begin(panel, speckled(), square())
    before = np.array(panel.settings().mask)
    panel.source.box.invert.click()
    assert (np.array(panel.settings().mask) == 255 - before).all()
    begin(panel, speckled(1))
    assert panel.settings().mask is None
    stroke(panel.source.box.canvas, square())
    panel.source.noise.click()
    assert (panel.settings().image, panel.settings().mask) == (None, None)


def test_the_canvas_shows_the_image_to_begin_from(panel):
    target = panel.source.box.canvas
    assert target.background == ""
    begin(panel, speckled())
    data = base64.b64decode(target.background.removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(data)).tobytes() == speckled().tobytes()
    assert (target.shown_width, target.columns, target.rows) == (384, 64, 64)
    assert (target.label, target.erased) == ("The region to repaint", UNTOUCHED)
    assert target.paint[3] < 255  # the image can be seen below the paint


def test_the_controls_have_room_for_a_canvas_while_one_is_shown(panel):
    assert panel.left.layout.flex == "0 1 25em"
    begin(panel, speckled())
    assert panel.left.layout.flex == "0 1 25em"  # folded away
    panel.more.selected_index = 0
    assert panel.left.layout.flex == "0 1 34em"
    panel.source.noise.click()
    assert panel.left.layout.flex == "0 1 25em"
    panel.more.selected_index, panel.control_fold.selected_index = None, 0
    assert panel.left.layout.flex == "0 1 34em"


def test_each_panel_and_each_drawing_has_its_own_mask(playground, panel):
    begin(panel, speckled(), square())
    first, asked = drawn(playground), panel.settings()
    playground.compare.value = True
    second = playground.panels[1]
    assert second.settings() == asked
    stroke(second.source.box.canvas, square(top=0))
    assert panel.settings() == asked
    drawn(playground)
    (expected,) = panel.sd.inpaint(
        PROMPT, speckled(), canvas.mask_of(square(top=0)), strength=0.6, steps=4, progress=False
    )
    assert second.image.tobytes() == expected.tobytes() != panel.image.tobytes()
    panel.source.noise.click()
    playground.history.tiles.buttons[2].click()  # the first drawing
    assert panel.settings() == asked
    assert panel.image.tobytes() == first.tobytes()
    assert (second.source.box.canvas.cells == square(top=0)).all()


def test_the_cells_of_a_table_keep_the_mask_and_the_hint(playground, panel, controlnet):
    begin(panel, speckled(), square())
    stroke(panel.control.box.canvas, square(top=2))
    xy = playground.xy
    xy.x.value, xy.x_values.value = "guidance_scale", "1, 4"
    xy.y.value, xy.y_values.value = "seed", "0, 3"
    xy.button.click()
    playground.wait()
    assert text(xy.message) == "Done: 4 images."
    hint = panel.control.hint
    for j, seed in enumerate((0, 3)):
        for i, scale in enumerate((1.0, 4.0)):
            (expected,) = panel.sd.inpaint(
                PROMPT, speckled(), canvas.mask_of(square()), strength=0.6, steps=4, seed=seed,
                guidance_scale=scale, control=(controlnet, hint), progress=False,
            )  # fmt: skip
            assert xy.images[j, i].tobytes() == expected.tobytes()


def saved(panel) -> bytes:
    link = re.search(r'base64,([^"]+)"', panel.viewer.link.value)[1]
    return base64.b64decode(link)


def test_a_saved_image_holds_its_mask_and_its_hint(playground, panel, controlnet):
    begin(panel, speckled(), square())
    stroke(panel.control.box.canvas, square(top=2))
    panel.control.scale.value, panel.source.strength.value = 0.5, 0.75
    found, content = drawn(playground), saved(panel)
    other = Playground(panel.sd, "a blue house", controlnet)
    other.panels[0].load.value = file(content, "cat.png")
    assert text(other.panels[0].message) == "These are the settings of cat.png. Press Draw."
    assert (other.panels[0].source.box.canvas.cells == square()).all()
    assert other.panels[0].control.scale.value == 0.5
    assert drawn(other).tobytes() == found.tobytes()


# ----------------------------------------------------------------------------------------- a hint


def test_a_drawn_hint_controls_the_drawing(playground, panel, controlnet):
    before = drawn(playground)
    assert text(panel.control.box.message) == "The hint is empty, so the ControlNet is off."
    assert panel.settings().hint is None
    stroke(panel.control.box.canvas, square())
    assert "controls the next drawing at scale 1." in text(panel.control.box.message)
    hint = Image.fromarray((square() * np.uint8(255))[..., None].repeat(3, axis=2))
    images = {}
    for scale in (0.0, 0.5, 1.0, 2.0):
        panel.control.scale.value = scale
        (expected,) = panel.sd.text_to_image(
            PROMPT, steps=4, control=(controlnet, hint), control_scale=scale, progress=False
        )
        images[scale] = drawn(playground).tobytes()
        assert images[scale] == expected.tobytes()
        assert f"control scale {scale:g}" in text(panel.viewer.caption)
    assert images[0.0] == before.tobytes()
    assert len(set(images.values())) == 4
    panel.control.scale.value = 0
    assert "The control scale is 0, so the ControlNet is off." in text(panel.control.box.message)
    panel.control.box.clear.click()
    panel.control.scale.value = 1
    assert drawn(playground).tobytes() == before.tobytes()


def test_scale_0_does_not_run_the_controlnet(playground, panel, controlnet, monkeypatch):
    stroke(panel.control.box.canvas, square())
    panel.control.scale.value = 0
    monkeypatch.setattr(controlnet, "forward", lambda *_: 1 / 0)
    drawn(playground)
    assert text(panel.message).startswith("Done in ")


@pytest.mark.parametrize("name", HINTS)
def test_ready_hints_are_the_storybook_s(panel, name):
    control = panel.control
    draw = getattr(storybook, name)
    for kind in ("person",) if name == "pose" else KINDS:
        control.kind.value, control.ready.value = kind, name
        for x, y, size in ((0.5, 0.62, 0.4), (0.0, 1.0, 0.2), (1.0, 0.0, 0.6)):
            control.x.value, control.y.value, control.size.value = x, y, size
            pose = POSES[2] if kind == "person" else None
            control.pose.value = POSES[2]
            control.use.click()
            thing = Thing(kind, "red", "plain", x, y, size, pose)
            expected = draw(Scene("day", control.ground.value, (thing,)), 64)
            shown = canvas.painted_over(control.base, control.box.canvas.cells)
            assert shown.tobytes() == expected.tobytes()


def test_only_a_person_has_a_pose(panel):
    control = panel.control
    control.kind.value = "house"
    assert control.pose.layout.display == "none"
    assert {each.layout.display for each in (control.kind, control.scale, control.x)} == {None}
    control.ready.value = "pose"
    assert (control.kind.value, control.kind.disabled) == ("person", True)
    assert control.pose.layout.display is None
    control.ready.value = "edges"
    assert not control.kind.disabled


def test_lines_are_drawn_over_a_ready_hint_and_kept(playground, panel):
    control = panel.control
    control.use.click()
    cells = np.zeros((64, 64), np.uint8)
    cells[:8], cells[-8:] = PAINTED, ERASED
    stroke(control.box.canvas, cells)
    hint = np.array(control.hint)
    assert (hint[:8] == 255).all()
    assert (hint[-8:] == 0).all()
    assert (hint[8:-8] == np.array(control.base)[8:-8]).all()
    drawn(playground)
    control.box.clear.click()
    assert control.hint is None
    playground.history.tiles.buttons[0].click()
    assert (np.array(control.hint) == hint).all()


def test_without_a_controlnet_there_is_no_fold_and_a_hint_is_refused(
    playground, panel, tiny_storybook
):
    stroke(panel.control.box.canvas, square())
    drawn(playground)
    other = Playground(tiny_storybook, "a blue house").panels[0]
    assert panel.control_fold in panel.left.children
    assert other.control_fold not in other.left.children
    before = other.settings()
    other.load.value = file(saved(panel), "cat.png")
    assert text(other.message) == (
        "Nothing was changed: the image was made with a ControlNet and a hint, but this playground "
        "has no ControlNet; make one with Playground(sd, controlnet=...)."
    )
    assert other.settings() == before


def test_another_controlnet_is_named(playground, panel, tiny_storybook, controlnet):
    stroke(panel.control.box.canvas, square())
    drawn(playground)
    different = trained(tiny_storybook, 1)
    other = Playground(tiny_storybook, "a blue house", different).panels[0]
    other.load.value = file(saved(panel), "cat.png")
    names = controlnet_name(controlnet), controlnet_name(different)
    assert names[0] != names[1]
    assert text(other.message).replace("&#x27;", "'") == (
        f"These are the settings of cat.png. But the image was made with the ControlNet "
        f"'{names[0]}'; this is '{names[1]}', which draws something else. Press Draw."
    )
    with pytest.raises(ValueError, match=f"this is '{names[1]}'"):
        panel.made.trajectory(tiny_storybook, different)
    with pytest.raises(ValueError, match="there is no ControlNet here"):
        panel.made.trajectory(tiny_storybook)


def test_a_control_scale_that_the_slider_cannot_show_changes_nothing(panel):
    how = Sampling(steps=4, guidance_scale=3.0, sampler="ddim")
    made = GenerationSettings("x", sampling=how, hint=speckled(), control_scale=2.5)
    before = panel.settings()
    panel.load.value = file(png_bytes(speckled(), made), "cat.png")
    assert text(panel.message) == (
        "Nothing was changed: control_scale is 2.5; its control goes from 0 to 2."
    )
    assert panel.settings() == before


def test_a_controlnet_of_another_model_is_refused(tiny_storybook):
    config = replace(tiny_storybook.unet.config, cross_attention_dim=24)
    with pytest.raises(ValueError, match="the ControlNet is for another U-Net: its cross_att"):
        Playground(tiny_storybook, PROMPT, ControlNet(config))


@pytest.mark.parametrize("resolution", [16, 64, 96])
def test_the_canvas_has_the_model_s_size(tiny_storybook, controlnet, resolution, logged):
    control = ControlHint(replace(tiny_storybook.spec, resolution=resolution), controlnet)
    control.use.click()
    assert control.hint.size == (resolution, resolution)
    assert control.box.size.min <= control.box.canvas.brush <= control.box.size.max
