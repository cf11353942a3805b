"""The playground, driven as a reader drives it: by its controls and its buttons."""

import base64
import io
import logging
import re
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.clip import CLIPTextConfig
from sdlearn.course import attention_maps
from sdlearn.course.figures.trajectory import channel_mosaic, pick_steps, strip
from sdlearn.course.widgets import Playground, controls
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook.captions import unknown_words
from sdlearn.utils.png_metadata import GenerationSettings, png_bytes
from sdlearn.utils.sampling import Sampling

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


def drawn(playground) -> Image.Image:
    playground.button.click()
    playground.wait()
    return playground.panels[0].picture


def text(widget) -> str:
    return re.sub(r"<[^>]*>", "", widget.value)


def file(content: bytes, name: str) -> tuple[dict, ...]:
    return ({"name": name, "type": "", "size": len(content), "content": memoryview(content),
             "last_modified": datetime.now(UTC)},)  # fmt: skip


def speckled() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))


def as_png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


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
    assert text(panel.caption) == f"“{PROMPT}”, seed 7, 3 steps of euler, guidance 2.5"
    assert panel.progress.description == "Step 3 of 3"
    assert f'alt="The picture drawn for: {PROMPT}"' in panel.view.value
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
    assert (panel.picture is not None) == (event == "submit")


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
    panel.upload.value = file(content.getvalue(), "photo.png")
    page = np.array(panel.start)
    assert page.shape == (64, 64, 3)
    assert (page[:32] == [255, 0, 0]).all()
    assert (page[32:] == 255).all()


def test_a_strength_that_leaves_no_step_says_so(playground, panel):
    panel.upload.value = file(as_png(speckled()), "mine.png")
    panel.strength.value = 0.0
    drawn(playground)
    assert "Nothing was drawn over the picture" in text(panel.message)
    assert panel.progress.value == panel.progress.max == 1
    assert panel.words.layout.display == "none"


def test_the_next_seed_is_drawn_at_once(playground, panel):
    panel.controls["seed"].value = 6
    playground.next.click()
    playground.wait()
    assert panel.made.sampling.seed == panel.controls["seed"].value == 7


def test_the_fold_has_words_that_it_knows(playground):
    known = re.sub(r"<[^>]*>", " ", playground.children[-1].value)
    for words in ("toadstool", "spotted", "on a sandy beach", "by moonlight", "a waving person"):
        assert words in known
    of_rows = ["things", "colours", "places", "times"]
    assert unknown_words(known.partition("knows")[2]) == of_rows


def test_a_picture_to_begin_from(playground, panel, tiny_storybook):
    start = speckled()
    assert panel.strength.disabled
    panel.upload.value = file(as_png(start), "mine.png")
    assert text(panel.message) == "It will begin from mine.png."
    assert panel.start.size == (64, 64)
    assert not panel.strength.disabled
    panel.controls["steps"].value, panel.strength.value = 4, 0.5
    found = drawn(playground)
    (expected,) = tiny_storybook.image_to_image(
        PROMPT, start.crop((15, 0, 105, 90)), strength=0.5, steps=4, height=64, width=64,
        progress=False,
    )  # fmt: skip
    assert found.tobytes() == expected.tobytes()
    assert panel.progress.max == 2
    panel.afresh.click()
    assert drawn(playground).tobytes() != found.tobytes()
    panel.again.click()
    assert panel.start.tobytes() == panel.picture.tobytes()


@pytest.mark.parametrize("content", [b"", b"no picture", as_png(speckled())[:9000]])
def test_a_file_that_is_no_picture_changes_nothing(panel, content):
    panel.upload.value = file(content, "notes.txt")
    assert text(panel.message).startswith("notes.txt is not an image that can be read: ")
    assert panel.start is None


