"""The lists of dependencies agree, the package imports lightly, and the wheel carries the model."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import lab
import sdlearn
from sdlearn.utils.resources import data_folder

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *EXTRAS.values())
    for text in group
]  # fmt: skip


# What `lab.py setup` does not install: the web edition's packages, and npm where there is none.
LATER = {Requirement(text).name for extra in ("site", "node") for text in EXTRAS[extra]}


def pins() -> dict[str, str]:
    """constraints.txt as {name: version}; every line must be an exact version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; .+)?", line).groups()
            found[name] = version
    return found


def environment() -> tuple[str, list[str]]:
    """environment.yml as (Python version, pip's lines)."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = (d for d in listed if isinstance(d, str) and d.startswith("python="))
    (pip,) = (d["pip"] for d in listed if isinstance(d, dict))
    assert {d for d in listed if isinstance(d, str)} == {python, "pip"}, "conda brings Python only"
    return python.removeprefix("python="), pip


@pytest.mark.parametrize("wanted", DIRECT, ids=lambda r: r.name)
def test_every_direct_dependency_is_pinned_inside_its_range_and_installed_so(wanted):
    pin = pins()[wanted.name]
    assert wanted.specifier.contains(pin), f"{wanted} does not allow the tested {pin}"
    if wanted.name in LATER and not installed(wanted.name):
        pytest.skip("installed when the web edition is first built")
    assert Version(metadata.version(wanted.name)).public == pin


def installed(name: str) -> bool:
    return any(metadata.distributions(name=name))


def test_torch_is_the_version_everything_was_measured_with():
    assert pins()["torch"] == "2.13.0"


def test_environment_yml_installs_what_lab_py_installs():
    python, pip = environment()
    assert [word for line in pip for word in line.split()] == lab.WANTED
    (extras,) = re.findall(r"\[(.+)\]", pip[-1])
    assert set(extras.split(",")) <= set(EXTRAS)
    assert (*map(int, python.split(".")),) == lab.OLDEST
    assert PROJECT["requires-python"] == f">={python}"


def test_binder_finds_environment_yml_and_nothing_that_it_would_prefer():
    """repo2docker looks into other folders first, and for other files before environment.yml."""
    folders = [ROOT, ROOT / "binder", ROOT / ".binder"]
    assert [folder for folder in folders if folder.exists()] == [ROOT]
    preferred = ("Dockerfile", "install.R", "DESCRIPTION", "default.nix", "Project.toml")
    assert [name for name in preferred if (ROOT / name).exists()] == []
    # It builds in the repository itself if, and only if, a line of pip's is a local one.
    assert any(line.startswith("-e .") for line in environment()[1])


def test_the_web_edition_s_packages_are_a_part_of_their_own():
    assert lab.SITE_WANTED == ["-c", "constraints.txt", "-e", ".[site]"]
    assert "site" not in lab.WANTED[-1]
    assert not LATER & {Requirement(text).name for text in EXTRAS["course"] + EXTRAS["test"]}


SUPPLIED = {"PIL": "pillow", "IPython": "ipykernel", "traitlets": "ipywidgets"}


@pytest.mark.parametrize("extra", ["course", "colab"])
def test_an_installation_without_a_clone_has_all_that_the_notebooks_import(extra):
    texts = {path: path.read_text("utf-8") for path in (ROOT / "sdlearn" / "course").rglob("*.py")}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                texts[path / cell["id"]] = "".join(cell["source"])
    wanted = {name: path for path, text in texts.items() for name in imported(text)}
    wanted = {name: path for name, path in wanted.items() if name not in sys.stdlib_module_names}
    assert {"torch", "matplotlib", "scipy", "anywidget", "sdlearn"} <= set(wanted)
    brought = {Requirement(text).name for text in PROJECT["dependencies"] + EXTRAS[extra]}
    brought |= {"sdlearn"} | ({"ipykernel"} if extra == "colab" else set())  # Colab's own
    missing = {
        n: p for n, p in wanted.items() if SUPPLIED.get(n, n).replace("_", "-") not in brought
    }
    assert missing == {}


def imported(code: str) -> set[str]:
    """The top-level names that code imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.skipif(not os.environ.get("CI"), reason="asks the network; runs where CI is set")
