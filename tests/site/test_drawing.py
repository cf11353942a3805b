"""The worker of the drawing page in a real browser: its images are Python's, and its errors
sentences."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.png_metadata import GenerationSettings
from sdlearn.utils.sampling import Sampling
from tests.site_parts import chromium, need, put_up, served

PATIENCE = 300_000  # milliseconds, for a machine with other things to do
PROMPT = "a red cat to the left of a blue house on the sand at night"
# A page that only starts the worker, and keeps its answers.
PAGE = """<!doctype html><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">
<script type="module">
window.answers = [];
window.worker = new Worker("worker.js", { type: "module" });
worker.onmessage = ({ data }) => answers.push(data);
worker.onerror = (event) => answers.push({ kind: "error", id: null, text: `worker: ${event.message}` });
</script>"""
# One message as JSON: typed arrays as lists.
AS_LISTS = """(message) => JSON.parse(JSON.stringify(message, (key, value) =>
    ArrayBuffer.isView(value) ? Array.from(value) : value))"""


@pytest.fixture(scope="module")
def browser():
    need("onnx")
    need("onnxruntime")
    place = chromium()
    need("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=place, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def draw(browser, tmp_path_factory) -> Path:
    folder = put_up(tmp_path_factory.mktemp("site"))
    (folder / "test.html").write_text(PAGE, "utf-8")
    return folder


@contextmanager
def opened(browser, address: str):
    """A page with the worker; it must make no request elsewhere and have no error of its own."""
    page, wrong = browser.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:"))
            else wrong.append(r.url))  # fmt: skip
    page.goto(f"{address}test.html")
    yield page
    page.close()
    assert wrong == []


def answer(page, kind: str, start: int = 0):
    """The first message of a kind, or an error, from number `start` on."""
    found = f"answers.slice({start}).find((each) => each.kind === '{kind}' || each.kind === 'error')"
    page.wait_for_function(found, polling=100)
    return page.evaluate(f"({AS_LISTS})({found})")


def asked(page, until: str = "done", **request):
    """The worker's messages to a request, up to one of this kind or an error."""
    start = page.evaluate("answers.length")
    page.evaluate("(request) => worker.postMessage(request)", {"kind": "draw", "id": 1} | request)
    answer(page, until, start)
    return page.evaluate(f"answers.slice({start}).map({AS_LISTS})")


@pytest.fixture(scope="module")
def page(browser, draw):
    with served(draw.parent) as address, opened(browser, f"{address}draw/") as ready:
        assert answer(ready, "ready")["kind"] == "ready"
        yield ready


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.storybook(device="cpu")


def settings(**changes):
    return {"prompt": PROMPT, "negative": "", "seed": 0, "sampler": "ddim", "steps": 10,
            "guidance": 3.0} | changes  # fmt: skip


def python_s(sd, prompt, negative, seed, sampler, steps, guidance):
    """The states and the image that Python makes of these settings."""
    sampling = Sampling(sampler=sampler, steps=steps, guidance_scale=guidance, seed=int(seed))
    how = GenerationSettings(prompt, negative, sampling)
    states = list(how.trajectory(sd))
    (image,) = how.images(sd, states[-1].z)
    return states, np.asarray(image)


def pixels(image):
    return np.array(image["rgba"], np.uint8).reshape(image["height"], image["width"], 4)[..., :3]


CASES = {
    "ddim": settings(),
    "dpm_pp_2m": settings(sampler="dpm_pp_2m"),
    "negative prompt": settings(negative="a green tree", guidance=5.0, seed=7),
    "guidance off": settings(guidance=1.0, seed=3, steps=4),
    "a seed above 32 bits": settings(seed="9223372036854775807", steps=3),
    "one step": settings(steps=1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_image_is_python_s(page, sd, case):
    messages = asked(page, **CASES[case])
    states, image = python_s(sd, **CASES[case])
    assert messages[-1]["kind"] == "done", messages[-1]
    start = next(each for each in messages if each["kind"] == "start")
    steps = [each for each in messages if each["kind"] == "step"]
    assert start["times"] == [state.t for state in states]
    assert [each["t"] for each in steps] == [state.t for state in states[1:]]
    for found, state in zip([start, *steps], states, strict=True):
        np.testing.assert_allclose(found["z"], state.z.flatten(), atol=5e-4)
    difference = np.abs(pixels(messages[-1]["image"]).astype(int) - image)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001
    assert messages[-1]["image"] == steps[-1]["image"]