def test_stop_keeps_the_last_picture(playground, panel, monkeypatch):
    before, view, caption = drawn(playground), panel.view.value, panel.caption.value
    seen = []

    def stop_in_the_second_step(change):
        seen.append(change["new"])
        if change["new"] == 2:
            playground.stopper.click()

    panel.controls["steps"].value = 50
    panel.progress.observe(stop_in_the_second_step, "value")
    drawn(playground)
    assert seen == [0, 1, 2]
    assert "Stopped" in text(panel.message)
    assert panel.picture is before
    assert (panel.view.value, panel.caption.value) == (view, caption)
    assert playground.worker is not None
    assert not playground.worker.is_alive()


def test_drawing_returns_at_once_and_drawing_again_stops_the_first(playground, panel, monkeypatch):
    entered, leave = Event(), Event()
    real = panel.draw

    def held(settings, stopping):
        entered.set()
        leave.wait(20)
        real(settings, stopping)

    monkeypatch.setattr(panel, "draw", held)
    panel.controls["steps"].value = 60
    playground.button.click()
    assert entered.wait(20)
    assert panel.picture is None
    panel.controls["steps"].value = 2
    playground.button.click()
    leave.set()
    playground.wait()
    assert panel.made.sampling.steps == 2


def test_what_goes_wrong_is_said_and_raised(playground, panel, monkeypatch):
    before = drawn(playground)
    monkeypatch.setattr(panel.sd.unet, "forward", lambda *_: 1 / 0)
    playground.button.click()
    with pytest.raises(ZeroDivisionError):
        playground.wait()
    assert text(panel.message) == "It failed with ZeroDivisionError: division by zero."
    monkeypatch.undo()
    assert drawn(playground).tobytes() == before.tobytes()


def test_a_latent_that_explodes_is_said(playground, panel, monkeypatch):
    monkeypatch.setattr(panel.sd.unet, "forward", lambda z, *_: z * float("nan"))
    drawn(playground)
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
    before, view = drawn(playground), panel.view.value
    target, name = {
        "unet": (panel.sd.unet, "forward"),
        "decoder": (panel.sd.vae, "to_image"),
        "words": (panel, "show_words"),
        "link": (panel, "show_link"),
    }[place]
    monkeypatch.setattr(target, name, raises(error))
    panel.controls["seed"].value = 8
    assert drawn(playground) is before
    assert text(panel.message).startswith("This cannot be drawn: there is not enough memory (")
    assert text(panel.message).endswith("; try a smaller size, fewer images or a smaller model.")
    assert panel.view.value == view
    assert panel.made.sampling.seed == 0
    monkeypatch.undo()
    assert drawn(playground).tobytes() != before.tobytes()
    assert text(panel.message).startswith("Done in ")


def test_a_photo_that_memory_cannot_hold_is_said(panel, monkeypatch):
    monkeypatch.setattr(panel, "begin_from", raises(MemoryError()))
    panel.upload.value = file(as_png(speckled()), "wall.png")
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
    assert panel.settings().sampling.sigmas is None
    assert panel.settings().sampling.guidance_interval is None
    levels.value, between.value = "table", (10, 999)
    assert panel.settings().sampling.sigmas == "table"
    panel.set(replace(panel.settings(), sampling=Sampling()))
    assert (levels.label, between.value) == ("the model's own", (0, 999))


def test_two_settings_side_by_side(playground, panel):
    second = playground.panels[1]
    assert playground.shown.children == (panel,)
    panel.controls["seed"].value, panel.controls["guidance_scale"].value = 5, 3.0
    playground.compare.value = True
    assert playground.shown.children == (panel, second)
    assert second.settings() == panel.settings()
    second.controls["guidance_scale"].value = 1.0
    drawn(playground)
    (alone,) = panel.sd.text_to_image(PROMPT, steps=3, seed=5, guidance_scale=1.0, progress=False)
    assert second.picture.tobytes() == alone.tobytes() != panel.picture.tobytes()
    playground.compare.value = False
    assert playground.shown.children == (panel,)
    panel.controls["seed"].value = 6
    playground.compare.value = True
    assert (second.controls["seed"].value, second.controls["guidance_scale"].value) == (5, 1.0)


