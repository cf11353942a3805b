"""The book of the web edition: its links, its pages in a real browser, and what it is made from."""

import functools
import http.server
import json
import os
import re
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import website_book
import website_links
import website_notebook
import website_pages

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = "https://github.com/somebody/sdlearn"
PATIENCE = 120_000  # milliseconds, for a machine with other things to do
WIDTHS = (390, 1280)
TEXTS = (".html", ".js", ".css", ".svg", ".txt")


def mathjax() -> Path:
    """Where npm put MathJax. Without it these tests are skipped, except where CI demands them."""
    place = Path(os.environ.get("MATHJAX", ROOT / "site/node_modules/mathjax"))
    if not place.exists():
        missing = "there is no MathJax: run `npm ci` in site/, or give its folder as MATHJAX"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return place


@pytest.fixture(scope="module")
def book(request, tmp_path_factory) -> Path:
    """The site, or the book alone where nothing builds the site."""
    try:
        return request.getfixturevalue("built")
    except pytest.FixtureLookupError:
        pytest.importorskip("sphinx")
        out = tmp_path_factory.mktemp("book")
        website_book.build(out, mathjax())
        return out


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """The book once more, as a repository on GitHub would build it."""
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("launched")
    website_book.build(out, mathjax(), REPOSITORY)
    return out


