"""The playground in a real browser, in JupyterLab and as a page of its own."""

import base64
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from sdlearn.utils.png_metadata import read_png

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "playground.ipynb"
PROMPT = "a yellow star above a green tree"
PATIENCE = 300_000  # milliseconds, for a machine with other things to do
IDLE = """() => {
    const context = window.jupyterapp?.shell?.currentWidget?.sessionContext;
    return context?.isReady && context.session?.kernel?.status === 'idle';
}"""


def chromium() -> str:
    """Where the browser is. Without one these tests are skipped, except where CI demands it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("there is no chromium, and CI is set: these tests must run")
    if found is None:
        pytest.skip("there is no chromium; its place may be given as CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser():
    place = chromium()
    sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=place, args=flags)
        yield opened
        opened.close()


@contextmanager
def served(command: list[str], address: str, folder: Path) -> Iterator[None]:
    """A server of this command, from when it answers to the end of the block."""
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    log = folder / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=variables,
            stdout=output,
            stderr=output,
        )
    try:
        start = time.monotonic()
        while not answers(address):
            if server.poll() is not None or time.monotonic() - start > PATIENCE / 1000:
                pytest.fail(f"the server does not answer:\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        server.wait(30)


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def page(browser):
    """A page that is offline but for this computer; an error in it fails the test."""
    errors: list[str] = []
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    opened.errors = errors
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.route(
        lambda url: "//127.0.0.1" not in url and not url.startswith(("data:", "blob:")),
        lambda route: route.abort(),
    )
    yield opened
    opened.close()
    assert errors == []


@pytest.fixture
def in_lab(page, tmp_path):
    """The notebook in JupyterLab, after all of its cells were run."""
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, tmp_path)
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = json.dumps({"fetchNews": "false", "checkForUpdates": False})
    (settings / "notification.jupyterlab-settings").write_text(quiet, "utf-8")
    port, token = free_port(), secrets.token_hex(8)
    command = [
        "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with served(command, f"{address}/api/status?token={token}", tmp_path):
        page.goto(f"{address}/lab/tree/{NOTEBOOK}?reset&token={token}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.wait_for_function(IDLE)  # running before that asks which kernel
        assert page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')") is True
        yield page


@pytest.fixture
def as_app(page, tmp_path):
    """The same notebook as `sdlearn playground` shows it."""
    port = free_port()
    command = ["sdlearn", "playground", "--port", str(port), "--no-browser"]
    with served(command, f"http://127.0.0.1:{port}/voila/static/none", tmp_path):
        (address,) = re.findall(r"http://\S+", (tmp_path / "log.txt").read_text("utf-8"))
        page.goto(address, wait_until="commit")
        page.get_by_text("Loading the model …").wait_for()
        page.get_by_role("button", name="Draw", exact=True).wait_for()
        page.get_by_text("Done in ").first.wait_for()  # the first image
        reload_half_a_page(page)
        yield page


def reload_half_a_page(page) -> None:
    """Now and then, on a busy machine, Voilà's page lacks the tiles of the steps: a row's model has
    no widget manager yet when its children arrive. A reader would load the page again."""
    from playwright.sync_api import TimeoutError as TooLate

    try:
        page.get_by_role("button", name=re.compile("^Step ")).first.wait_for(timeout=30_000)
    except TooLate:
        if not all("create_view" in error for error in page.errors):
            raise
        page.errors.clear()
        page.reload(wait_until="commit")
        page.get_by_text("Done in ").first.wait_for()


def image(page) -> str:
    """The data of the image that is shown."""
    return page.locator('img[alt^="The image drawn for:"]').first.get_attribute("src")


def message(page, said: str):
    """The panel's message, while it says this."""
    return page.locator('[role="status"]').filter(has_text=said).first


def slider(page, name: str):
    """The handle of the first slider with this label."""
    labelled = page.locator(".widget-slider").filter(has=page.get_by_text(name, exact=True))
    return labelled.first.get_by_role("slider")


