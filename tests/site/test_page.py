"""The drawing page in a real browser: what a reader does there, at both widths, dark and light."""

import os
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.png_metadata import read_png
from sdlearn.utils.sampling import Sampling
from tests.site_parts import DRAW, chromium, need, served

PATIENCE = 300_000  # milliseconds, for a machine with other things to do
LINK = "prompt=a+boat+at+sea+at+sunset&negative=a+cat&seed=7&sampler=dpm_pp_2m&steps=6&guidance=4.5"
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def site(request, tmp_path_factory) -> Path:
    """The built site, or where WEB_DRAW names a folder with worker and model, that and the page."""
    if not (ready := os.environ.get("WEB_DRAW")):
        return request.getfixturevalue("built")
    draw = shutil.copytree(ready, tmp_path_factory.mktemp("site") / "draw")
    for file in DRAW.iterdir():
        shutil.copy(file, draw)
    return draw.parent


@pytest.fixture(scope="module")
def browser():
    place = chromium()
    need("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=place, args=flags)
        yield opened
        opened.close()


@contextmanager
def opened(browser, address: str, width=1280, quiet=True, **settings):
    """A page that makes no request elsewhere and has no error in its console."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    page, wrong = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:"))
            else wrong.append(r.url))  # fmt: skip
    yield page
    context.close()
    assert wrong == [] or not quiet


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield f"{found}draw/index.html"


@pytest.fixture
def page(browser, address):
    with opened(browser, address.removesuffix("index.html")) as ready:
        yield ready


def drawn(page) -> None:
    """Wait until a drawing has ended."""
    page.get_by_text(re.compile("^Drawn in ")).wait_for()


def go(page, address: str, link: str = LINK) -> None:
    """Open a share link and wait for its drawing."""
    page.goto(f"{address}#{link}")
    drawn(page)


def pixels(page, canvas: str) -> np.ndarray:
    """What a canvas shows, (h, w, 3)."""
    values = page.evaluate(
        "(id) => { const c = document.getElementById(id); return [c.height, c.width, "
        "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; }",
        canvas,
    )
    return np.array(values[2], np.uint8).reshape(values[0], values[1], 4)[..., :3]


def at(page, step: str) -> None:
    """Wait until the film is at a step."""
    page.locator("#step-says", has_text=step).wait_for()


def label(page, name: str) -> str:
    """The alternative text of a canvas."""
    return page.locator(f"#{name}").get_attribute("aria-label")


# --------------------------------------------------------------------------------------- drawing


def test_it_opens_with_a_drawing_and_enter_draws_another(page, address):
    page.goto(address)
    drawn(page)
    first = pixels(page, "image")
    assert first.shape == (64, 64, 3)
    assert first.std() > 20
    prompt = page.get_by_label("Prompt", exact=True).first
    prompt.fill("a yellow star above a green tree in the snow")
    page.get_by_label("Steps", exact=True).first.fill("5")
    prompt.press("Enter")
    page.get_by_text("5 steps, seed 0.").wait_for()
    assert np.abs(pixels(page, "image").astype(int) - first).mean() > 10
    assert "a yellow star above a green tree in the snow" in label(page, "image")
    pieces = page.locator("#pieces button span").all_inner_texts()
    assert pieces == [
        "start",
        "a",
        "yellow",
        "star",
        "above",
        "a",
        "green",
        "tree",
        "in",
        "the",
        "snow",
        "end",
    ]


def test_a_dice_an_example_and_a_word_of_the_vocabulary(page, address):
    go(page, address)
    page.get_by_role("button", name="two pink fish at sea under a blue sky").click()
    page.get_by_text("6 steps, seed 7.").wait_for()
    assert "two pink fish" in label(page, "image")
    page.get_by_role("button", name="Another seed").first.click()
    drawn(page)
    seed = page.get_by_label("Seed", exact=True).first
    page.wait_for_function("!/seed 7\\./.test(document.getElementById('status').textContent)")
    assert seed.input_value() != "7"
    prompt = page.get_by_label("Prompt", exact=True).first
    prompt.fill("a cat on the grass")
    prompt.evaluate("input => input.setSelectionRange(1, 1)")
    page.get_by_text("Words the model knows").click()
    page.get_by_role("group", name="Colours").get_by_role("button", name="purple").press("Enter")
    assert prompt.input_value() == "a purple cat on the grass"


def test_stop_ends_the_drawing(page, address):
    go(page, address)
    page.get_by_label("Steps", exact=True).first.fill("100")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_function("/^step [2-9]/.test(document.getElementById('step-says').textContent)")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text(re.compile(r"^Stopped after step \d+ of 100\.$")).wait_for()
    page.get_by_role("button", name="Draw", exact=True).wait_for()


def test_unknown_words_and_wrong_values_get_a_sentence(page, address):
    go(page, address)
    before = page.locator("#status").inner_text()
    prompt = page.get_by_label("Prompt", exact=True).first
    prompt.fill("a blue dragon on the grass")
    page.get_by_text("The model has never read “dragon”. It can draw these: house,").wait_for()
    prompt.fill("a blue hause on the grass")
    page.get_by_text("The model has never read “hause”. It knows “house”").wait_for()
    steps = page.get_by_label("Steps", exact=True).first
    for wrong in ("0", "101", "3.5", "many"):
        steps.fill(wrong)
        page.get_by_text(f"Steps is “{wrong}”; it must be a whole number from 1 to 100.").wait_for()
    assert page.locator("#status").inner_text() == before
    steps.press("Enter")
    page.get_by_text("Nothing is drawn yet: a setting needs another value.").wait_for()
    assert steps.evaluate("input => input === document.activeElement")


# ------------------------------------------------------------------------------------- the steps


def test_the_keyboard_scrubs_through_image_latent_and_attention(page, address):
    go(page, address)
    shown = {name: pixels(page, name) for name in ("image", "latent", "overlay", "cond")}
    page.locator("#step").focus()
    page.keyboard.press("Home")
    at(page, "step 1 of 6, t = 9")
    for name, last in shown.items():
        assert (pixels(page, name) != last).mean() > 0.2, name
    assert label(page, "image") == (
        "The estimate of the image at step 1 for the prompt “a boat at sea at sunset”."
    )
    page.keyboard.press("End")
    at(page, "step 6 of 6")
    for name, last in shown.items():
        assert (pixels(page, name) == last).all(), name
    page.get_by_role("button", name="Play the steps").click()
    at(page, "step 3 of 6")
    at(page, "step 6 of 6")
    page.get_by_role("button", name="Play the steps").wait_for()


def test_a_word_shows_its_map_on_the_scale_of_the_drawing(page, address):
    go(page, address)
    boat, sunset = (page.get_by_role("radio", name=n, exact=True) for n in ("boat", "sunset"))
    assert boat.get_attribute("aria-checked") == "true"  # the first noun
    of_boat, scale = pixels(page, "overlay"), page.locator("#legend-top").inner_text()
    sunset.click()
    assert re.match(r"At step 6, “sunset” gets [\d.]+ % of the attention", words(page))
    assert (pixels(page, "overlay") != of_boat).mean() > 0.2
    assert page.locator("#legend-top").inner_text() == scale
    page.locator("#step").press("Home")
    at(page, "step 1 of 6")
    assert page.locator("#legend-top").inner_text() == scale
    page.locator("#step").press("End")
    sunset.focus()
    page.keyboard.press("ArrowRight")  # around to the first word
    assert re.match("At step 6, “a” gets", words(page))
    page.locator("#pieces button", has_text="boat").click()
    assert (pixels(page, "overlay") == of_boat).all()


def test_the_scale_ends_at_the_largest_weight_of_all(page, address):
    """Of all words and steps, and some word at some step reaches it."""
    go(page, address)
    largest = 0.0
    for step in range(1, 7):
        page.locator("#step").fill(str(step))
        at(page, f"step {step} of 6")
        for word in page.locator("#maps button").all():
            word.click()
            largest = max(largest, float(re.search(r"([\d.]+) %\.$", words(page))[1]))
    assert page.locator("#legend-top").inner_text() == f"{largest:g} %"


def words(page) -> str:
    return page.locator("#now-attention").inner_text()


def test_every_box_opens_and_leads_into_the_course(page, address):
    go(page, address)
    for name in ("Tokens", "Text states", "Noise", "U-Net and guidance", "Latent", "Image"):
        button = page.locator(".box h3").get_by_role("button", name=name)
        button.press("Enter")
        about = page.locator(f"#{button.get_attribute('aria-controls')}")
        assert about.is_visible()
        assert button.get_attribute("aria-expanded") == "true"
        links = [a.get_attribute("href") for a in about.get_by_role("link").all()]
        assert links
        assert all(re.fullmatch(r"\.\./\d\d-[a-z-]+\.html#[a-z-]+", a) for a in links)
        page.keyboard.press("Escape")
        assert about.is_hidden()


# ------------------------------------------------------------------------- links, files, two images


def test_a_link_fills_everything_in_and_draws(page, address):
    go(page, address, f"{LINK}&step=3&word=4")
    for name, value in {"Prompt": "a boat at sea at sunset", "Negative prompt": "a cat",
                        "Seed": "7", "Sampler": "dpm_pp_2m", "Steps": "6",
                        "Guidance scale": "4.5"}.items():  # fmt: skip
        assert page.get_by_label(name, exact=True).first.input_value() == value
    at(page, "step 3 of 6")
    assert page.get_by_role("radio", name="sea", exact=True).get_attribute("aria-checked") == "true"
    page.wait_for_function("location.hash.includes('word=4')")
    page.get_by_label("Seed", exact=True).first.fill("8")
    page.wait_for_function("location.hash.includes('seed=8') && location.hash.includes('step=3')")


def test_a_saved_png_is_read_and_drawn_again_by_python(page, address, tmp_path):
    sd = StableDiffusion.storybook(device="cpu")
    for sampler in ("ddim", "dpm_pp_2m"):
        go(page, address, LINK.replace("dpm_pp_2m", sampler))
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save PNG").click()
        assert saved.value.suggested_filename == "a-boat-at-sea-at-sunset-7.png"
        saved.value.save_as(file := tmp_path / f"{sampler}.png")
        settings = read_png(file)
        assert (settings.prompt, settings.negative_prompt) == ("a boat at sea at sunset", "a cat")
        asked = Sampling(seed=7, sampler=sampler, steps=6, guidance_scale=4.5)
        assert settings.sampling == sd.resolve(asked)
        assert settings.model == sd.spec.name
        *_, last = settings.trajectory(sd)
        again = np.asarray(settings.images(sd, last.z)[0]).astype(int)
        stored = np.asarray(Image.open(file)).astype(int)
        assert (stored == pixels(page, "image")).all()
        assert np.abs(stored - again).max() <= 1
        assert (stored != again).mean() <= 0.001


def test_two_settings_side_by_side(page, address):
    go(page, address)
    page.get_by_role("button", name="Compare two settings").click()
    b = page.locator("#b")
    assert b.get_by_label("Guidance scale").input_value() == "4.5"  # a copy of A
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("A and B have the same settings. On average they differ by 0.0").wait_for()
    drawn(page)
    b.get_by_label("Steps", exact=True).fill("4")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("B has steps 4. On average they differ by").wait_for()
    page.wait_for_function(
        "/^Drawn in .* 4 steps/.test(document.getElementById('status').textContent)"
    )
    left, right, between = (pixels(page, f"pair-{k}").astype(int) for k in ("a", "b", "d"))
    assert (between == np.abs(left - right)).all()
    assert between.max() > 0
    said = re.search(r"mean ([\d.]+) of 255", page.locator("#pair").inner_text())
    assert abs(float(said[1]) - between.mean()) <= 0.051
    page.wait_for_function("location.hash.includes('b.steps=4')")
    page.get_by_role("radio", name="B", exact=True).click()
    at(page, "step 4 of 4")
    assert (pixels(page, "image") == right).all()


# ---------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_and_targets_are_large(browser, address, width, scheme):
    here = address.removesuffix("index.html")
    with opened(browser, here, width, color_scheme=scheme, reduced_motion="reduce") as page:
        link = LINK + "".join(f"&b.{each}" for each in LINK.split("&"))
        go(page, address, link)
        page.get_by_text("Words the model knows").click()
        for button in page.locator(".box h3 button").all():
            button.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate(
            "[...document.querySelectorAll('button, input, select, summary')]"
            ".filter(e => e.checkVisibility()).filter(e => { const r = e.getBoundingClientRect();"
            " return r.width < 24 || r.height < 24; }).map(e => e.outerHTML)"
        )
        assert small == []
        low = page.evaluate(
            "['draw', 'save', 'copy', 'play', 'step', 'compare'].filter("
            "id => document.getElementById(id).getBoundingClientRect().height < 44)"
        )
        assert low == []
        assert contrasts(page) == []


def contrasts(page) -> list[str]:
    """Visible text with less than 4.5 of contrast to what is behind it."""
    return page.evaluate(
        """() => {
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928
            ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
        const ground = (e) => { for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
        const found = [];
        for (const e of document.querySelectorAll("main *, header *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !e.checkVisibility() || e.closest("svg, :disabled, .hide")) continue;
            const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${e.textContent.trim().slice(0, 40)}`);
        }
        return found; }"""
    )


def test_everything_is_labelled(page, address):
    go(page, address)
    unnamed = page.evaluate(
        "[...document.querySelectorAll('canvas')].filter(c => !c.closest('[aria-hidden]')"
        " && !(c.getAttribute('role') === 'img' && c.getAttribute('aria-label')))"
        ".map(c => c.outerHTML)"
    )
    assert unnamed == []
    for name in ("image", "latent", "noise", "states", "cond", "difference", "overlay"):
        assert not label(page, name).startswith("No "), name
    assert page.locator("#status").get_attribute("role") == "status"
    fields = page.locator("#a input, #a select")
    assert all(f.evaluate("e => e.labels.length") == 1 for f in fields.all())


# ------------------------------------------------------------------------------- when it can't draw


def test_a_missing_file_gets_a_sentence(browser, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "draw" / "model" / "unet.onnx").unlink()
    with served(tmp_path / "site") as found, opened(browser, f"{found}draw/", quiet=False) as page:
        page.goto(f"{found}draw/index.html")
        page.locator("#status.bad").wait_for()
        assert "model/unet.onnx is missing" in page.locator("#status").inner_text()


def test_without_javascript_there_is_a_sentence_and_the_course(browser, address):
    here = address.removesuffix("index.html")
    with opened(browser, here, java_script_enabled=False) as page:
        page.goto(address)
        assert (
            "draws with JavaScript, which is switched off"
            in page.locator(".notice").first.inner_text()
        )
        assert page.get_by_role("link", name="course", exact=True).first.is_visible()


def test_an_old_browser_gets_a_sentence(page, address):
    page.add_init_script("delete WebAssembly.validate; WebAssembly.validate = () => false;")
    page.goto(address)
    page.get_by_text("This browser has no WebAssembly with SIMD").wait_for()


def test_a_wrong_link_says_so_and_draws_with_the_default(page, address):
    go(page, address, LINK.replace("steps=6", "steps=600"))
    sentence = "The link has a value that can't be used. Steps is “600”; it must be a whole number"
    page.get_by_text(sentence).wait_for()
    assert page.get_by_label("Steps", exact=True).first.input_value() == "30"
    page.get_by_text("30 steps, seed 7.").wait_for()


def test_an_empty_prompt_without_guidance_in_one_step(page, address):
    go(page, address, "prompt=&seed=1&steps=1&guidance=1")
    assert words(page) == "The prompt is empty, so there is no word to look at."
    at(page, "step 1 of 1")
    assert page.locator("#uncond").is_hidden()
    assert page.locator("#cond").is_visible()
