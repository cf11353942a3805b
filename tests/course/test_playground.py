"""The playground, driven as a reader drives it: by its controls and its buttons."""

import base64
import io
import logging
import random
import re
import time
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.clip import CLIPTextConfig
from sdlearn.course import attention_maps
from sdlearn.course.figures import heatmap
from sdlearn.course.figures.trajectory import channel_mosaic, pick_steps
from sdlearn.course.widgets import Playground, controls
from sdlearn.course.widgets.drawing import attention_sentence, percent
from sdlearn.course.widgets.panel import Panel
from sdlearn.course.widgets.viewer import MAP
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook.captions import caption, unknown_words
from sdlearn.storybook.scenes import sample_scene
from sdlearn.utils.png_metadata import GenerationSettings, png_bytes
from sdlearn.utils.sampling import Sampling, knobs
from sdlearn.utils.sampling_checks import check_sampling
from tests.playground_parts import as_png, drawn, file, press, text

PROMPT = "a red cat on the sand"


@pytest.fixture
def playground(tiny_storybook, caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    made = Playground(tiny_storybook, PROMPT)
    made.panels[0].controls["steps"].value = 3
    with caplog.at_level(logging.WARNING):
        yield made
        made.stop()
        made.wait()
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


@pytest.fixture
def panel(playground):
    return playground.panels[0]


def speckled() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))


def test_it_draws_the_library_s_picture(playground, panel, tiny_storybook):
    panel.negative.value, panel.controls["sampler"].value = "snow", "euler"
    panel.controls["seed"].value, panel.controls["guidance_scale"].value = 7, 2.5
    found = drawn(playground)
    (expected,) = tiny_storybook.text_to_image(
        PROMPT, negative_prompt="snow", steps=3, guidance_scale=2.5, sampler="euler", seed=7,
        progress=False,
    )  # fmt: skip
    assert found.tobytes() == expected.tobytes()
    assert re.fullmatch(r"Done in \d+\.\d s\.", text(panel.message))
    settings = "seed 7, 3 steps of euler, guidance 2.5, negative prompt “snow”"
    assert text(panel.viewer.caption) == f"“{PROMPT}”, {settings}"
    assert panel.progress.description == "3 of 3"
    assert f'alt="The image drawn for: {PROMPT}"' in panel.viewer.view.value
    assert panel.progress.value == panel.progress.max == 3


@pytest.mark.parametrize(
    ("control", "value"),
    [("prompt", "a blue house"), ("negative", "a house"), ("seed", 1), ("steps", 2),
     ("guidance_scale", 12.0), ("sampler", "ddpm")],
)  # fmt: skip
def test_every_control_matters(playground, panel, control, value):
    before = drawn(playground)
    shown = panel.controls | {"prompt": panel.prompt, "negative": panel.negative}
    shown[control].value = value
    assert drawn(playground).tobytes() != before.tobytes()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(playground, panel, sampler):
    panel.controls["sampler"].value, panel.controls["steps"].value = sampler, 4
    drawn(playground)
    assert text(panel.message).startswith("Done in ")


@pytest.mark.parametrize("event", ["submit", "focus"])
def test_enter_draws_and_nothing_else_does(playground, panel, event):
    panel.prompt._handle_custom_msg({"event": event}, [])
    playground.wait()
    assert (panel.image is not None) == (event == "submit")


def test_unknown_words_are_named(playground, panel):
    panel.prompt.value, panel.negative.value = "a red zebra", "a unicorn"
    drawn(playground)
    assert text(panel.message).endswith(" s. The storybook model never read: zebra, unicorn.")


def test_a_prompt_that_is_too_long_is_cut_with_a_sentence_and_not_a_page(playground, panel):
    panel.prompt.value = "a red cat and " * 60
    drawn(playground)
    said = text(panel.message)
    assert "s. The prompt " in said
    assert "tokens, of which the text encoder reads" in said
    assert len(said) < 250


def test_a_photo_is_upright_on_white_and_cut_to_its_middle(panel):
    shades = np.zeros((64, 128, 4), np.uint8)
    shades[:, 32:64] = [255, 0, 0, 255]  # held, the upper half of the middle square
    photo, exif = Image.fromarray(shades), Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be looked at
    content = io.BytesIO()
    photo.save(content, "PNG", exif=exif)
    panel.source.upload.value = file(content.getvalue(), "photo.png")
    page = np.array(panel.source.start)
    assert page.shape == (64, 64, 3)
    assert (page[:32] == [255, 0, 0]).all()
    assert (page[32:] == 255).all()


