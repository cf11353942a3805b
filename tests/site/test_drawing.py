"""The worker of the drawing page in a real browser: its images are Python's, and its errors
sentences."""

import os
import shutil
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.png_metadata import GenerationSettings
from sdlearn.utils.sampling import Sampling
from tests.site_parts import chromium, need, served

PATIENCE = 300_000  # milliseconds, for a machine with other things to do
PROMPT = "a red cat to the left of a blue house on the sand at night"
# A page that only starts the worker, and keeps its answers.
PAGE = """<!doctype html><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">
<script type="module">
window.answers = [];
window.worker = new Worker("worker.js", { type: "module" });
worker.onmessage = ({ data }) => answers.push(data);
worker.onerror = ({ message }) => answers.push({ kind: "error", id: null, text: message });
</script>"""
# One message as JSON: typed arrays as lists.
AS_LISTS = """(message) => JSON.parse(JSON.stringify(message, (key, value) =>
    ArrayBuffer.isView(value) ? Array.from(value) : value))"""


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


@pytest.fixture(scope="module")
def draw(browser, built, tmp_path_factory) -> Path:
    """The drawing page's files, and the page above."""
    folder = tmp_path_factory.mktemp("site") / "draw"
    shutil.copytree(built / "draw", folder)
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
    found = (
        f"answers.slice({start}).find((each) => each.kind === '{kind}' || each.kind === 'error')"
    )
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