@pytest.mark.parametrize("extra", ["course", "colab"])
def test_the_repository_s_address_is_enough_to_install_the_course(tmp_path, extra):
    """As in Colab: pip install "sdlearn[colab] @ git+ADDRESS", without a clone or constraints."""
    uv = [sys.executable, "-m", "uv"]
    settings = {**lab.uv_settings(lab.pip_config()), **os.environ}
    subprocess.run([*uv, "venv", "-q", str(tmp_path / "empty")], check=True, env=settings)
    install = [*uv, "pip", "install", "--dry-run", "--python", str(tmp_path / "empty")]
    done = subprocess.run(
        [*install, f"sdlearn[{extra}] @ git+{ROOT.as_uri()}"],
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    chosen = set(re.findall(r"^ \+ ([\w.-]+)[= @]", done.stderr, re.MULTILINE))
    assert {"sdlearn", "torch", "matplotlib", "anywidget"} <= chosen
    assert ("jupyterlab" in chosen) == (extra == "course")


@pytest.mark.skipif(not os.environ.get("CI"), reason="asks the network; runs where CI is set")
def test_environment_yml_resolves_in_an_empty_environment(tmp_path):
    uv = [sys.executable, "-m", "uv"]
    settings = {**lab.uv_settings(lab.pip_config()), **os.environ}
    subprocess.run([*uv, "venv", "-q", str(tmp_path / "empty")], check=True, env=settings)
    resolved = subprocess.run(
        [*uv, "pip", "install", "--dry-run", "--python", str(tmp_path / "empty"), "-r", "-"],
        input="\n".join(environment()[1]),
        cwd=ROOT,
        env=settings,
        capture_output=True,
        text=True,
    )
    assert resolved.returncode == 0, resolved.stderr
    chosen = dict(re.findall(r"^ \+ ([\w.-]+)==([^\s+]+)", resolved.stderr, re.MULTILINE))
    assert chosen["torch"] == "2.13.0"
    unpinned = {n for n in chosen if n not in pins() and not re.match("sdlearn|nvidia|cuda|tri", n)}
    assert unpinned <= {"setuptools"}, "constraints.txt should name these"


def test_import_is_light_until_a_name_is_used():
    code = "import sys, sdlearn; print(sorted({'torch', 'transformers', 'numpy'} & {*sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == "[]", said.stderr


@pytest.mark.parametrize("name", sdlearn.__all__)
def test_every_public_name_is_there(name):
    assert getattr(sdlearn, name) is not None
    assert name in dir(sdlearn)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sdlearn' has no attribute 'StableDifusion'"):
        sdlearn.StableDifusion  # noqa: B018


def test_a_missing_shipped_folder_is_named():
    with pytest.raises(FileNotFoundError, match="'no-such-model' was not found"):
        data_folder("no-such-model")


def test_the_wheel_carries_the_code_and_the_model_and_finds_both(tmp_path):
    clone = tmp_path / "clone"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sdlearn", clone / "sdlearn", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    models = ["storybook", "judge", "storybook-controlnet", "storybook-inpaint"]
    models += ["storybook-few-steps", "storybook-transformer"]
    for model in models:
        (clone / "data" / model / "unet").mkdir(parents=True)
        (clone / "data" / model / "unet" / "config.json").write_text(model)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=clone, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("sdlearn-*.whl")
    assert f"-{sdlearn.__version__}-" in wheel.name
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        packed.extractall(tmp_path / "installed")
    modules = {p.relative_to(clone).as_posix() for p in (clone / "sdlearn").rglob("*.*")}
    assert modules <= names
    assert {
        "sdlearn/course/exercises/nb04_attention.md",
        "sdlearn/course/widgets/canvas.js",
    } <= modules
    assert {n.split("/")[0] for n in names} == {
        "sdlearn",
        f"sdlearn-{sdlearn.__version__}.dist-info",
    }

    code = (
        "from sdlearn.utils.resources import data_folder\n"
        f"for name in {models}:\n"
        "    assert (data_folder(name) / 'unet' / 'config.json').read_text() == name\n"
        "from sdlearn.course.exercises import find\n"
        "assert find('04.2').mistakes[0].name == 'reshape without transpose'\n"
        "import sdlearn; print(sdlearn.__file__)"
    )
    outside = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=outside, capture_output=True, text=True
    )
    assert said.stdout.startswith(str(tmp_path / "installed")), said.stderr