def test_a_strength_that_leaves_no_step_says_so(playground, panel):
    panel.source.upload.value = file(as_png(speckled()), "mine.png")
    panel.source.strength.value = 0.0
    drawn(playground)
    assert "Nothing was drawn over the image" in text(panel.message)
    assert panel.progress.value == panel.progress.max == 1
    assert panel.viewer.words.layout.display == "none"


def test_the_next_seed_is_drawn_at_once(playground, panel):
    panel.controls["seed"].value = 6
    playground.next.click()
    playground.wait()
    assert panel.made.sampling.seed == panel.controls["seed"].value == 7


def test_the_fold_has_buttons_with_words_that_it_knows_and_they_append(panel):
    fold = panel.prompts.vocabulary
    assert fold.children[0].children == ()
    fold.selected_index = 0
    rows = fold.children[0].children[1:]
    buttons = {b.description: b for row in rows for b in row.children[1:]}
    for words in ("toadstool", "spotted", "on a sandy beach", "by moonlight"):
        assert words in buttons
    assert unknown_words(" ".join(buttons)) == []
    fold.selected_index = None
    fold.selected_index = 0
    assert fold.children[0].children[1:] == rows
    panel.prompt.value = ""
    for words in ("a", "red", "house"):
        buttons[words].click()
    assert panel.prompt.value == "a red house"


def test_a_model_of_other_words_has_no_such_help(tiny_storybook):
    other = Panel(FakeModel(tiny_storybook), PROMPT, "A")
    assert len(other.prompts.children) == 2


class FakeModel:
    """The tiny model under another name."""

    def __init__(self, sd):
        self.spec, self.vae, self.sd = replace(sd.spec, name="other"), sd.vae, sd


def test_examples_and_dice_write_prompts_that_it_knows(panel):
    for example in panel.prompts.examples.options[1:]:
        panel.prompts.examples.value = example
        assert panel.prompt.value == example
        assert unknown_words(example) == []
    panel.prompts.rng = random.Random(3)
    panel.prompts.dice.click()
    rng = random.Random(3)
    assert panel.prompt.value == caption(sample_scene(rng), rng)
    seeds = set()
    for _ in range(5):
        panel.dice.click()
        seeds.add(panel.controls["seed"].value)
    assert len(seeds) > 2


def test_a_picture_to_begin_from(playground, panel, tiny_storybook):
    start = speckled()
    assert panel.source.strength.disabled
    panel.source.upload.value = file(as_png(start), "mine.png")
    assert text(panel.message) == "The next drawing begins from mine.png."
    assert panel.source.start.size == (64, 64)
    assert not panel.source.strength.disabled
    panel.controls["steps"].value, panel.source.strength.value = 4, 0.5
    found = drawn(playground)
    (expected,) = tiny_storybook.image_to_image(
        PROMPT, start.crop((15, 0, 105, 90)), strength=0.5, steps=4, height=64, width=64,
        progress=False,
    )  # fmt: skip
    assert found.tobytes() == expected.tobytes()
    assert panel.progress.max == 2
    panel.source.noise.click()
    assert drawn(playground).tobytes() != found.tobytes()
    panel.source.again.click()
    assert panel.source.start.tobytes() == panel.image.tobytes()


@pytest.mark.parametrize("content", [b"", b"no picture", as_png(speckled())[:9000]])
def test_a_file_that_is_no_picture_changes_nothing(panel, content):
    panel.source.upload.value = file(content, "notes.txt")
    assert text(panel.message).startswith("notes.txt is not an image that can be read: ")
    assert panel.source.start is None


def test_stop_keeps_the_last_picture(playground, panel, monkeypatch):
    before, view, caption = drawn(playground), panel.viewer.view.value, panel.viewer.caption.value
    seen = []

    def stop_in_the_second_step(change):
        seen.append(change["new"])
        if change["new"] == 2:
            playground.stopper.click()

    panel.controls["steps"].value = 50
    panel.progress.observe(stop_in_the_second_step, "value")
    drawn(playground)
    assert seen == [0, 1, 2, 3]  # and then that of the drawing that is shown again
    assert "Stopped" in text(panel.message)
    assert panel.image is before
    assert (panel.viewer.view.value, panel.viewer.caption.value) == (view, caption)
    assert (panel.progress.value, panel.progress.max) == (3, 3)
    assert playground.worker is not None
    assert not playground.worker.is_alive()


