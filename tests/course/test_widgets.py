"""The painter, driven as a reader drives it: by its controls and its button."""

import logging
import re
import warnings

import numpy as np
import pytest

from sdlearn.course.widgets import TextToImageWidget

PROMPT = "a red cat on the sand"


@pytest.fixture
def painter(tiny_storybook):
    return TextToImageWidget(tiny_storybook, PROMPT)


@pytest.fixture
def press(caplog):
    """Press a button. ipywidgets only logs what a callback raises; here that fails the test."""

    def press(button):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            button.click()
        for record in caplog.records:
            if record.exc_info:
                raise record.exc_info[1]

    return press


def text(widget) -> str:
    return re.sub(r"<[^>]*>", "", widget.value)


def test_it_draws_the_library_s_picture(painter, press):
    assert painter.image is None
    painter.steps.value, painter.seed.value, painter.guidance.value = 3, 7, 2.5
    press(painter.button)
    (expected,) = painter.sd.text_to_image(
        PROMPT, steps=3, seed=7, guidance_scale=2.5, progress=False
    )
    assert np.array_equal(np.array(painter.image), np.array(expected))
    assert text(painter.message) == "Done."
    assert f'alt="The picture drawn for: {PROMPT}"' in painter.view.value


@pytest.mark.parametrize(
    ("control", "value"),
    [("prompt", "a blue house"), ("seed", 1), ("steps", 2), ("guidance", 12.0)],
)
def test_every_control_matters(painter, press, control, value):
    painter.steps.value = 3
    press(painter.button)
    before = np.array(painter.image)
    getattr(painter, control).value = value
    press(painter.button)
    assert not np.array_equal(np.array(painter.image), before)


def test_it_shows_progress_and_each_estimate(painter, press):
    painter.steps.value = 4
    steps, views = [], []
    painter.progress.observe(lambda change: steps.append(change["new"]), "value")
    painter.view.observe(lambda change: views.append(change["new"]), "value")
    press(painter.button)
    assert steps == [1, 2, 3, 4]
    assert painter.progress.max == 4
    assert [f"after {k} of 4 steps" in view for k, view in enumerate(views[:5])] == [True] * 5
    assert len(set(views)) == 6  # five estimates, the noise's included, and the picture


def test_a_second_picture_starts_its_progress_afresh(painter, press):
    painter.steps.value = 5
    press(painter.button)
    painter.steps.value = 2
    press(painter.button)
    assert (painter.progress.value, painter.progress.max) == (2, 2)


def test_it_starts_with_the_model_s_own_settings(painter):
    spec = painter.sd.spec
    assert (painter.steps.value, painter.guidance.value) == (spec.steps, spec.guidance_scale)


def test_what_cannot_be_drawn_is_said_in_a_sentence(painter, press, monkeypatch):
    def fail(*_, **__):
        raise FloatingPointError("the latent is not finite <here>")

    monkeypatch.setattr(painter.sd, "trajectory", fail)
    press(painter.button)
    assert text(painter.message) == "This cannot be drawn: the latent is not finite &lt;here&gt;."
    assert 'role="status"' in painter.message.value
    assert painter.image is None
    monkeypatch.undo()
    painter.steps.value = 1
    press(painter.button)
    assert painter.image is not None


def test_a_mistake_of_ours_is_not_swallowed(painter, press, monkeypatch):
    monkeypatch.setattr(painter.sd, "to_images", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        press(painter.button)


def test_an_empty_prompt_is_a_prompt(painter, press):
    painter.prompt.value, painter.steps.value = "", 1
    press(painter.button)
    assert text(painter.message) == "Done."


def test_unknown_words_and_lost_ends_are_named(painter, press):
    painter.prompt.value, painter.steps.value = "a Zebra and a red zebra with a hat", 1
    press(painter.button)
    assert text(painter.message) == "Done. The storybook model never read: zebra, hat."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        painter.prompt.value = "a red cat and " * 30
        press(painter.button)
    assert "this end is ignored" in text(painter.message)


def test_every_control_has_a_name_and_takes_the_keyboard(painter):
    for control in (painter.prompt, painter.seed, painter.steps, painter.guidance, painter.button):
        assert control.description
        assert control.tabbable is not False
        assert not control.disabled
    assert [painter.prompt, painter.seed, painter.steps, painter.guidance, painter.button] == list(
        painter.children[:5]
    )