def test_the_attention_is_what_the_playground_shows(page, sd):
    from sdlearn.course.widgets.drawing import draw as playground_draw

    how = GenerationSettings(PROMPT, "", Sampling(sampler="ddim", steps=4, guidance_scale=3.0))
    *_, drawing = playground_draw(sd, how)
    steps = [each for each in asked(page, **settings(steps=4)) if each["kind"] == "step"]
    for found, expected in zip(steps, drawing.attention, strict=True):
        maps = np.array(found["attention"]).reshape(77, 8, 8)
        np.testing.assert_allclose(maps.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(maps[: len(drawing.tokens)], expected[0], atol=1e-4)


def test_the_messages_before_the_first_step(page, sd):
    from sdlearn.text import token_ids

    tokens, states, *_ = asked(page, **settings(prompt="a red dragon, a cat", steps=1))
    assert tokens["ids"] == token_ids(sd.text.tokenizers[0], ["a red dragon, a cat"])[0].tolist()
    assert tokens["pieces"][:2] == ["a</w>", "red</w>"]
    assert "".join(tokens["pieces"]).replace("</w>", " ") == "a red dragon , a cat "
    assert (tokens["unknown"], tokens["cut"]) == (["dragon"], 0)
    expected = sd.text(["a red dragon, a cat"]).context[0]
    assert states["d"] == expected.shape[1]
    np.testing.assert_allclose(states["states"], expected.flatten(), atol=5e-5)


def test_the_noises_of_a_step_give_its_estimate(page, sd):
    guidance = 4.0
    messages = asked(page, **settings(steps=1, guidance=guidance))
    start, step = messages[2:4]
    alpha, sigma = (float(each) for each in sd.schedule.at(start["times"][0]))
    z, uncond, cond = (np.array(each) for each in (start["z"], step["uncond"], step["cond"]))
    guided = uncond + guidance * (cond - uncond)
    np.testing.assert_allclose((z - sigma * guided) / alpha, step["z_0"], atol=1e-4)
    off = asked(page, **settings(steps=1, guidance=1))[3]
    assert off["uncond"] is None
    np.testing.assert_allclose(off["cond"], cond, atol=1e-5)


def test_a_drawing_stops_after_its_step_and_those_that_wait_do_too(page):
    start = page.evaluate("answers.length")
    page.evaluate(
        """(request) => {
            for (const id of [1, 2]) worker.postMessage({ kind: "draw", id, ...request });
            worker.addEventListener("message", ({ data }) => {
                if (data.kind === "step") worker.postMessage({ kind: "stop" });
            }, { once: false });
        }""",
        settings(steps=100),
    )
    page.wait_for_function(
        f"answers.slice({start}).filter((each) => each.kind === 'stopped').length === 2"
    )
    messages = page.evaluate(f"answers.slice({start}).map({AS_LISTS})")
    first, second = ([each for each in messages if each["id"] == number] for number in (1, 2))
    assert 1 <= first[-1]["step"] <= 3
    assert [each["kind"] for each in first[3:-1]] == ["step"] * first[-1]["step"]
    assert second[-1] == {"kind": "stopped", "id": 2, "step": 0}
    assert "step" not in [each["kind"] for each in second]


WRONG = {
    "prompt": ({"prompt": 5}, "The prompt is 5; it must be a text."),
    "long prompt": ({"prompt": "a" * 100_001}, "The prompt has 100001 characters; it must have at"),
    "seed": ({"seed": -1}, "The seed is -1; it must be a whole number from 0 to 2^63 - 1."),
    "large seed": ({"seed": str(2**63)}, "The seed is 9223372036854775808; it must be a whole num"),
    "unsafe seed": ({"seed": 1e300}, "The seed is 1e+300; it must be a whole number from 0 to 2^6"),
    "sampler": ({"sampler": "heun"}, "The sampler is heun; this page has ddim and dpm_pp_2m."),
    "no steps": (
        {"steps": 0},
        "The number of steps is 0; it must be a whole number from 1 to 100.",
    ),
    "half a step": ({"steps": 2.5}, "The number of steps is 2.5; it must be a whole number from"),
    "guidance": (
        {"guidance": None},
        "The guidance scale is null; it must be a number from -1000000",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_setting_that_cannot_be_used(page, fault):
    changes, said = WRONG[fault]
    (error,) = asked(page, **settings(**changes))
    assert error["kind"] == "error"
    assert error["id"] == 1
    assert error["text"].startswith(said)


def test_it_runs_where_the_server_knows_no_type_and_is_below_a_path(browser, draw):
    """A server that sends .mjs as a download: a plain import of it is refused."""
    types = {".mjs": "application/octet-stream", ".wasm": "text/plain", ".onnx": "text/plain"}
    with served(draw.parent, types) as address, opened(browser, f"{address}draw/") as page:
        assert answer(page, "ready")["kind"] == "ready"
        loading = page.evaluate("answers.filter((each) => each.kind === 'loading')")
        for earlier, later in pairwise(loading):
            assert earlier["all"]["received"] <= later["all"]["received"]
            assert earlier["received"] <= earlier["total"]
        assert loading[-1]["all"]["received"] == loading[-1]["all"]["total"]
        assert asked(page, **settings(steps=1))[-1]["kind"] == "done"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced_by_a_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>Not found</title>", "utf-8")


DAMAGE = {
    "missing network": ("model/unet.onnx", Path.unlink, "is missing: the server answers 404."),
    "missing runtime": ("ort/ort.wasm.min.mjs", Path.unlink, "is missing: the server answers 404."),
    "missing config": ("model/config.json", Path.unlink, "is missing: the server answers 404."),
    "half": ("model/decoder.onnx", cut_short, "is damaged: it has "),
    "a bit": ("model/text.onnx", changed, "is damaged: its checksum is wrong."),
    "a page": ("model/vocab.json", replaced_by_a_page, "is not there: the server sends a web page"),
    "a page as config": ("model/config.json", replaced_by_a_page, "is not there: the server sends"),
    "cut config": ("model/config.json", cut_short, "is damaged: it is not JSON."),
    "a cut program": ("ort/ort-wasm-simd-threaded.wasm", cut_short, "is damaged: it has "),
    "a page as program": (
        "ort/ort-wasm-simd-threaded.wasm", replaced_by_a_page, "is not there: the server sends a w",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_file_that_is_missing_or_damaged(browser, draw, tmp_path, fault):
    name, damage, said = DAMAGE[fault]
    shutil.copytree(draw, tmp_path / "draw", copy_function=os.link)
    (tmp_path / "draw" / name).unlink()  # the link, in whose place comes a copy
    damage(shutil.copy(draw / name, tmp_path / "draw" / name))
    with served(tmp_path / "draw") as address, opened(browser, address) as page:
        error = answer(page, "ready")
        assert error["kind"] == "error"
        assert error["text"].startswith(f"The file {name} {said}")
        assert "\n" not in error["text"]
        drawn = asked(page, **settings())
        assert drawn == [{"kind": "error", "id": 1, "text": error["text"]}]


def test_a_server_that_goes_away(browser, draw):
    with served(draw.parent) as address:
        page = browser.new_page()
        page.route("**/unet.onnx", lambda route: route.abort())
        page.goto(f"{address}draw/test.html")
        error = answer(page, "ready")
        page.close()
    assert error["text"].startswith("The file model/unet.onnx could not be loaded: the server does")


def test_an_old_browser(browser, draw):
    """One without SIMD: the check that the page and the worker share says so."""
    with served(draw.parent) as address, opened(browser, f"{address}draw/") as page:
        missing = 'async () => (await import("./browser.js")).missingFeature()'
        assert page.evaluate(missing) is None
        page.evaluate("() => { WebAssembly.validate = () => false; }")
        assert page.evaluate(missing).startswith("This browser has no WebAssembly with SIMD")
        page.evaluate("() => { WebAssembly.validate = () => true; window.Worker = undefined; }")
        assert page.evaluate(missing).startswith("This browser cannot run a module in a worker")
        page.evaluate("() => { window.Worker = function () { this.terminate = () => {}; }; }")
        assert page.evaluate(missing).startswith("This browser cannot run a module in a worker")
