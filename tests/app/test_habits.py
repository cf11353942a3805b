"""Workflows, hooks, types, spelling and citation agree with what they are about.

Everything here is compared with where it is decided: the versions of Python in lab.py and
pyproject.toml, the versions of packages in constraints.txt, the version of sdlearn in sdlearn.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from lowest import lowest
from nbcheck import PACKAGE_HOSTS

import lab
import sdlearn

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
HOOKS = ROOT / ".pre-commit-config.yaml"
SUPPORTED = [f"3.{minor}" for minor in range(lab.OLDEST[1], lab.TOO_NEW[1])]
CFF = {  # the entries that Citation File Format 1.2.0 knows
    "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi",
    "identifiers", "keywords", "license", "license-url", "message", "preferred-citation",
    "references", "repository", "repository-artifact", "repository-code", "title", "type", "url",
    "version",
}  # fmt: skip


def parsed(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text("utf-8"))


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def python_of(job: dict[str, Any]) -> str:
    (step,) = (s for s in job["steps"] if s.get("uses", "").startswith("actions/setup-python@"))
    return step["with"]["python-version"]


# ------------------------------------------------------------------------------------- workflows


def test_the_supported_pythons_are_the_same_everywhere():
    assert f">=3.{lab.OLDEST[1]}" == PROJECT["requires-python"]
    assert PYPROJECT["tool"]["mypy"]["python_version"] == SUPPORTED[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py3{lab.OLDEST[1]}"
    minors = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if " Python :: 3." in c}
    assert sorted(minors) == SUPPORTED


def test_the_readme_s_test_command_runs_on_every_system_and_python():
    job = parsed(ROOT / ".github/workflows/tests.yml")["jobs"]["test"]
    matrix = job["strategy"]["matrix"]
    assert matrix["python"] == SUPPORTED
    assert [name.split("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert [each["os"] for each in matrix["include"]] == matrix["os"]
    assert job["runs-on"] == "${{ matrix.os }}"
    assert python_of(job) == "${{ matrix.python }}"
    assert job["strategy"]["fail-fast"] is False
    command = job["steps"][-1]["run"]
    assert command == "python lab.py test"
    assert re.search(rf"^{command}\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_one_job_lints_and_one_installs_the_lowest_versions():
    jobs = parsed(ROOT / ".github/workflows/tests.yml")["jobs"]
    assert jobs["lint"]["steps"][-1]["run"] == "python lab.py lint"
    assert python_of(jobs["lint"]) == python_of(jobs["lowest"]) == SUPPORTED[0]
    said = [step["run"] for step in jobs["lowest"]["steps"] if "run" in step]
    assert said[1].startswith("python tools/lowest.py > ")
    assert said[2].endswith('-c "$RUNNER_TEMP/lowest.txt" -e .[course,test]')
    assert said[3].startswith("python -m pytest ")


def test_coverage_is_measured_once_a_week():
    workflow = parsed(ROOT / ".github/workflows/coverage.yml")
    (each,) = workflow[True]["schedule"]  # YAML 1.1 reads the word `on` as true
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", each["cron"])
    assert python_of(workflow["jobs"]["coverage"]) == SUPPORTED[-1]
    said = " ".join(step.get("run", "") for step in steps(workflow))
    assert "coverage run -m pytest" in said
    assert "coverage report" in said


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_stops_when_it_is_outdated_and_pins_its_actions(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    published = workflow["jobs"].get("publish", {}).pop("permissions", None)
    assert published == ({"pages": "write", "id-token": "write"} if path.stem == "site" else None)
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert "github.ref" in workflow["concurrency"]["group"]
    assert set(workflow[True]) <= {"push", "pull_request", "schedule", "workflow_dispatch"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120, name
        assert "permissions" not in job, name
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", action)
    text = path.read_text("utf-8")
    assert not re.search(PACKAGE_HOSTS, text)
    assert "secrets." not in text
    for step in steps(workflow):  # words of a pull request never become words of a command
        assert "github.event" not in step.get("run", "")


def test_there_are_three_workflows():
    assert [path.stem for path in WORKFLOWS] == ["coverage", "site", "tests"]


def test_the_site_is_tested_before_it_is_published():
    jobs = parsed(ROOT / ".github/workflows/site.yml")["jobs"]
    said = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    assert said == ["python lab.py site", "python lab.py test tests/site"]
    (tested,) = (s for s in jobs["build"]["steps"] if "tests/site" in s.get("run", ""))
    assert tested["env"]["SITE"] == "build/site"
    last = jobs["build"]["steps"][-1]
    assert last["uses"].startswith("actions/upload-pages-artifact@")
    assert last["with"] == {"path": "build/site"}
    assert jobs["publish"]["needs"] == "build"
    assert "run" not in {key for step in jobs["publish"]["steps"] for key in step}
    used = [step["uses"].split("@")[0] for step in jobs["publish"]["steps"]]
    assert used == ["actions/configure-pages", "actions/deploy-pages"]


def test_only_jobs_that_install_the_site_s_packages_run_its_tests():
    """The tests of the web edition fail where CI is set and these packages are missing."""
    for workflow, job in (("tests", "lowest"), ("coverage", "coverage")):
        job = parsed(ROOT / f".github/workflows/{workflow}.yml")["jobs"][job]
        (command,) = (s["run"] for s in job["steps"] if "-m pytest" in s.get("run", ""))
        assert " --ignore=tests/site " in f"{command} "


# -------------------------------------------------------------------------------- lowest versions


def test_the_lowest_versions_are_the_lower_bounds():
    assert lowest(["torch>=2.6", "transformers>=5.0,<6", "numpy>=2.0", "torch>=2.6"]) == {
        "numpy": "2.0",
        "torch": "2.6",
        "transformers": "5.0",
    }


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        (["torch"], "'torch' has no lower bound; write it as name>=version"),
        (["torch==2.6"], "'torch==2.6' has no lower bound"),
        (["torch>=2.6", "torch>=2.7"], "torch has two lower bounds, 2.6 and 2.7"),
    ],
)
def test_a_requirement_without_one_lower_bound_is_named(requirements, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        lowest(requirements)


def test_the_script_prints_a_constraint_for_every_direct_dependency():
    command = [sys.executable, str(ROOT / "tools" / "lowest.py")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.match(r"[a-z0-9-]+", text)[0] for group in groups for text in group}
    assert {line.partition("==")[0] for line in said} == names
    assert "transformers==5.0" in said


# ----------------------------------------------------------------------------------------- hooks


def test_hooks_use_the_tested_versions():
    (repository,) = parsed(HOOKS)["repos"]
    assert repository["repo"] == "local"
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    for hook in repository["hooks"]:
        for package in hook["additional_dependencies"]:
            assert package in pins or re.fullmatch(r"pre-commit-hooks==\d+\.\d+\.\d+", package)


def test_hooks_and_lint_run_the_same_tools():
    said = " ".join(hook["entry"] for hook in parsed(HOOKS)["repos"][0]["hooks"])
    for part in ("ruff check", "ruff format", "codespell", "tools/nbtool.py check"):
        assert part in said
    assert [name for name, _ in lab.LINT] == [
        "ruff check",
        "ruff format",
        "mypy",
        "codespell",
        "stored notebooks",
        "reading times",
    ]


# ----------------------------------------------------------------------------------------- types


def test_everything_but_tests_is_type_checked_strictly():
    settings = PYPROJECT["tool"]["mypy"]
    assert settings["strict"] is True
    checked = {file for pattern in settings["files"] for file in ROOT.glob(pattern)}
    checked |= {file for place in checked if place.is_dir() for file in place.rglob("*.py")}
    known = [*ROOT.glob("*.py")]
    for folder in ("sdlearn", "tools", "tests", "benchmarks", "examples"):
        known += (ROOT / folder).rglob("*.py")
    unchecked = {path.relative_to(ROOT).as_posix() for path in known if path not in checked}
    # Learners' answers are as untyped as learners write them.
    tests = r"/(test_\w+|__init__)\.py$|^tests/course/answers/nb\d\d\.py$"
    assert [name for name in unchecked if not re.search(tests, name)] == []


# -------------------------------------------------------------------------------------- spelling


def misspelt(folder: Path, *files: str) -> list[str]:
    """The files of a folder in which codespell finds slips, with this repository's settings."""
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml")]
    command += files or ["."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stderr == ""
    return sorted(re.findall(r"^\.[\\/]([^:]+):\d+: ", done.stdout, re.MULTILINE))


def test_a_slip_is_found_in_every_kind_of_text(tmp_path):
    slip = "reci" + "eve"
    for name in ("code.py", "page.md", "list.txt", "settings.toml", "flow.yml", ".hidden.yml"):
        (tmp_path / name).write_text(f"# what we {slip}\n")
    cell = {
        "cell_type": "markdown",
        "metadata": {},
        "source": ["A line\n", f"{slip}d at its start"],
    }
    picture = {"output_type": "display_data", "data": {"image/png": f"{'A1b+/' * 30}/{slip}/=="}}
    (tmp_path / "sound.ipynb").write_text(json.dumps({"cells": [{"outputs": [picture]}]}))
    (tmp_path / "wrong.ipynb").write_text(json.dumps({"cells": [cell, {"outputs": [picture]}]}))
    assert misspelt(tmp_path) == [
        ".hidden.yml", "code.py", "flow.yml", "list.txt", "page.md", "settings.toml", "wrong.ipynb"
    ]  # fmt: skip


def test_british_words_and_mathematical_names_are_no_slips(tmp_path):
    words = (
        "colour behaviour normalise modelling centre grey neighbour licence programme analyse "
        "initialise labelled catalogue metre sceptical ageing towards whilst "
        "alphabar eps sigma ddpm ddim lms plms nd bnd einsum softmax logvar unet vae lambdas"
    )
    (tmp_path / "page.md").write_text(words)
    assert misspelt(tmp_path) == []


def test_the_pieces_of_words_in_a_tokenizer_are_no_slips(tmp_path):
    """Neither where codespell looks for files itself, nor where a hook names them."""
    place = tmp_path / "data" / "tokenizer"
    place.mkdir(parents=True)
    for file in (place / "merges.txt", tmp_path / "tokenizer.py"):
        file.write_text("yel" + "lo\n")
    assert misspelt(tmp_path) == ["tokenizer.py"]
    assert misspelt(tmp_path, "data/tokenizer/merges.txt", "./tokenizer.py") == ["tokenizer.py"]


# -------------------------------------------------------------------------------------- citation


def test_the_citation_is_valid_and_cites_this_version():
    cited = parsed(ROOT / "CITATION.cff")
    assert set(cited) <= CFF
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["authors"] == [{"name": "The sdlearn authors"}]
    assert cited["title"].startswith(PROJECT["name"])
    assert cited["version"] == sdlearn.__version__
    assert cited["license"] == PROJECT["license"] == "Apache-2.0"
    assert cited["keywords"] == PROJECT["keywords"]