def test_drawing_returns_at_once_and_drawing_again_stops_the_first(playground, panel, monkeypatch):
    entered, leave, begun = Event(), Event(), []
    real = panel.draw

    def held(settings, stopping):
        begun.append(settings.sampling.steps)
        entered.set()
        leave.wait(20)
        real(settings, stopping)

    monkeypatch.setattr(panel, "draw", held)
    panel.controls["steps"].value = 60
    playground.button.click()
    assert entered.wait(20)
    assert panel.image is None
    panel.controls["steps"].value = 2
    playground.button.click()
    time.sleep(0.5)
    assert begun == [60]  # the second waits for its turn
    leave.set()
    playground.wait()
    assert begun == [60, 2]
    assert panel.made.sampling.steps == 2


def test_what_goes_wrong_is_said_and_raised(playground, panel, monkeypatch):
    before = drawn(playground)
    monkeypatch.setattr(panel.sd.unet, "forward", lambda *_: 1 / 0)
    playground.button.click()
    with pytest.raises(ZeroDivisionError):
        playground.wait()
    assert text(panel.message) == "Drawing failed with ZeroDivisionError: division by zero."
    monkeypatch.undo()
    assert drawn(playground).tobytes() == before.tobytes()


def test_a_latent_that_explodes_is_said(playground, panel, monkeypatch):
    monkeypatch.setattr(panel.sd.unet, "forward", lambda z, *_: z * float("nan"))
    press(playground)
    assert text(panel.message).startswith("This cannot be drawn: the latent is not finite")


