"""The page's settings, words and PNG files, in node: what links hold, and what Python reads."""

import numpy as np
import pytest
from PIL import Image

from sdlearn.storybook.captions import NOUNS, WORDS, unknown_words
from sdlearn.utils.png_metadata import GenerationSettings, png_bytes, read_png, text_entries
from sdlearn.utils.sampling import Sampling
from sdlearn.versions import STORYBOOK
from tests.site_parts import run_node

A = {"prompt": "a red cat, 50 % & more = “fun”\N{CAT FACE}", "negative": "a dög", "seed": 2**32 - 1,
     "sampler": "dpm_pp_2m", "steps": 100, "guidance": 7.25}  # fmt: skip
B = A | {"prompt": "", "negative": "", "seed": 0, "sampler": "ddim", "steps": 1, "guidance": 0}
CHECK = 'import { check } from "draw/settings.js"; answer(given.map((each) => check(each).wrong));'
READ = 'import { fromLink } from "draw/settings.js"; answer(given.map((each) => fromLink(each)));'


def test_a_link_holds_every_setting():
    both = [{"a": A}, {"a": A, "b": B}, {"a": B, "step": 3, "word": 76}]
    code = 'import { fromLink, toLink } from "draw/settings.js";'
    got = run_node(f"{code} answer(given.map((each) => fromLink('#' + toLink(each))));", both)
    for each, back in zip(both, got, strict=True):
        want = {"b": None, "step": None, "word": None, "wrong": []} | each
        assert back == want


def test_wrong_links_fall_back_and_say_so():
    defaults = {"negative": "", "seed": 0, "sampler": "ddim", "steps": 30, "guidance": 3}
    wrong = {
        "steps=0": "Steps is “0”; it must be a whole number from 1 to 100.",
        "steps=1e1": "Steps is “1e1”; it must be a whole number from 1 to 100.",
        "steps=": "Steps is empty; it must be a whole number from 1 to 100.",
        "seed=-1": "The seed is “-1”; it must be a whole number from 0 to 4294967295.",
        "seed=4294967296":
            "The seed is “4294967296”; it must be a whole number from 0 to 4294967295.",
        "guidance=NaN": "The guidance scale is “NaN”; it must be a number from 0 to 20.",
        "guidance=21": "The guidance scale is “21”; it must be a number from 0 to 20.",
        "sampler=toString": "The sampler is “toString”; it must be ddim or dpm_pp_2m.",
        "negative=" + 501 * "a": "The negative prompt has 501 characters; it may have at most 500.",
    }  # fmt: skip
    got = run_node(READ, [f"#prompt=a+cat&{each}" for each in wrong])
    for each, sentence in zip(got, wrong.values(), strict=True):
        assert each["wrong"] == [sentence]
        assert each["a"] == defaults | {"prompt": "a cat"}


def test_links_that_hold_nothing_and_places_that_cannot_be():
    links = ["", "#", "#controls", "#step=3", "#%E0%A4%A"]
    assert run_node(READ, links) == [None] * len(links)
    places = [f"#seed=1&step={each}&word={each}" for each in ("0", "-1", "x", "101", "1.5")]
    for each in run_node(READ, places):
        assert (each["step"], each["word"], each["wrong"]) == (None, None, [])


def test_numbers_as_people_type_them():
    typed = [A | each for each in ({"guidance": "7,5"}, {"steps": " 12 "}, {"guidance": ".5"})]
    assert run_node(CHECK, typed) == [{}] * 3


@pytest.mark.parametrize("size", [(64, 64), (5, 3), (200, 120)])
@pytest.mark.parametrize("settings", [A, B, A | {"prompt": "a café", "guidance": 3}])
def test_a_png_holds_what_write_png_stores(tmp_path, settings, size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    code = (
        'import { entries, png } from "draw/png.js"; const { settings, image, config } = given;'
        "image.rgba = Uint8ClampedArray.from(image.rgba);"
        "answer([...png(image, entries(settings, image, config))]);"
    )
    image = {"rgba": pixels.flatten().tolist(), "width": size[0], "height": size[1]}
    config = {"name": STORYBOOK.name, "sdlearn": version()}
    given = {"settings": settings, "image": image, "config": config}
    file = tmp_path / "image.png"
    file.write_bytes(bytes(run_node(code, given)))
    with Image.open(file) as opened:
        assert opened.mode == "RGB"
        assert (np.asarray(opened) == pixels[..., :3]).all()
    want = python_s(settings, size)
    stored = png_bytes(Image.fromarray(pixels[..., :3]), want)
    entries = text_entries(file.read_bytes(), "image")
    assert list(entries.items()) == list(text_entries(stored, "image").items())
    if not size[0] % 8 and not size[1] % 8:
        assert read_png(file) == want


def python_s(settings: dict, size: tuple[int, int]) -> GenerationSettings:
    """The settings as Python's pipeline resolves them."""
    sampling = Sampling(
        seed=settings["seed"], steps=settings["steps"], sampler=settings["sampler"],
        guidance_scale=float(settings["guidance"]), width=size[0], height=size[1],
        sigmas="table" if settings["sampler"] == "ddim" else "uniform_lambda", clip_skip=0,
    )  # fmt: skip
    return GenerationSettings(
        settings["prompt"], settings["negative"], sampling, model=STORYBOOK.name
    )


def version() -> str:
    from sdlearn import __version__

    return __version__


def test_unknown_words_are_python_s():
    texts = [
        "a red cat",
        "A Red DRAGON, a dragon and 3 hot-air balloons!",
        "chien_chat",
        "Ünder",
        "",
    ]
    code = 'import { unknownWords } from "draw/controls.js"; const known = new Set(given.words);'
    got = run_node(
        f"{code} answer(given.texts.map((text) => unknownWords(text, known)));",
        {"texts": texts, "words": sorted(WORDS)},
    )
    assert got == [unknown_words(text) for text in texts]


def test_the_first_noun_of_a_prompt():
    nouns = [noun.split(" ")[-1] for row in NOUNS.values() for noun in row]
    cases = {
        "a</w> red</w> cat</w> to</w> the</w> left</w>": 3,
        "two</w> pink</w> mush rooms</w> at</w> sea</w>": 4,  # its last piece has read all of it
        "at</w> night</w>": 2,
        "a</w>": 1,
        "": None,
    }
    code = 'import { firstNoun } from "draw/words.js";'
    given = {"nouns": nouns, "pieces": [each.split() for each in cases]}
    got = run_node(
        f"{code} answer(given.pieces.map((each) => firstNoun(each, given.nouns)));", given
    )
    assert got == list(cases.values())