def test_what_is_saved_can_be_drawn_again(playground, panel, tmp_path):
    with pytest.raises(ValueError, match="there is no image to save yet"):
        playground.save(tmp_path / "cat.png")
    drawn(playground)
    panel.again.click()
    panel.strength.value, panel.controls["seed"].value, panel.negative.value = 0.7, 9, "snow"
    found = drawn(playground)
    playground.save(tmp_path / "cat.png")
    content = (tmp_path / "cat.png").read_bytes()
    link = re.search(r'base64,([^"]+)"', panel.link.value)[1]
    assert base64.b64decode(link) == content

    other = Playground(panel.sd, "a blue house")
    other.panels[0].load.value = file(content, "cat.png")
    assert text(other.panels[0].message) == "These are the settings of cat.png. Press Draw."
    other.button.click()
    other.wait()
    assert other.panels[0].picture.tobytes() == found.tobytes()


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
            "old.png holds no settings; images that sdlearn",
        ),
        (saved(steps=900), "steps is 900; its control goes from 1 to 100"),
        (saved(steps=200), "steps is 200; its control goes from 1 to 100"),
        (saved(guidance_scale=15.5), "guidance_scale is 15.5; its control goes from 0 to 15"),
        (saved(guidance_scale=-1.0), "guidance_scale is -1.0; its control goes from 0 to 15"),
        (saved(seed=2**31), "seed is 2147483648; its control goes from 0 to 2147483647"),
        (saved(height=2048), "height is 2048; its control goes from 8 to 1024"),
        (saved(guidance_interval=(0, 1e4)), "guidance_interval is 10000.0; its control goes from"),
        (saved(n=2), "n is 2; there is no control for it here"),
    ],
)
def test_settings_that_cannot_be_loaded_change_nothing(playground, panel, content, said):
    before = panel.settings()
    panel.load.value = file(content, "old.png")
    assert text(panel.message).startswith(f"Nothing was changed: {said}")
    assert panel.settings() == before


def test_the_words_show_their_maps(playground, panel, tiny_storybook):
    assert panel.words.layout.display == "none"
    drawn(playground)
    assert panel.words.options == attention_maps.prompt_tokens(tiny_storybook, PROMPT)
    assert panel.words.index == panel.maps[1:-1].flatten(1).amax(1).argmax() + 1
    looks = attention_maps.record(tiny_storybook, PROMPT, steps=3)
    mean = torch.stack(
        [
            attention_maps.attention_weights(looks, layer, step)
            for layer in looks.q
            for step in range(3)
        ]
    ).mean(0)
    for word in (2, 3):
        panel.words.index = word
        share = attention_maps.token_map(looks, word, mean)
        assert torch.allclose(panel.maps[word], share, atol=1e-6)
        assert f"gets {share.mean():.1%} of the attention" in panel.map.value
    assert torch.allclose(panel.maps.sum(0), torch.ones(8, 8), atol=1e-5)
    panel.words.index = 1
    panel.prompt.value = "red is a cat"
    drawn(playground)
    assert panel.words.index == panel.words.options.index("a") > 1
    assert "“a” gets" in panel.map.value


def test_the_strip_shows_the_walk(playground, panel):
    panel.controls["steps"].value = 20
    drawn(playground)
    assert pick_steps(20) == [0, 3, 6, 9, 11, 14, 17, 20]
    assert pick_steps(3) == [0, 1, 2, 3]
    assert "after the steps 0, 3, 6, 9, 11, 14, 17, 20 of 20" in panel.strip.value
    states = [s for s in panel.made.trajectory(panel.sd) if s.step in pick_steps(20)]
    estimates = [panel.sd.to_images(s.z_0)[0] for s in states]
    expected = strip(pick_steps(20), [s.z[0] for s in states], estimates)
    assert panel.walked.tobytes() == expected.tobytes()


def test_the_channels_of_a_latent_are_the_quarters_of_a_square():
    z = torch.stack([torch.full((2, 3), value) for value in (-9.0, 0.0, 1.5, 3.0)])
    shades = np.array(channel_mosaic(z, 40))
    assert shades.shape == (40, 60, 3)
    corners = [shades[i, j, 0] for i in (5, 35) for j in (5, 55)]
    assert corners == [0, 128, 191, 255]
