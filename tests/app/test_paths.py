"""A message that names a path has one line, whatever the path."""

import re

import pytest
import torch

from sdlearn import weights
from sdlearn.cli.main import main
from sdlearn.controlnet import ControlNet
from sdlearn.evaluation.judge import load_judge
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.recipe import override
from sdlearn.recipes.unet import RECIPES
from sdlearn.storybook.folder import read_folder
from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.validation import check_place
from tests.tiny_folders import complaint
from tests.tiny_original import TINY1

CONTROLS = {
    "line break": "\n",
    "carriage return": "\r",
    "tabulator": "\t",
    "escape": "\x1b[31m",
    "delete": "\x7f",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
}
READERS = {
    "a model": lambda path: StableDiffusion.from_pretrained(path),
    "a tokenizer": lambda path: StableDiffusion.from_pretrained("x.ckpt", tokenizer=path),
    "a ControlNet": lambda path: ControlNet.from_pretrained(path),
    "weights": lambda path: weights.load(torch.nn.Linear(1, 1), path),
    "an original file": lambda path: weights.load_original(TINY1, path),
    "weights to write": lambda path: weights.save(torch.nn.Linear(1, 1), path),
    "captioned images": lambda path: read_folder(path, 8),
    "a judge": lambda path: load_judge(path),
    "any path": user_path,
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_is_named(control):
    path = f"models/my{CONTROLS[control]}model"
    said = complaint(lambda: check_place(path, "--model"))
    assert said.startswith("--model is 'models/my")
    assert said.endswith("a path with a line break or another control character is not accepted, "
                         "so rename it")  # fmt: skip
    assert said.isprintable()


@pytest.mark.parametrize("name", ["a b", "é", "a\u00a0b", "猫\u3000", "\u200bx", "caf\udce9"])
def test_other_characters_are_accepted(name):
    assert check_place(name) == name


@pytest.mark.parametrize("there", [False, True], ids=["missing", "there"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_a_path_says_so_in_one_line(reader, there, tmp_path):
    path = tmp_path / "my\nmodel.safetensors"
    if there:
        path.write_text("{}")
    said = complaint(lambda: READERS[reader](path))
    assert re.search(r"my\\nmodel.safetensors'; a path with a line break", said)


def test_a_recipe_and_a_command(tmp_path, capsys):
    assert r"data is 'my\nfolder'; accepted: a text of one line" in complaint(
        lambda: override(RECIPES["small"], {"data": "my\nfolder"})
    )
    assert main(["generate", "a cat", "--model", f"{tmp_path}/my\nmodel"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"my\nmodel'; a path with a line break" in line


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("my\nimage.png", r"path is 'my\nimage.png'; a path with a line break"),
        ("", "it is empty; accepted: the name of a file"),
    ],
)
def test_an_option_of_a_command(path, words, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(["generate", "a cat", "--out", path])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sdlearn: argument --out: {words}")