@pytest.fixture(scope="module")
def address(book) -> Iterator[str]:
    """The book on a plain server, below a path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return super().translate_path(path.removeprefix("/some/place"))

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some/place/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("there is no chromium, and CI is set: these tests must run")
    if found is None:
        pytest.skip("there is no chromium; its place may be given as CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", exc_type=ImportError)
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=found, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, address):
    """A tab whose errors, failed requests and requests elsewhere fail the test."""
    faults: list[str] = []
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(PATIENCE)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    opened.on("response", lambda r: faults.append(f"{r.status} {r.url}") if r.status >= 400 else 0)
    opened.on("request", lambda r: None if ours(r.url, address) else faults.append(r.url))
    opened.faults = faults
    yield opened
    opened.close()
    assert faults == []


def ours(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def pages(book: Path) -> list[str]:
    """The pages of the book, without the drawing page and without those of the source code."""
    names = (path.relative_to(book).as_posix() for path in sorted(book.rglob("*.html")))
    return [name for name in names if not name.startswith(("draw/", "_modules/"))]


# ------------------------------------------------------------------------------------ the files


def test_every_link_and_anchor_leads_somewhere_and_every_image_has_words(book):
    assert website_links.check(book) == []


def test_there_is_a_page_for_each_notebook_card_and_chapter(book):
    expected = {path.stem for path in NOTEBOOKS} | {"index", "teaching", "search"}
    expected |= set(website_pages.CARDS)
    chapters = {path.stem for path in (ROOT / "sdlearn").glob("*.py") if path.stem[0] != "_"}
    expected |= {f"api/{name}" for name in chapters | {"index", "utils.sampling"}}
    assert {name.removesuffix(".html") for name in pages(book)} == expected


def test_the_notebooks_to_download_are_the_repository_s(book):
    for path in NOTEBOOKS:
        assert (book / "notebooks" / path.name).read_bytes() == path.read_bytes(), path.name
        page = (book / f"{path.stem}.html").read_text("utf-8")
        assert f'<a href="notebooks/{path.name}" download>' in page, path.name


def test_no_file_names_a_folder_of_the_machine_that_built_it(book):
    folders = {str(ROOT), str(book), str(Path.home()), "/tmp/", "/site-packages/"} - {"/"}
    for path in book.rglob("*"):
        if path.suffix in TEXTS and "draw" not in path.parts:
            text = path.read_text("utf-8")
            assert [folder for folder in folders if folder in text] == [], path


def test_two_builds_differ_in_the_launch_buttons_only(book, launched):
    notebooks = {f"{path.stem}.html" for path in NOTEBOOKS}
    made = [path.relative_to(launched) for path in launched.rglob("*") if path.is_file()]
    different = {str(p) for p in made if (book / p).read_bytes() != (launched / p).read_bytes()}
    assert different == notebooks | {"index.html"}  # which names the repository


def test_every_public_name_is_in_the_reference(book):
    import sdlearn

    text = "".join(path.read_text("utf-8") for path in (book / "api").glob("*.html"))
    anchors = set(re.findall(r'id="sdlearn\.([\w.]+)"', text))
    names = [name for name in sdlearn.__all__ if name not in ("__version__", "SPECS")]
    missing = [n for n in names if f"{sdlearn._HOME[n]}.{n}" not in anchors]
    assert missing == []
    assert 'href="../_modules/sdlearn/unet.html#UNet"' in text


# ------------------------------------------------------------------------- what it is made from


def formulas(notebook: Path) -> int:
    """The number of formulas in the text of a notebook, its quiz and the hints of its exercises."""
    from sdlearn.course import exercises

    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    number = 0
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"```.*?```|`[^`]*`", "", "".join(cell["source"]), flags=re.S)
            number += len(re.findall(r"\$\$", text)) // 2
            number += len(re.findall(r"(?<!\\)\$", text.replace("$$", ""))) // 2
        elif cell["id"] == "quiz":
            quiz = "".join(cell["outputs"][0]["data"]["text/html"])
            number += quiz.count("$") // 2
    own = exercises.exercises(notebook.name[:2]) if notebook.name[0].isdigit() else ()
    return number + sum("".join(exercise.hints).count("$") // 2 for exercise in own)


def test_every_formula_of_the_notebooks_is_in_its_page(book):
    total = 0
    for path in NOTEBOOKS:
        page = (book / f"{path.stem}.html").read_text("utf-8")
        found = len(re.findall(r'<(?:span|div) class="math ', page))
        assert found == formulas(path), path.name
        assert "$" not in re.sub(r"<(pre|code|script)\b.*?</\1>|<[^>]*>", "", page, flags=re.S)
        total += found
    assert total > 1000


def test_a_wrong_link_stops_the_build(tmp_path):
    pytest.importorskip("sphinx")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "site/book", source)
    (source / "settings.json").write_text("{}", "utf-8")
    (source / "index.md").write_text("# A page\n\n[A link](nowhere.md)\n", "utf-8")
    with pytest.raises(website_book.BookError, match=r"(?s)index\.md:3: WARNING.*nowhere"):
        website_book.run_sphinx(source, tmp_path / "made")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('<a href="other.html">x</a>', "other.html leads to no file"),
        ('<a href="#there">x</a>', "#there leads to no place on that page"),
        ('<a href="b.html#there">x</a>', "b.html#there leads to no place on that page"),
        ('<a href="/b.html">x</a>', "/b.html does not work below another address"),
        ('<a href="../b.html">x</a>', "../b.html leads out of the site"),
        ('<img src="b.png">', "the image b.png has no alternative text"),
        ('<img src="c.png" alt="A cat.">', "c.png leads to no file"),
        ('<img src="https://elsewhere.org/b.png" alt="A cat.">', "from elsewhere"),
        ('<script src="//elsewhere.org/b.js"></script>', "from elsewhere"),
        ('<link rel="stylesheet" href="https://elsewhere.org/b.css">', "from elsewhere"),
        ('<iframe src="b.html"></iframe>', "the frame b.html has no title"),
        ('<p id="x"></p><p id="x"></p>', "the id x occurs twice"),
    ],
)
def test_a_fault_of_a_page_is_named(tmp_path, text, sentence):
    (tmp_path / "b.html").write_text('<h1 id="here">A page</h1>', "utf-8")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "a.html").write_text(text, "utf-8")
    (fault,) = website_links.check(tmp_path)
    assert fault.startswith("a.html: ")
    assert sentence in fault


def test_right_links_and_links_elsewhere_are_no_fault(tmp_path):
    (tmp_path / "b.html").write_text('<h1 id="a-é">A page</h1><a name="old"></a>', "utf-8")
    links = ["b.html", "b.html#a-%C3%A9", "b.html#old", "https://arxiv.org/abs/1", "draw/"]
    text = "".join(f'<a href="{link}">x</a>' for link in [*links, "", "draw/#prompt=a"])
    (tmp_path / "a.html").write_text(text, "utf-8")
    assert website_links.check(tmp_path) == []
    (tmp_path / "draw").mkdir()
    assert len(website_links.check(tmp_path)) == 2  # now the drawing page is missed


def test_mentions_of_notebooks_become_links_but_not_in_code_or_links():
    names = {"07": "07-noise.ipynb"}
    text = "See notebook 07, `notebook 07`, [notebook 07](x) and notebook 33.\n\n# Notebook 07\n"
    expected = text.replace("See notebook 07", "See [notebook 07](07-noise.ipynb)")
    assert website_notebook.linked(text, names) == expected


# --------------------------------------------------------------------------- the launch buttons


def test_launch_buttons_need_a_repository(book, launched):
    assert website_book.address() or "mybinder.org" not in (book / "04-attention.html").read_text()
    for path in NOTEBOOKS:
        page = (launched / f"{path.stem}.html").read_text("utf-8")
        links = re.findall(r'<a class="button launch" href="([^"]+)"', page)
        assert len(links) == 2, path.name
        binder, colab = (urllib.parse.urlsplit(link.replace("&amp;", "&")) for link in links)
        assert (binder.netloc, binder.path) == ("mybinder.org", "/v2/gh/somebody/sdlearn/main")
        (opened,) = urllib.parse.parse_qs(binder.query)["urlpath"]
        assert (ROOT / opened.removeprefix("lab/tree/")).samefile(path)
        assert colab.netloc == "colab.research.google.com"
        assert colab.path == f"/github/somebody/sdlearn/blob/main/notebooks/{path.name}"
        assert "sdlearn[course] @ git+https://github.com/somebody/sdlearn" in page
    cover = (launched / "index.html").read_text("utf-8")
    assert f"git clone --depth 1 {REPOSITORY} sdlearn" in cover
    assert (ROOT / "environment.yml").is_file()  # what Binder installs


def test_only_a_repository_on_github_has_launch_buttons():
    assert website_book.launch_links("") == {}
    assert website_book.launch_links(f"{REPOSITORY}.git") == website_book.launch_links(REPOSITORY)
    with pytest.raises(ValueError, match=r"accepted: https://github\.com/OWNER/NAME"):
        website_book.launch_links("https://elsewhere.org/somebody/sdlearn")


# ------------------------------------------------------------------------------- in the browser


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen_and_every_formula_is_typeset(tab, address, book, width):
    tab.set_viewport_size({"width": width, "height": 900})
    for name in pages(book):
        tab.goto(address + name)
        state = tab.evaluate(
            """async () => {
                if (document.querySelector(".math")) {
                    const wait = () => new Promise((done) => setTimeout(done, 20));
                    while (!window.MathJax?.startup?.promise) await wait();
                    await MathJax.startup.promise;
                }
                for (const fold of document.querySelectorAll("details")) fold.open = true;
                const number = (what) => document.querySelectorAll(what).length;
                return [
                    document.documentElement.scrollWidth - window.innerWidth,
                    number(".math") - number("mjx-container"),
                    number("mjx-merror, [data-mml-node=merror], merror"),
                ];
            }"""
        )
        assert state == [0, 0, 0], name
        assert tab.faults == [], name


def test_the_search_finds_a_phrase(tab, address):
    tab.goto(address + "04-attention.html")
    tab.locator(".find input").fill("rank collapse")
    tab.locator(".find input").press("Enter")
    found = tab.locator("#search-results li a")
    found.first.wait_for()
    tab.wait_for_function("document.querySelector('#search-results').innerText.includes('rank')")
    assert any("04-attention.html" in (a.get_attribute("href") or "") for a in found.all())


def test_a_quiz_a_folded_cell_and_a_description_open(tab, address):
    tab.goto(address + "04-attention.html")
    answer = tab.locator(".quiz details").first
    assert not answer.locator("blockquote").is_visible()
    answer.locator("summary").click()
    assert answer.locator("blockquote").is_visible()
    assert answer.locator("blockquote").inner_text().startswith("✗ Not quite")
    cell = tab.locator(".cell.tag_hide-input").first
    assert not cell.locator(".cell_input").is_visible()
    cell.get_by_text("Show the code").click()
    assert "figures." in cell.locator(".cell_input").inner_text()
    figure = tab.locator("figure.figure").first
    words = figure.locator("img").get_attribute("alt")
    figure.get_by_text("The figure in words").click()
    assert words in figure.locator("details").inner_text()


def test_hints_and_a_solution_can_be_opened(tab, address):
    tab.goto(address + "04-attention.html")
    folds = [fold.inner_text() for fold in tab.locator(".help").first.locator("summary").all()]
    assert folds == ["Hint 1", "Hint 2", "Hint 3"]  # the next cell has the library's code
    hint = tab.locator(".help details").first
    hint.locator("summary").click()
    assert hint.locator("p").inner_text()
    solution = tab.locator(".help details", has_text="A solution").first
    assert not solution.locator("pre").is_visible()
    solution.locator("summary").click()
    assert "return" in solution.locator("pre").inner_text()


def test_a_widget_s_place_loads_the_drawing_page_on_a_click_only(tab, address):
    drawn = []

    def draw(route):
        drawn.append(route.request.url)
        route.fulfill(
            body="<!doctype html><link rel=icon href='data:,'><p>Drawing", content_type="text/html"
        )

    tab.route("**/draw/**", draw)
    tab.goto(address + "09-sampling.html")
    box = tab.locator(".live")
    assert "Live in the notebook" in box.inner_text()
    assert drawn == []
    box.get_by_role("button", name="Draw here").click()
    box.frame_locator("iframe").get_by_text("Drawing").wait_for()
    assert drawn == [f"{address}draw/index.html"]
    assert box.locator("iframe").get_attribute("title")


def test_the_contents_open_on_a_narrow_screen_and_the_theme_can_be_changed(tab, address):
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(address + "04-attention.html")
    contents = tab.get_by_role("navigation", name="Contents")
    assert not contents.is_visible()
    tab.get_by_role("button", name="Contents").click()
    contents.get_by_role("link", name="Sampling").click()
    tab.wait_for_url("**/09-sampling.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.get_by_role("button", name="Dark or light").click()
    assert tab.evaluate(ground) != light
    tab.reload()
    assert tab.evaluate(ground) != light
