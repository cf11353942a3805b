"""The package is in layers, and imports point down: every import of every module is read and held
to the edges that are allowed here."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import sdlearn
import sdlearn.evaluation
import sdlearn.weights

PACKAGE = Path(sdlearn.__file__).parent
MOST_LINES = 320

# What each layer may import. A chapter is a module at the top of the package.
ALLOWED = {
    "chapters": {"chapters"},
    "utils": {"utils"},
    "weights": {"chapters", "utils", "weights"},
    "storybook": {"utils", "storybook"},
    "recipes": {"chapters", "utils", "weights", "storybook", "recipes"},
    # The model card tells how a model was made, so evaluation is above the recipes.
    "evaluation": {"chapters", "utils", "weights", "storybook", "recipes", "evaluation"},
    "course": {
        "chapters", "utils", "weights", "storybook", "recipes", "evaluation", "course",
    },
    "cli": {
        "chapters", "utils", "weights", "storybook", "recipes", "evaluation", "course", "cli",
    },
    "face": {"chapters"},  # sdlearn/__init__.py
}  # fmt: skip

# The exceptions: (module, what it imports, a module or a layer), with the reason.
EXCEPTIONS = {
    ("training", "utils.atomic_files"): "metrics are on the disk before a checkpoint is",
    ("training", "utils.checkpoint"): "a run that was killed goes on from its checkpoint",
    ("training", "utils.metrics_file"): "and so do its metrics",
    ("training", "utils.run_limits"): "limits are checked before the first step",
    ("training", "utils.sample_files"): "contact sheets are whole or absent",
    ("training", "utils.sharded_tensors"): "checkpoints gather what is sharded, so it is below",
    ("distributed", "utils.sharded_tensors"): "the gradients of sharded weights are averaged",
    ("sharding", "utils.sharded_tensors"): "checkpoints gather what is sharded, so it is below",
    ("pipeline", "utils"): "what a caller hands in is checked there, and the device picked",
    ("editing", "utils"): "it checks what a caller hands in as the pipeline does",
    ("flow", "utils.validation"): "a number that a caller hands in is checked as in the pipeline",
    ("lora", "utils.validation"): "and so is a strength",
    ("lora_merging", "utils.validation"): "and so is a strength",
    ("utils.pipeline_inputs", "chapters"): "the first half of pipeline: it checks for all chapters",
    ("utils.sampling_checks", "chapters"): "pipeline_inputs' checks that need no weights",
    ("utils.png_metadata", "pipeline"): "the settings in a file are drawn again by the pipeline",
    (
        "utils.png_metadata",
        "controlnet",
    ): "the settings name the ControlNet that follows their hint",
    ("utils.png_metadata", "lora"): "and the adapters",
    ("utils.png_metadata", "samplers"): "the settings name a sampler",
    ("utils.png_metadata", "face"): "a file says which version of the package made it",
    ("recipes.judge", "evaluation.judge"): "the network that this recipe trains",
    ("face", "utils.sampling"): "sdlearn.Sampling is a public name",
}
# The same, for imports inside a function only. They are no edges of a circle: nothing is imported
# before from_pretrained or save_pretrained is called.
IN_FUNCTIONS = {
    ("pipeline", "weights"): "from_pretrained, save_pretrained and their like use files",
    ("controlnet", "weights"): "from_pretrained and save_pretrained read and write files",
}


class Import(NamedTuple):
    """One import: both modules by their names inside the package, such as "utils.device"."""

    source: str
    target: str
    in_function: bool


def name_in(package: Path, file: Path) -> str:
    parts = file.relative_to(package).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(package: Path) -> list[Import]:
    """Every import of a module of the package by another one, wherever it is written."""
    files = {name_in(package, file): file for file in sorted(package.rglob("*.py"))}
    return [
        Import(source, target, in_function)
        for source, file in files.items()
        for dotted, in_function in written(ast.parse(file.read_text("utf-8")), file, package)
        if (target := longest(dotted, files)) is not None and target != source
    ]


def written(
    node: ast.AST, file: Path, package: Path, in_function: bool = False
) -> Iterator[tuple[str, bool]]:
    """The absolute names of what a syntax tree imports, and whether inside a function."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, in_function) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = [*file.relative_to(package.parent).parts[: -node.level]]
            base = ".".join([*above, *filter(None, [node.module])])
        yield from ((f"{base}.{alias.name}", in_function) for alias in node.names)
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        texts = [each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)]
        yield from ((str(text).rstrip("."), in_function) for text in texts[:1])
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from written(child, file, package, inside)


def longest(dotted: str, files: dict[str, Path]) -> str | None:
    """The module that holds a dotted name; None for one that is not of this package."""
    root, *parts = dotted.split(".")
    if root != PACKAGE.name:
        return None
    while parts and ".".join(parts) not in files:
        parts.pop()
    return ".".join(parts)


def layer(module: str) -> str:
    first = module.split(".", maxsplit=1)[0]
    if module in ("", "face"):
        return "face"
    if first == "__main__":
        return "cli"
    return first if first in ALLOWED else "chapters"


def keys(edge: Import) -> set[tuple[str, str]]:
    """The entries that would except an import."""
    source = edge.source or "face"
    return {(source, edge.target), (source, layer(edge.target))}