def use(page) -> None:
    """Everything that a reader does, by mouse and by keyboard."""
    first = draw_and_stop(page)
    go_through_the_steps(page)
    choose_from_a_grid(page)
    repaint(page)
    draw_a_hint(page)
    come_back(page, first)
    compare(page)


def draw_and_stop(page) -> str:
    """Type, draw, choose a token, change a slider, stop, and draw again by the keyboard."""
    draw = page.get_by_role("button", name="Draw", exact=True)
    stop = page.get_by_role("button", name="Stop", exact=True)
    first = image(page)
    assert stop.is_disabled()

    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    draw.click()
    page.locator(f'img[alt="The image drawn for: {PROMPT}"]').first.wait_for()
    second = image(page)
    assert second != first
    message(page, "Done in ").wait_for()

    page.get_by_role("button", name="tree", exact=True).click()
    page.locator('img[alt^="Map of the token tree"]').wait_for()

    steps = slider(page, "Steps")
    before = int(steps.get_attribute("aria-valuenow").split(".")[0])
    steps.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "n => Number(document.querySelector('[role=slider]').getAttribute('aria-valuenow')) == n",
        arg=before + 3,
    )
    page.keyboard.press("End")  # a hundred steps: long enough to be stopped
    draw.click()
    message(page, "Drawing …").wait_for()
    stop.focus()
    page.keyboard.press("Enter")
    message(page, "Stopped after step").wait_for()
    assert image(page) == second
    page.wait_for_function("document.activeElement.textContent == 'Draw'")
    assert stop.is_disabled()

    steps.focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    # The page holds a slider's values back while the kernel is busy, but not Enter: an answer to
    # something else shows that the values have left.
    page.get_by_role("button", name="green", exact=True).click()
    page.locator('img[alt^="Map of the token green"]').wait_for()
    page.get_by_label("Prompt", exact=True).press("Enter")
    message(page, "Done in ").wait_for()
    assert image(page) not in (first, second)
    return first


def go_through_the_steps(page) -> None:
    """The slider over the steps and the tiles of the strip show the same."""
    finished = image(page)
    page.get_by_role("button", name="Step 2", exact=True).click()
    shown = page.locator('img[alt="Estimate of the image after 2 of 5 steps"]')
    shown.wait_for()
    page.locator('img[alt="The latent after 2 of 5 steps"]').wait_for()
    by_tile = shown.get_attribute("src")
    step = slider(page, "Step")
    step.focus()
    page.keyboard.press("ArrowRight")
    page.locator('img[alt="Estimate of the image after 3 of 5 steps"]').wait_for()
    page.keyboard.press("ArrowLeft")
    shown.wait_for()
    assert shown.get_attribute("src") == by_tile
    page.keyboard.press("End")
    page.locator('img[alt^="The image drawn for:"]').first.wait_for()
    assert image(page) == finished


def choose_from_a_grid(page) -> None:
    """Two images at once; the second of them is chosen by the keyboard."""
    finished = image(page)
    slider(page, "Images at once").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="Draw", exact=True).click()
    tile = page.get_by_role("button", name="Seed 1", exact=True)
    # Not the status, which may still speak of the drawing before.
    page.get_by_role("button", name=re.compile("^seeds 0 to 1, 5 steps of ddim")).wait_for()
    tile.focus()
    page.keyboard.press("Enter")
    page.get_by_text("seed 1, 5 steps of ddim").first.wait_for()
    assert image(page) != finished
    slider(page, "Images at once").focus()
    page.keyboard.press("Home")