def raises(error: Exception):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("place", ["unet", "decoder", "words", "link"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
    ids=["python", "torch", "gpu"],
)
def test_full_memory_is_a_sentence_and_the_panel_stays_usable(
    playground, panel, monkeypatch, error, place
):
    before, view = drawn(playground), panel.viewer.view.value
    target, name = {
        "unet": (panel.sd.unet, "forward"),
        "decoder": (panel.sd.vae, "to_image"),
        "words": (panel.viewer, "show_words"),
        "link": (panel.viewer, "show_link"),
    }[place]
    real, calls = getattr(target, name), []

    def fail_at_first(*arguments):
        calls.append(1)
        if place in ("unet", "decoder") or len(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(target, name, fail_at_first)
    panel.controls["seed"].value = 8
    assert drawn(playground) is before
    assert text(panel.message).startswith("This cannot be drawn: there is not enough memory (")
    assert text(panel.message).endswith("; try a smaller size, fewer images or a smaller model.")
    assert panel.viewer.view.value == view
    assert panel.made.sampling.seed == 0
    monkeypatch.undo()
    assert drawn(playground).tobytes() != before.tobytes()
    assert text(panel.message).startswith("Done in ")


def test_a_photo_that_memory_cannot_hold_is_said(panel, monkeypatch):
    monkeypatch.setattr(panel.source, "set", raises(MemoryError()))
    panel.source.upload.value = file(as_png(speckled()), "wall.png")
    assert text(panel.message) == "wall.png has more pixels than the memory can hold."


@pytest.mark.parametrize(
    ("changes", "name", "highest"),
    [
        ({}, "clip_skip", 1),
        ({"text": (CLIPTextConfig(num_layers=4),)}, "clip_skip", 4),
        ({"text": (CLIPTextConfig(), CLIPTextConfig(num_layers=32)),
          "text_layer": "penultimate"}, "clip_skip", 11),
        ({"text": (CLIPTextConfig(num_layers=23),)}, "clip_skip", 23),
        ({}, "steps", 100),
        ({"schedule": NoiseSchedule(num_steps=20)}, "steps", 20),
        ({"schedule": NoiseSchedule(num_steps=20)}, "guidance_interval", 19),
        ({"resolution": 64}, "height", 1024),
        ({"resolution": 2048}, "width", 2048),
    ],
)  # fmt: skip
def test_the_ranges_of_the_controls_are_the_model_s(tiny_storybook, changes, name, highest):
    spec = replace(tiny_storybook.spec, **({"steps": 10} | changes))
    shown = controls.controls(spec)
    assert shown[name].max == highest
    asked = Sampling().with_defaults(spec)
    assert controls.sampling_of(shown, spec).with_defaults(spec) == asked
    over = {name: (0, highest + 1) if name == "guidance_interval" else highest + 8}
    with pytest.raises(ValueError, match=f"its control goes from . to {highest}$"):
        controls.show(shown, replace(asked, **over), spec)


def test_what_is_left_to_the_model_says_so(panel):
    """An empty list would look broken; and what it stands for must reach the settings as None."""
    levels, between = panel.controls["sigmas"], panel.controls["guidance_interval"]
    assert (levels.label, between.value) == ("the model's own", (0, 999))
    panel.controls["sampler"].value = "euler"
    assert panel.settings().sampling.sigmas is None
    assert panel.settings().sampling.guidance_interval is None
    levels.value, between.value = "table", (10, 999)
    assert panel.settings().sampling.sigmas == "table"
    panel.set(replace(panel.settings(), sampling=Sampling()))
    assert (levels.label, between.value) == ("the model's own", (0, 999))


def test_two_settings_side_by_side(playground, panel):
    assert playground.shown.children == (panel,)
    panel.controls["seed"].value, panel.controls["guidance_scale"].value = 5, 3.0
    playground.compare.value = True
    second = playground.panels[1]
    assert playground.shown.children == (panel, second)
    assert second.settings() == panel.settings()
    second.controls["guidance_scale"].value = 1.0
    drawn(playground)
    (alone,) = panel.sd.text_to_image(PROMPT, steps=3, seed=5, guidance_scale=1.0, progress=False)
    assert second.image.tobytes() == alone.tobytes() != panel.image.tobytes()
    playground.compare.value = False
    assert playground.shown.children == (panel,)
    panel.controls["seed"].value = 6
    playground.compare.value = True
    assert (second.controls["seed"].value, second.controls["guidance_scale"].value) == (5, 1.0)


def test_what_is_saved_can_be_drawn_again(playground, panel, tmp_path):
    with pytest.raises(ValueError, match="there is no image to save yet"):
        playground.save(tmp_path / "cat.png")
    drawn(playground)
    panel.source.again.click()
    panel.source.strength.value, panel.controls["seed"].value, panel.negative.value = 0.7, 9, "snow"
    found = drawn(playground)
    playground.save(tmp_path / "cat.png")
    content = (tmp_path / "cat.png").read_bytes()
    link = re.search(r'base64,([^"]+)"', panel.viewer.link.value)[1]
    assert base64.b64decode(link) == content

    other = Playground(panel.sd, "a blue house")
    other.panels[0].load.value = file(content, "cat.png")
    assert text(other.panels[0].message) == "These are the settings of cat.png. Press Draw."
    other.button.click()
    other.wait()
    assert other.panels[0].image.tobytes() == found.tobytes()


def saved(**sampling) -> bytes:
    how = Sampling(**{"steps": 6, "guidance_scale": 5.0, "sampler": "ddim"} | sampling)
    settings = GenerationSettings("x", sampling=how, model="storybook")
    return png_bytes(Image.new("RGB", (8, 8)), settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no picture", "old.png is not a PNG image that can be read"),
        (
            as_png(Image.new("RGB", (8, 8))),
            "old.png holds no settings; give an image that sdlearn made",
        ),
        (saved(steps=900), "steps is 900; its control goes from 1 to 100"),
        (saved(steps=200), "steps is 200; its control goes from 1 to 100"),
        (saved(guidance_scale=15.5), "guidance_scale is 15.5; its control goes from 0 to 15"),
        (saved(guidance_scale=-1.0), "guidance_scale is -1.0; its control goes from 0 to 15"),
        (saved(seed=2**31), "seed is 2147483648; its control goes from 0 to 2147483647"),
        (saved(height=2048), "height is 2048; its control goes from 8 to 1024"),
        (saved(guidance_interval=(0, 1e4)), "guidance_interval is 10000.0; its control goes from"),
        (saved(n=20), "n is 20; its control goes from 1 to 16"),
    ],
)
def test_settings_that_cannot_be_loaded_change_nothing(playground, panel, content, said):
    before = panel.settings()
    panel.load.value = file(content, "old.png")
    assert text(panel.message).startswith(f"Nothing was changed: {said}")
    assert panel.settings() == before


# --------------------------------------------------------------------------- one step of a drawing


def bytes_in(html: str) -> list[bytes]:
    """The images in the HTML or the style sheet of a widget, as pixels."""
    found = re.findall(r"data:image/png;base64,([^\")]+)", html)
    images = [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]
    return [image.convert("RGB").tobytes() for image in images]


def test_the_slider_shows_the_trajectory_s_states(playground, panel):
    panel.controls["steps"].value = 5
    drawn(playground)
    states = list(panel.made.trajectory(panel.sd))
    viewer = panel.viewer
    assert (viewer.step.value, viewer.step.max, viewer.step.disabled) == (5, 5, False)
    for state in states:
        viewer.step.value = state.step
        (estimate,) = panel.sd.to_images(state.z if state.step == 5 else state.z_0)
        assert viewer.image.tobytes() == estimate.tobytes()
        assert bytes_in(viewer.view.value) == [estimate.tobytes()]
        latent = channel_mosaic(state.z[0], 2 * MAP)
        assert bytes_in(viewer.latent.value) == [latent.tobytes()]
    assert len({s.z.numpy().tobytes() for s in states}) == 6


def test_a_tile_of_the_strip_and_the_slider_agree(playground, panel):
    panel.controls["steps"].value = 20
    drawn(playground)
    viewer, steps = panel.viewer, pick_steps(20)
    assert steps == [0, 3, 6, 9, 11, 14, 17, 20]
    assert [tile.name for tile in viewer.strip.tiles] == [f"Step {k}" for k in steps]
    on_page = bytes_in(viewer.strip.style_sheet.value)
    for k, step in enumerate(steps):
        viewer.strip.buttons[k].click()
        assert (viewer.step.value, viewer.strip.marked) == (step, k)
        assert viewer.strip.tiles[k].images[1].tobytes() == viewer.image.tobytes()
        assert on_page[2 * k + 1] == viewer.image.tobytes()
    viewer.step.value = 10
    assert viewer.strip.marked is None
    viewer.strip.buttons[7].click()  # the tile that was clicked last, again
    assert viewer.step.value == 20


def test_an_image_of_the_grid_is_the_one_that_everything_shows(playground, panel):
    panel.controls["n"].value, panel.controls["seed"].value = 3, 5
    drawn(playground)
    viewer = panel.viewer
    expected = panel.sd.text_to_image(PROMPT, steps=3, seed=5, n=3, progress=False)
    assert bytes_in(viewer.grid.style_sheet.value) == [image.tobytes() for image in expected]
    assert [tile.name for tile in viewer.grid.tiles] == ["Seed 5", "Seed 6", "Seed 7"]
    strips, maps = [], []
    for k in range(3):
        viewer.grid.buttons[k].click()
        assert viewer.image.tobytes() == panel.image.tobytes() == expected[k].tobytes()
        assert (panel.made.sampling.seed, panel.made.sampling.n) == (5 + k, 1)
        strips.append(viewer.strip.tiles[1].images[1].tobytes())
        assert f"image-a-{5 + k}.png" in viewer.link.value
        maps.append(viewer.drawing.map_at(3, 3, k))
        (alone,) = panel.sd.text_to_image(PROMPT, steps=3, seed=5 + k, progress=False)
        apart = np.abs(np.array(alone, int) - np.array(panel.image, int)).max()
        assert apart <= 1
    assert len(set(strips)) == 3
    assert not torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (40, 88)])
