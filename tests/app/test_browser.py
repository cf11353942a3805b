"""The playground in a real browser, in JupyterLab and as a page of its own."""

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
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "playground.ipynb"
PROMPT = "a yellow star above a green tree"
PATIENCE = 120_000  # milliseconds, for a machine with other things to do
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
            if server.poll() is not None or time.monotonic() - start > 120:
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
        page.goto(address)
        page.get_by_role("button", name="Draw").wait_for()
        page.get_by_text("Done in ").first.wait_for()  # its last cell has drawn the first picture
        yield page


def picture(page) -> str:
    """The drawn picture's data."""
    return page.locator('img[alt^="The picture drawn for:"]').first.get_attribute("src")


def use(page) -> None:
    """What a reader does: type, draw, look, change a slider, stop, draw again by the keyboard."""
    draw = page.get_by_role("button", name="Draw", exact=True)
    status = page.locator('[role="status"]').first
    said = page.get_by_text
    first = picture(page)

    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    draw.click()
    page.locator(f'img[alt="The picture drawn for: {PROMPT}"]').wait_for()
    second = picture(page)
    assert second != first
    status.filter(has_text="Done in ").wait_for()

    page.get_by_role("button", name="tree", exact=True).click()
    page.locator('img[alt^="Map of the word tree"]').wait_for()

    steps = page.get_by_role("slider").first
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
    said("Drawing …").first.wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    said("Stopped.").first.wait_for()
    assert picture(page) == second

    steps.focus()
    page.keyboard.press("Home")  # a single step
    page.get_by_label("Prompt", exact=True).press("Enter")
    said("Done in ").first.wait_for()
    assert picture(page) not in (first, second)

    page.get_by_role("button", name="Two settings side by side").click()
    page.get_by_label("Prompt", exact=True).nth(1).wait_for()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save this picture").first.click()
    assert saved.value.suggested_filename == "picture-a-0.png"


def test_in_jupyterlab(in_lab):
    use(in_lab)


def test_as_an_app(as_app):
    use(as_app)


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