def repaint(page) -> None:
    """A mask painted by mouse and by keyboard; only the painted region is drawn anew."""
    before = image(page)
    page.get_by_text("More settings").first.click()
    page.get_by_role("button", name="This image", exact=True).first.click()
    canvas = page.get_by_role("application", name="The region to repaint").first
    canvas.scroll_into_view_if_needed()
    page.get_by_text("Nothing is painted, so the whole image is redrawn.").wait_for()
    box = canvas.bounding_box()
    wide = page.viewport_size["width"] > 600
    assert box["width"] == box["height"] == 384 if wide else 250 < box["width"] <= 384

    unit = box["width"] / 64
    page.mouse.move(box["x"] + 20.5 * unit, box["y"] + 30.5 * unit)
    page.mouse.down()
    page.mouse.move(box["x"] + 40.5 * unit, box["y"] + 30.5 * unit)  # one jump, and yet a line
    page.mouse.up()
    by_mouse = painted(page, 0)
    assert 100 < by_mouse < 150  # 5 pixels by 21, with round ends

    canvas.focus()
    for key in ("Shift+ArrowUp", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    page.get_by_text("Cursor in row 22, column 40: not painted.").wait_for()
    page.keyboard.down("Space")
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    page.keyboard.up("Space")
    page.get_by_text("Cursor in row 22, column 34: painted.").wait_for()
    by_keyboard = painted(page, by_mouse)
    assert 40 < by_keyboard - by_mouse < 65
    page.keyboard.press("e")
    page.get_by_text("Cursor in row 22, column 34: not painted.").wait_for()
    erased = painted(page, by_keyboard)
    assert by_keyboard - 30 < erased < by_keyboard - 5
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    painted(page, erased)
    page.keyboard.press("Shift+Space")
    assert painted(page, erased, different=False) == erased

    strength = slider(page, "Strength")
    strength.focus()
    page.keyboard.press("End")
    page.get_by_role("button", name="Invert", exact=True).first.click()
    assert painted(page, erased) == 64**2 - erased
    page.get_by_role("button", name="Invert", exact=True).first.click()
    assert painted(page, 64**2 - erased) == erased
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("repainted, strength 1").first.wait_for()
    message(page, "Done in ").wait_for()
    only_the_painted_region_changed(page, before, erased)
    page.get_by_role("button", name="Noise", exact=True).first.click()
    canvas.wait_for(state="hidden")
    page.get_by_text("More settings").first.click()


def draw_a_hint(page) -> None:
    """A square drawn by mouse on the canvas of the hint controls the next image."""
    before = image(page)
    page.get_by_text("Control", exact=True).first.click()
    canvas = page.get_by_role("application", name="The hint").first
    canvas.scroll_into_view_if_needed()
    page.get_by_text("The hint is empty, so the ControlNet is off.").first.wait_for()
    box = canvas.bounding_box()
    unit = box["width"] / 64
    corners = [(20.5, 20.5), (43.5, 20.5), (43.5, 43.5), (20.5, 43.5), (20.5, 20.5)]
    for k, (x, y) in enumerate(corners):
        page.mouse.move(box["x"] + x * unit, box["y"] + y * unit)
        if k == 0:
            page.mouse.down()
    page.mouse.up()
    page.get_by_text("and controls the next drawing at scale 1.").first.wait_for()
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("control scale 1").first.wait_for()
    message(page, "Done in ").wait_for()
    assert image(page) != before
    link = page.get_by_role("link", name="Save this image").first.get_attribute("href")
    hint = np.array(read_png(decoded(link)).hint.convert("L")) > 0
    wanted = np.zeros((64, 64), bool)
    wanted[20:44, 20:44] = True
    wanted[21:43, 21:43] = False
    assert np.array_equal(hint, wanted)
    page.get_by_role("button", name="Clear", exact=True).last.click()
    page.get_by_text("The hint is empty, so the ControlNet is off.").first.wait_for()
    page.get_by_text("Control", exact=True).first.click()


def painted(page, before: int, different: bool = True) -> int:
    """How many pixels the page says are painted, once it is another number than before, or not."""
    found = page.wait_for_function(
        """([before, different]) => {
            const said = document.body.innerText.match(/painted: ([0-9,]+) of 4,096 pixels/);
            const number = said ? Number(said[1].replace(",", "")) : 0;
            return (number !== before) === different && number;
        }""",
        arg=[before, different],
    )
    return found.json_value()


def only_the_painted_region_changed(page, before: str, count: int) -> None:
    """The saved file has the mask that was painted, and outside it the first image's pixels."""
    link = page.get_by_role("link", name="Save this image").first.get_attribute("href")
    content = decoded(link)
    mask = np.array(read_png(content).mask)
    old, new = (np.array(Image.open(io.BytesIO(each))) for each in (decoded(before), content))
    assert (mask == 255).sum() == count
    assert (mask[30, 20:41] == 255).all()
    assert (old[mask == 0] == new[mask == 0]).all()
    assert (old[mask == 255] != new[mask == 255]).any(axis=1).mean() > 0.2


def decoded(url: str) -> bytes:
    """The content of a data URL."""
    return base64.b64decode(url.split("base64,")[1])


def come_back(page, first: str) -> None:
    """The oldest tile of the history brings back the first image and its settings."""
    page.get_by_role("button", name=re.compile("^seed 0, 30 steps of ddim")).last.click()
    page.locator(f'img[src="{first}"]').first.wait_for()
    steps = "Number(document.querySelector('[role=slider]').getAttribute('aria-valuenow')) == 30"
    page.wait_for_function(steps)


def compare(page) -> None:
    """A table over two settings, then two settings side by side, and a file."""
    page.get_by_text("X/Y comparison: two settings").click()
    page.get_by_label("Values").first.fill("1, 3")
    page.get_by_label("Values").nth(1).fill("7")
    page.get_by_role("button", name="Draw the table").click()
    page.get_by_text("Done: 2 images.").wait_for()
    page.locator('img[alt="The image drawn with Seed 7, Guidance scale 3"]').wait_for()

    page.get_by_role("button", name="Two settings side by side").click()
    page.get_by_label("Prompt", exact=True).nth(1).wait_for()
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("On average A and B differ by 0.0 of 255 grey levels.").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save this image").first.click()
    assert saved.value.suggested_filename == "image-a-0.png"
    load_what_was_saved(page, saved.value.path())


def load_what_was_saved(page, file: Path) -> None:
    """The buttons for files have plain names, before and after a file."""
    page.get_by_text("More settings").first.click()
    page.get_by_role("button", name="A file (PNG, JPEG …)", exact=True).first.wait_for()
    button = page.get_by_role("button", name="Load settings from an image (PNG)", exact=True).first
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": file.read_bytes()})
    page.get_by_text("These are the settings of a.png. Press Draw.").wait_for()
    button.wait_for()


def test_in_jupyterlab(in_lab):
    use(in_lab)


def test_as_an_app(as_app):
    use(as_app)
    assert too_wide(as_app) == []
    narrow(as_app)


def test_as_an_app_on_a_phone(page, request):
    page.set_viewport_size({"width": 420, "height": 900})
    opened = request.getfixturevalue("as_app")
    use(opened)
    narrow(opened)


def narrow(page) -> None:
    """At 420 pixels nothing is wider than the page."""
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert too_wide(page) == []


def too_wide(page) -> list[str]:
    """What reaches beyond the right edge of the page."""
    return page.evaluate(
        "[...document.querySelectorAll('.jupyter-widgets, .jupyter-widgets img, table')]"
        ".filter(e => e.getBoundingClientRect().right > window.innerWidth + 1)"
        ".map(e => e.tagName + ' ' + e.className)"
    )


def test_a_page_that_is_closed_ends_its_kernel(page, tmp_path):
    """More pages, one after the other, than may be open at once; and the cookie is enough."""
    slider = nbformat.v4.new_code_cell("import ipywidgets; ipywidgets.IntSlider()")
    notebook = nbformat.v4.new_notebook(cells=[slider])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    port = free_port()
    (tmp_path / "tiny.py").write_text(
        "from pathlib import Path; from sdlearn.cli.playground_server import bind, serve\n"
        f"serve(Path('tiny.ipynb').resolve(), bind({port}), False)"
    )
    with served(["tiny"], f"http://127.0.0.1:{port}/", tmp_path):
        (address,) = re.findall(r"http://\S+", (tmp_path / "log.txt").read_text("utf-8"))
        for _ in range(6):
            page.goto(address)
            page.get_by_role("slider").wait_for()
            address = address.split("?")[0]