def test_maps_of_every_step_are_those_of_the_network(playground, panel, tiny_storybook, shape):
    panel.controls["height"].value, panel.controls["width"].value = shape
    drawn(playground)
    attention = panel.drawing.attention
    assert [each.shape[2:] for each in attention] == [(shape[0] // 8, shape[1] // 8)] * 3
    if shape != (64, 64):
        return
    looks = attention_maps.record(tiny_storybook, PROMPT, steps=3)
    for step in range(3):
        weights = [attention_maps.attention_weights(looks, layer, step) for layer in looks.q]
        for word in (2, 3):
            share = attention_maps.token_map(looks, word, torch.stack(weights).mean(0))
            assert torch.allclose(panel.drawing.map_at(step + 1, word), share, atol=1e-6)


def test_one_scale_for_all_words_and_steps(playground, panel):
    drawn(playground)
    viewer = panel.viewer
    top = max(float(step[:, 1:-1].max()) for step in panel.drawing.attention)
    assert panel.drawing.most_attention() == pytest.approx(top, abs=0)
    scales = set()
    for step in (1, 2, 3):
        for word in range(1, len(viewer.words.options) - 1):
            viewer.step.value, viewer.words.index = step, word
            weights = viewer.drawing.map_at(step, word)
            scales.add(re.search(r"White is ([\d.]+\s%)", viewer.sentence.value)[1])
            page = bytes_in(viewer.map.value)[0]
            side = 2 * MAP
            expected = np.array(heatmap(weights, top, side))
            shown = np.frombuffer(page, np.uint8)
            shown = shown.reshape(-1, len(shown) // 3 // (len(shown) // 3 // width_of(viewer)), 3)
            assert (shown[-side - 6 : -6, -side - 6 : -6, 0] == expected).all()
    assert scales == {percent(top)}


def width_of(viewer) -> int:
    data = re.search(r"base64,([^\"]+)", viewer.map.value)[1]
    return Image.open(io.BytesIO(base64.b64decode(data))).width


def test_attention_opens_on_the_first_noun(playground, panel):
    words = panel.viewer.words
    assert words.layout.display == "none"
    drawn(playground)
    assert words.options == attention_maps.prompt_tokens(panel.sd, PROMPT)
    assert words.options[3:5] == ("c", "at")  # as the tiny tokenizer spells it
    assert words.index == 3
    words.index = 2
    panel.controls["seed"].value = 1
    drawn(playground)
    assert words.index == 2  # the same prompt: the reader's choice stays
    panel.prompt.value = "two red houses at night"
    drawn(playground)
    assert words.options == attention_maps.prompt_tokens(panel.sd, panel.prompt.value)
    assert words.options[3:6] == ("hous", "e", "s")
    assert words.index == 3
    assert "Map of the token hous." in panel.viewer.map.value
    panel.prompt.value = "red at night on the sand"
    drawn(playground)
    peaks = torch.stack([step.amax(dim=(0, 2, 3)) for step in panel.drawing.attention]).amax(0)
    assert words.index == peaks[1:-1].argmax() + 1


def test_while_a_new_prompt_is_drawn_no_word_or_map_of_the_old_one_is_shown(playground, panel):
    drawn(playground)
    seen = []
    panel.viewer.view.observe(
        lambda _: seen.append((panel.viewer.words.options, panel.viewer.drawing.settings.prompt)),
        "value",
    )
    maps = []
    panel.viewer.map.observe(lambda change: maps.append(change["new"]), "value")
    panel.prompt.value = "a blue house at night"
    drawn(playground)
    new = attention_maps.prompt_tokens(panel.sd, panel.prompt.value)
    assert {words for words, _ in seen} == {new}
    assert len(seen) >= 3
    assert not [each for each in maps if "token c." in each]
    assert [each for each in maps if "token house" in each or "token hous" in each]


@pytest.mark.parametrize(
    ("mean", "said"),
    [
        (0.05, "“cat” gets 5.0 % of the attention, and 31 % where it gets most."),
        (0.0129, "“cat” gets hardly any attention: 1.3 % (an equal share would be 1.3 %), "
                 "and 31 % where it gets most."),
    ],
)  # fmt: skip
def test_what_is_said_of_the_attention(mean, said):
    weights = torch.full((8, 8), (64 * mean - 0.31) / 63)
    weights[3, 4] = 0.31
    assert attention_sentence("cat", weights, 1 / 77).replace("\N{NO-BREAK SPACE}", " ") == said


# ----------------------------------------------------------------------------- one drawing at once


def shown_drawing(panel) -> tuple:
    """Everything that a panel shows, as pixels, numbers and words."""
    viewer = panel.viewer
    return (
        bytes_in(viewer.view.value), bytes_in(viewer.strip.style_sheet.value),
        bytes_in(viewer.latent.value), bytes_in(viewer.map.value), viewer.caption.value,
        viewer.words.options, viewer.step.value, viewer.step.max, viewer.link.value,
        panel.progress.value, panel.progress.max, panel.progress.description,
    )  # fmt: skip


def test_draw_draw_stop_leaves_one_drawing(playground, panel):
    drawn(playground)
    before = shown_drawing(panel)
    pressed = []

    def press(change):
        if change["new"] == 2 and panel.progress.max == 40:
            pressed.append("draw again")
            panel.controls["steps"].value, panel.prompt.value = 30, "a blue house"
            playground.button.click()
        elif change["new"] == 7 and panel.progress.max == 30:
            pressed.append("stop")
            playground.stopper.click()

    panel.progress.observe(press, "value")
    panel.controls["steps"].value, panel.prompt.value = 40, "a green tree"
    playground.button.click()
    deadline = time.monotonic() + 120
    while pressed != ["draw again", "stop"] and time.monotonic() < deadline:
        time.sleep(0.01)
    playground.wait()
    assert pressed == ["draw again", "stop"]
    assert shown_drawing(panel) == before
    assert text(panel.message).startswith("Stopped after step 7 of 30; what you see is the last")


def test_a_first_drawing_that_is_stopped_leaves_nothing(playground, panel):
    panel.progress.observe(lambda change: change["new"] == 2 and playground.stop(), "value")
    panel.controls["steps"].value = 30
    press(playground)
    assert panel.image is None
    assert (panel.viewer.view.value, panel.viewer.map.value, panel.progress.value) == ("", "", 0)
    assert panel.viewer.strip.tiles == ()
    assert "there is no finished image yet" in text(panel.message)


def test_stop_is_grey_while_there_is_nothing_to_stop(playground, panel):
    states = []
    panel.progress.observe(lambda _: states.append(playground.stopper.disabled), "value")
    assert playground.stopper.disabled
    drawn(playground)
    assert set(states) == {False}
    assert playground.stopper.disabled
    assert not playground.button.disabled


# -------------------------------------------------------------------------- the knobs and samplers

OTHER = {
    "steps": 2, "guidance_scale": 1.5, "seed": 3, "height": 32, "width": 96, "n": 2,
    "sigmas": "karras", "eta": 0.5, "guidance_rescale": 0.7, "guidance_interval": (100.0, 700.0),
    "clip_skip": 1,
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_knob_is_grey_where_the_library_refuses_it_and_says_why(panel, sampler):
    panel.controls["sampler"].value = sampler
    assert {*OTHER, "sampler"} == {*panel.controls} == {*knobs(Sampling)}
    for name, value in OTHER.items():
        control, own = panel.controls[name], panel.settings().sampling
        try:
            check_sampling(panel.sd.resolve(replace(own, **{name: value})), panel.sd.spec)
        except ValueError:
            assert control.disabled
            reason = panel.reasons[name]
            assert sampler in reason.value
            assert reason.layout.display is None
        else:
            assert not control.disabled
            control.value = value
            assert getattr(panel.settings().sampling, name) == value
            assert name not in panel.reasons or panel.reasons[name].layout.display == "none"
            panel.set(GenerationSettings(PROMPT, sampling=Sampling(sampler=sampler, steps=2)))


def test_what_a_sampler_refuses_goes_when_it_is_chosen(playground, panel):
    panel.controls["eta"].value = 0.5
    panel.controls["sampler"].value = "dpm_pp_2m"
    assert panel.controls["eta"].value == 0
    assert panel.controls["sigmas"].options[1:] == ("table", "karras", "uniform_lambda")
    panel.controls["sigmas"].value = "uniform_lambda"
    panel.controls["sampler"].value = "euler"
    assert panel.controls["sigmas"].value == "the model's own"
    drawn(playground)
    assert text(panel.message).startswith("Done in ")


def test_no_label_has_a_number_in_brackets(panel):
    for control in panel.controls.values():
        assert re.fullmatch(r"[A-Z][A-Za-z ]+( \([a-z]+\))?", control.description)


# --------------------------------------------------------------------------------- the comparisons


def test_the_cells_of_a_table_are_the_library_s_images(playground, panel):
    xy = playground.xy
    xy.x.value, xy.x_values.value = "guidance_scale", "1, 4"
    xy.y.value, xy.y_values.value = "prompt", "a blue house\na green tree, at night"
    panel.controls["n"].value, panel.controls["seed"].value = 3, 4
    xy.button.click()
    playground.wait()
    assert text(xy.message) == "Done: 4 images."
    for j, prompt in enumerate(("a blue house", "a green tree, at night")):
        for i, scale in enumerate((1.0, 4.0)):
            (expected,) = panel.sd.text_to_image(
                prompt, steps=3, guidance_scale=scale, seed=4, progress=False
            )
            assert xy.images[j, i].tobytes() == expected.tobytes()
    assert bytes_in(xy.view.value) == [xy.images[cell].tobytes() for cell in sorted(xy.images)]
    assert re.findall(r"<th [^>]*>([^<]*)", xy.view.value) == [
        "Guidance scale 1", "Guidance scale 4", "“a blue house”", "“a green tree, at night”",
    ]  # fmt: skip


def test_any_setting_can_be_an_axis(playground, panel):
    xy = playground.xy
    assert {value for _, value in xy.x.options} == {
        *knobs(Sampling),
        "prompt",
        "negative_prompt",
    } - {"n"}
    for _, name in xy.x.options:
        xy.x.value = name
        assert xy.cells(panel.settings()) if name != "seed" else True
    xy.x.value, xy.x_values.value = "sampler", "ddim, euler"
    xy.y.value, xy.y_values.value = "eta", "0, 0.5"
    xy.button.click()
    playground.wait()
    assert text(xy.message) == "Done: 4 images."
    refused = [cell for cell, image in xy.images.items() if isinstance(image, str)]
    assert refused == [(1, 1)]
    assert xy.images[1, 1] == "Not possible: eta is 0.5; the sampler euler has no eta, ddim has."


@pytest.mark.parametrize(
    ("x", "values", "said"),
    [
        ("steps", "5, many", "Steps is 'many'; it must be a whole number from 1 to 100"),
        ("steps", "500", "Steps is '500'; it must be a whole number from 1 to 100"),
        ("eta", "2", "Fresh noise (eta) is '2'; it must be a number from 0 to 1"),
        ("sampler", "eulers", "Sampler is 'eulers'; it must be one of ddim, ddpm, "),
        (
            "guidance_interval",
            "5",
            "Guided timesteps is '5'; it must be 2 numbers from 0 to 999, separated",
        ),
        ("seed", "1", "columns and rows are both Seed; choose two different settings"),
        ("steps", " , ", "Steps has no values; give at least one"),
        ("prompt", "\n", "Prompt has no values; write each on a line of its own"),
        ("steps", "1," * 20, "the table would have 60 images; it holds at most 36"),
    ],
)
def test_values_that_are_not_accepted_are_one_sentence(playground, x, values, said):
    playground.xy.x.value, playground.xy.x_values.value = x, values
    playground.xy.button.click()
    playground.wait()
    assert (
        text(playground.xy.message)
        .replace("&#x27;", "'")
        .startswith(f"This cannot be drawn: {said}")
    )
    assert playground.xy.view.value == ""


def test_a_table_can_be_stopped(playground, panel):
    xy, seen = playground.xy, []

    def stop(change):
        seen.append(change["new"])
        if "image 3 of 9" in change["new"]:
            playground.stopper.click()

    xy.message.observe(stop, "value")
    xy.button.click()
    playground.wait()
    assert text(xy.message) == "Stopped after 2 of 9 images."
    assert len(xy.images) == 2


def test_the_difference_of_two_drawings(playground, panel):
    playground.compare.value = True
    assert "Draw both" in playground.difference.message.value
    second = playground.panels[1]
    second.controls["guidance_scale"].value = 9.0
    drawn(playground)
    a, b = (np.array(each.image, int) for each in (panel, second))
    apart = np.abs(a - b)
    assert apart.max() > 0
    for gain in (1, 4, 16):
        playground.difference.gain.value = gain
        shown = np.array(playground.difference.image)
        assert (shown == np.minimum(gain * apart, 255)).all()
        said = text(playground.difference.message)
        assert said == (
            f"On average A and B differ by {apart.mean():.1f} of 255 grey levels. "
            f"White is a difference of {255 / gain:.0f} grey levels or more."
        )
    second.controls["width"].value = 96
    drawn(playground)
    assert playground.difference.image is None
    assert "A has 64 × 64 pixels and B 96 × 64" in playground.difference.message.value


def test_the_history_brings_back_settings_and_bytes(playground, panel):
    panel.controls["n"].value, panel.negative.value = 2, "snow"
    first, asked = drawn(playground), panel.settings()
    before = shown_drawing(panel)
    panel.controls["n"].value, panel.prompt.value, panel.negative.value = 1, "a blue house", ""
    panel.controls["steps"].value, panel.controls["sampler"].value = 5, "euler"
    panel.source.again.click()
    second, later = drawn(playground), panel.settings()
    tiles = playground.history.tiles
    assert [tile.images[0].tobytes() for tile in tiles.tiles] == [second.tobytes(), first.tobytes()]
    assert tiles.tiles[1].name == (
        f"seeds 0 to 1, 3 steps of ddim, guidance 3, negative prompt “snow”: {PROMPT}"
    )
    tiles.buttons[1].click()
    assert panel.settings() == asked
    assert shown_drawing(panel) == before
    assert panel.image.tobytes() == first.tobytes()
    tiles.buttons[0].click()
    found = panel.settings()
    assert found.image.tobytes() == later.image.tobytes()
    assert replace(found, image=None) == replace(later, image=None)
    assert panel.image.tobytes() == second.tobytes()
    assert len(tiles.tiles) == 2


def test_a_late_click_in_the_history_still_means_the_tile_that_was_clicked(playground, panel):
    panel.controls["steps"].value = 2
    first, asked = drawn(playground), panel.settings()
    clicked = playground.history.tiles.buttons[0]
    panel.controls["seed"].value = 9
    second = drawn(playground)  # its tile takes the place of the one that was clicked
    clicked.click()
    assert panel.image.tobytes() == first.tobytes() != second.tobytes()
    assert panel.settings() == asked
    for _ in range(24):  # as many as are kept
        playground.history.add(0, panel.drawing)
    clicked.click()  # its tile is gone
    assert panel.settings() == asked
    assert len(playground.history.tiles.made) == 24


def test_only_finished_drawings_are_kept(playground, panel):
    panel.progress.observe(lambda change: change["new"] == 2 and playground.stop(), "value")
    panel.controls["steps"].value = 30
    press(playground)
    assert playground.history.kept == {}


def test_the_channels_of_a_latent_are_the_quarters_of_a_square():
    z = torch.stack([torch.full((2, 3), value) for value in (-9.0, 0.0, 1.5, 3.0)])
    shades = np.array(channel_mosaic(z, 40))
    assert shades.shape == (40, 60, 3)
    corners = [shades[i, j, 0] for i in (5, 35) for j in (5, 55)]
    assert corners == [0, 128, 191, 255]
