"""`--init`: which places are accepted, and a resumed run that goes on without them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdlearn.cli.main import main
from sdlearn.recipes import tokenizer
from sdlearn.recipes.initial_weights import check_initial_weights
from sdlearn.utils.resources import data_folder
from tests.tiny_runs import CLIP, JUDGE, TINY, UNET, VAE, refused, sentence

STORYBOOK, JUDGES = data_folder("storybook"), data_folder("judge")
SMALL = {
    "unet": UNET,
    "vae": [*VAE, "--set", "block_out_channels=(8,8)", "--set", "norm_num_groups=4",
            "--batch", "2"],
    "clip": [*CLIP, "--set", "hidden_size=16", "--set", "num_layers=1", "--batch", "2",
             "--set", "intermediate_size=32", "--set", "image_width=8"],
    "judge": [*JUDGE, "--set", "channels=(8,8,8)", "--batch", "2"],
    "perceptual": TINY,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each part, with one cache, to read only."""
    home = tmp_path_factory.mktemp("runs")
    for part, args in SMALL.items():
        assert main([*args, "--out", str(home / part)]) == 0
    return home


# ------------------------------------------------------------------------------ places of weights

PLACES = {
    "a run": "",
    "its export": "export",
    "the part": {"vae": "export/vae", "unet": "export/unet", "clip": "export/text_encoder"},
}


@pytest.mark.parametrize("part", SMALL)
@pytest.mark.parametrize("place", PLACES)
def test_init_takes_every_kind_of_place(place: str, part: str, runs: Path, tmp_path: Path) -> None:
    below = PLACES[place]
    init = runs / part / (below if isinstance(below, str) else below.get(part, "export"))
    shutil.copytree(runs / "cache", tmp_path / "cache")
    args = [
        *SMALL[part],
        "--out",
        str(tmp_path / "new"),
        "--init",
        str(init),
        "--lr",
        "1e-9",
        "--seed",
        "7",
    ]
    assert main(args) == 0
    (trained,) = (runs / part / "export").glob(WEIGHTS[part])
    (again,) = (tmp_path / "new" / "export").glob(WEIGHTS[part])
    before, after = load_file(trained), load_file(again)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[k].float(), after[k].float(), atol=2e-3) for k in before)


WEIGHTS = {
    "unet": "unet/*.safetensors", "vae": "vae/*.safetensors", "clip": "text_encoder/*.safetensors",
    "judge": "judge.safetensors", "perceptual": "perceptual.safetensors",
}  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "main_network", "found"),
    [
        (STORYBOOK, "vae", STORYBOOK / "vae"),
        (STORYBOOK, "unet", STORYBOOK / "unet"),
        (STORYBOOK, "text", STORYBOOK / "text_encoder"),
        (STORYBOOK / "vae", "vae", STORYBOOK / "vae"),
        (JUDGES, "judge", JUDGES / "judge.safetensors"),
        (JUDGES, "perceptual", JUDGES / "perceptual.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "/".join(value.parts[-2:]),
)
def test_a_model_holds_the_weights_of_each_part(folder, main_network, found) -> None:  # type: ignore[no-untyped-def]
    assert check_initial_weights(str(folder), main_network) == found


@pytest.mark.parametrize("name", ["judge.safetensors", "perceptual.safetensors"])
def test_other_networks_beside_an_export_are_not_taken(name: str, runs: Path, tmp_path) -> None:  # type: ignore[no-untyped-def]
    shutil.copytree(runs / "vae" / "export", tmp_path / "export")
    shutil.copy(JUDGES / name, tmp_path / "export" / name)
    assert check_initial_weights(str(tmp_path), "vae") == tmp_path / "export" / "vae"
    assert check_initial_weights(str(tmp_path / "export"), "vae") == tmp_path / "export" / "vae"


@pytest.mark.parametrize(
    ("args", "init", "said"),
    [
        (VAE, JUDGES, "--init is {init}, which holds no weights of the vae; accepted: the folder"),
        (CLIP, JUDGES, "--init is {init}, which holds no weights of the text_encoder; accepted"),
        (UNET, STORYBOOK / "scheduler", "--init is {init}, which holds no weights of the unet"),
        (TINY, STORYBOOK, "--init is {init}, which holds no weights of the perceptual"),
    ],
    ids=["vae", "clip", "unet", "perceptual"],
)
def test_a_place_without_the_part_is_refused(args, init, said, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    line = refused([*args, "--out", str(tmp_path / "run"), "--init", str(init)], capsys)
    assert said.format(init=init) in line
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------ resumed runs


def interrupted(part: str, runs: Path, home: Path) -> tuple[list[str], Path, Path]:
    """The arguments of a run that was killed after its first step, its folder, and its --init."""
    init = shutil.copytree(runs / part, home / "first")
    shutil.copytree(runs / "cache", home / "cache")
    steps = [*SMALL[part], "--steps", "2", "--checkpoint-steps", "1"]
    args = [*steps, "--out", str(home / "run"), "--init", str(init)]
    assert main(args) == 0
    return args, home / "run", init


def kill_after_one_step(run: Path) -> None:
    shutil.rmtree(run / "export")
    shutil.rmtree(run / "checkpoints" / "step-00000002")


def exported(run: Path) -> dict[str, bytes]:
    home = run / "export"
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


@pytest.mark.parametrize("part", SMALL)
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_resumed_run_does_not_need_its_initial_weights(
    how: str, part: str, runs: Path, tmp_path: Path
) -> None:
    args, run, init = interrupted(part, runs, tmp_path)
    whole = exported(run)
    kill_after_one_step(run)
    shutil.rmtree(init)
    if how == "changed":
        other = next(each for each in SMALL if each != part)
        shutil.copytree(runs / other, init)
    for more in ([], args[-2:]):
        assert (
            main([*SMALL[part][:2], "--device", "cpu", "--out", str(run), "--resume", *more]) == 0
        )
        assert exported(run) == whole
        assert json.loads((run / "recipe.json").read_text())["settings"]["init"] == str(init)


def test_a_run_that_died_before_its_first_checkpoint_needs_them(runs, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    args, run, init = interrupted("vae", runs, tmp_path)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(init)
    assert f"--init is {init}, which does not exist" in refused([*args, "--resume"], capsys)


def test_the_tokenizer_of_the_initial_weights_is_searched_for(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another tokenizer with the same number of tokens would train without an error."""
    args, run, init = interrupted("clip", runs, tmp_path)
    kill_after_one_step(run)
    vocabulary = init / "export" / "tokenizer" / "vocab.json"
    tokens = json.loads(vocabulary.read_text())
    tokens["a</w>"], tokens["b</w>"] = tokens["b</w>"], tokens["a</w>"]
    vocabulary.write_text(json.dumps(tokens))
    assert main([*args, "--resume"]) == 0
    kill_after_one_step(run)
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(init)
    monkeypatch.setattr(tokenizer, "MERGES", 3)
    train = tokenizer.train_tokenizer
    monkeypatch.setattr(tokenizer, "train_tokenizer", lambda texts: train(texts, 3))
    line = sentence([*args, "--resume"], capsys)
    assert f"the tokenizer that {run} began with is neither in {init} nor in " in line