def forbidden(edges: list[Import]) -> list[str]:
    """A sentence for each import that points the wrong way."""
    return [
        f"{edge.source or 'face'} imports {edge.target or 'face'}"
        f"{' in a function' if edge.in_function else ''}"
        for edge in edges
        if layer(edge.target) not in ALLOWED[layer(edge.source)]
        and not keys(edge) & EXCEPTIONS.keys()
        and not (edge.in_function and keys(edge) & IN_FUNCTIONS.keys())
    ]


def circle(edges: list[Import]) -> list[str]:
    """A circle of imports, first module last; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for edge in edges:
        if not (edge.in_function and keys(edge) & IN_FUNCTIONS.keys()):
            graph.setdefault(edge.source, set()).add(edge.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_import_points_the_right_way():
    edges = imports(PACKAGE)
    assert len(edges) > 300, "the imports are no longer found"
    assert forbidden(edges) == []


def test_no_imports_form_a_circle():
    assert circle(imports(PACKAGE)) == []


def test_every_exception_is_needed():
    found = set().union(*(keys(edge) for edge in imports(PACKAGE)))
    assert {*EXCEPTIONS, *IN_FUNCTIONS} <= found


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("unet.py", "from sdlearn.course import api", "unet imports course.api"),
        ("unet.py", "import sdlearn.cli.main", "unet imports cli.main"),
        (
            "unet.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sdlearn import weights",
            "unet imports weights",
        ),
        (
            "unet.py",
            "def f():\n    def g():\n        from sdlearn.weights.hub import x",
            "unet imports weights.hub in a function",
        ),
        ("unet.py", "from . import weights as w", "unet imports weights"),
        ("utils/device.py", "from ..weights.hub import x", "utils.device imports weights.hub"),
        ("weights/hub.py", "from .. import course", "weights.hub imports course"),
        ("weights/__init__.py", "from ..course.api import x", "weights imports course.api"),
        ("pipeline.py", "from sdlearn.weights import hub", "pipeline imports weights.hub"),
        ("course/api.py", "import sdlearn.cli", "course.api imports cli"),
        (
            "evaluation/judge.py",
            "from importlib import import_module\ncli = import_module(f'sdlearn.cli.{name}')",
            "evaluation.judge imports cli",
        ),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, file: str, text: str, said: str):
    assert forbidden(imports(made_up(tmp_path, {file: text}))) == [said]


def test_what_is_allowed_is_not_reported(tmp_path: Path):
    package = made_up(tmp_path, {
        "unet.py": "from .vae import VAE\nimport torch\nfrom os import path",
        "pipeline.py": "def load():\n    from sdlearn.weights import hub",
        "weights/hub.py": "from sdlearn.pipeline import x\nfrom ..utils import device",
    })  # fmt: skip
    assert forbidden(imports(package)) == []
    assert circle(imports(package)) == []


@pytest.mark.parametrize("text", ["from .unet import x", "def f():\n    import sdlearn.unet"])
def test_a_circle_is_found(tmp_path: Path, text: str):
    edges = imports(made_up(tmp_path, {"unet.py": "from sdlearn import vae", "vae.py": text}))
    assert set(circle(edges)) == {"unet", "vae"}


def made_up(folder: Path, files: dict[str, str]) -> Path:
    """A package named sdlearn of empty modules and the given ones."""
    names = ("__init__", "vae", "weights/__init__", "weights/hub", "utils/device", "course/api")
    empty = (f"{name}.py" for name in (*names, "course/__init__", "cli/__init__", "cli/main"))
    for name, text in (dict.fromkeys(empty, "") | files).items():
        path = folder / "sdlearn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder / "sdlearn"


def test_no_file_is_too_long_to_read():
    """The exercises are data, and as long as they must be."""
    files = [file for file in PACKAGE.rglob("*.py") if file.parent.name != "exercises"]
    lines = {name_in(PACKAGE, file): len(file.read_text("utf-8").splitlines()) for file in files}
    assert len(lines) > 100
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def loaded(module: str) -> set[str]:
    """What is in sys.modules after an import in a fresh process."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["sdlearn.controlnet", "sdlearn.inpainting"])
def test_a_chapter_loads_few_others(module: str):
    ours = sorted(name for name in loaded(module) if name.split(".")[0] == "sdlearn")
    assert module in ours
    assert len(ours) <= 6, ours


@pytest.mark.parametrize(
    "module",
    ["sdlearn.utils.sampling", "sdlearn.utils.validation", "sdlearn.weights", "sdlearn.cli.main"],
)
def test_what_answers_at_once_does_not_load_torch(module: str):
    names = loaded(module)
    assert module in names
    assert "torch" not in names


@pytest.mark.parametrize("face", [sdlearn, sdlearn.weights, sdlearn.evaluation])
def test_a_lazy_package_shows_its_public_names_and_nothing_else(face):
    assert dir(face) == sorted(face.__all__)
    assert all(getattr(face, name) is not None for name in face.__all__)


def test_the_sampling_record_is_a_public_name():
    assert "Sampling" in sdlearn.__all__
    assert sdlearn.Sampling(steps=7).steps == 7


@pytest.mark.parametrize("name", ["samplers", "weights", "versions", "utils", "evaluation"])
def test_a_module_can_be_reached_through_the_package(name: str):
    code = f"import sdlearn; print(sdlearn.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True)
    assert done.stdout.decode().strip() == f"sdlearn.{name}"
