"""`sdlearn generate` from the outside: files, messages and exit codes."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sdlearn.cli import main
from sdlearn.pipeline import StableDiffusion
from sdlearn.unet import UNet
from sdlearn.utils import atomic_files
from tests.tiny_model import tiny_diffusers

PROMPT = "a red cat on the sand at night"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sdlearn(model, tmp_path, monkeypatch, capsys):
    """Runs `sdlearn generate PROMPT ...` in an empty folder -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*options, prompt=PROMPT, model=model):
        code = main.main(["generate", prompt, "--model", model, "--steps", "2", *options])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_one_picture(sdlearn, tmp_path, model):
    code, out, err = sdlearn("--out", "cat.png", "--seed", "3", "--negative", "snow ünï")
    assert (code, out) == (0, "cat.png\n")
    assert "2/2" in err  # the progress bar
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
    picture = Image.open("cat.png")
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (16, 16))
    assert picture.text["prompt"] == PROMPT
    assert picture.text["negative_prompt"] == "snow ünï"
    settings = ("seed", "steps", "guidance_scale", "sampler", "model")
    sd = StableDiffusion.from_pretrained(model)
    expected = ["3", "2", "7.5", "ddim", sd.spec.name]
    assert [picture.text[key] for key in settings] == expected
    assert sd.spec.name == Path(model).name
    options = {"negative_prompt": "snow ünï", "steps": 2, "seed": 3, "progress": False}
    (same,) = sd.text_to_image(PROMPT, **options)
    assert same.tobytes() == picture.tobytes()


def test_several_pictures_are_numbered_and_as_if_made_alone(sdlearn, tmp_path):
    code, out, _ = sdlearn("--n", "3", "--out", "cat.png", "--seed", "5", "--size", "24")
    assert (code, out) == (0, "cat-0.png\ncat-1.png\ncat-2.png\n")
    assert len(list(tmp_path.iterdir())) == 3
    last = Image.open("cat-2.png")
    assert last.text["seed"] == "7"
    assert last.size == (24, 24)
    before = (tmp_path / "cat-1.png").read_bytes()
    sdlearn("--n", "3", "--out", "cat.png", "--seed", "5", "--size", "24")
    assert (tmp_path / "cat-1.png").read_bytes() == before  # to the byte
    assert (tmp_path / "cat-0.png").read_bytes() != before


def test_options_reach_the_model(sdlearn):
    pictures = set()
    for options in (
        [],
        ["--guidance", "1"],
        ["--sampler", "ddpm"],
        ["--seed", "1"],
        ["--steps", "3"],
    ):
        assert sdlearn(*options)[0] == 0
        pictures.add(Image.open("picture.png").tobytes())
    assert len(pictures) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sampler", "magic"], "sampler 'magic' is not known: the samplers are ddim, ddpm"),
        (["--size", "15"], "--size is 15; it must be a positive multiple of 2"),
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--steps", "1001"], "steps is 1001; it must lie in 1 … 1000"),
        (["--n", "0"], "--n is 0; it must be at least 1"),
        (["--guidance", "nan"], "--guidance is nan; it must be a finite number"),
        (["--sigmas", "lu"], "--sigmas is 'lu'; it must be one of table, karras, uniform_lambda"),
        (["--eta", "2"], "--eta is 2.0; it must lie in 0 … 1"),
        (["--eta", "1", "--sampler", "euler"], "eta is 1.0; the sampler euler has no eta, ddim"),
        (["--size", "16", "--width", "16"], "--size is height and width; give it alone"),
        (["--out", "nowhere/cat.png"], "there is no folder nowhere"),
        (["--out", "cat.jpg"], "must end in .png"),
        (["--out", "folder.png"], "which is a folder"),
    ],
)
def test_errors_are_one_sentence(sdlearn, options, words, tmp_path):
    (tmp_path / "folder.png").mkdir()
    code, out, err = sdlearn(*options)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("sdlearn: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.png"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder it may not change")
def test_a_folder_that_cannot_be_written_to(sdlearn, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = sdlearn("--out", "cat.png")
    tmp_path.chmod(0o700)
    assert code == 2
    assert "cannot be written to" in err


def test_the_place_is_checked_before_the_work(sdlearn, monkeypatch):
    """Also where only trying shows it: the system refuses the file."""

    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(atomic_files.tempfile, "TemporaryFile", refuse)
    code, _, err = sdlearn("--out", "cat.png", model="nowhere")
    assert code == 2
    assert "the folder . cannot be written to: Read-only file system" in err


@pytest.mark.parametrize("source", ["nowhere", "runs/nowhere", "no/such/place"])
def test_a_model_that_is_nowhere(sdlearn, source):
    code, _, err = sdlearn(model=source)
    assert code == 2
    assert source in err
    assert "hub" in err
    assert err.count("\n") == 1


def test_what_only_a_single_file_needs(sdlearn, model):
    code, _, err = sdlearn("--spec", "sd1.5")
    assert (
        code,
        "is not a file; spec and tokenizer are accepted for a" in err,
    ) == (2, True)
    weights = Path(model) / "unet" / "diffusion_pytorch_model.safetensors"
    code, _, err = sdlearn("--spec", "sd9", model=str(weights))
    assert code == 2
    assert "not of a whole system under known names" in err
    assert main.main(["generate", "a cat", "--spec", "sd1.5"]) == 2


def test_a_picture_half_written_is_removed(sdlearn, tmp_path, monkeypatch):
    def fail(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    code, _, err = sdlearn("--out", "cat.png")
    assert code == 2
    assert "No space left" in err
    assert list(tmp_path.iterdir()) == []


def test_interrupting_leaves_nothing(sdlearn, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(UNet, "forward", interrupt)
    code, out, err = sdlearn("--out", "cat.png")
    assert (code, out) == (130, "")
    assert err.endswith("sdlearn: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_in_a_real_process(model, tmp_path):
    command = [sys.executable, "-m", "sdlearn", "generate", PROMPT, "--model", model]
    process = subprocess.Popen(
        [*command, "--steps", "1000", "--n", "64", "--out", str(tmp_path / "cat.png")],
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore Ctrl-C, and this suite with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    while "denoising" not in seen:
        letter = process.stderr.read(1)
        assert letter, seen
        seen += letter
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_unknown_words_are_named_for_the_storybook_only(sdlearn, monkeypatch):
    assert "does not know" not in sdlearn(prompt="a purple zebra")[2]
    load = StableDiffusion.from_pretrained

    def storybook(source, **options):
        sd = load(source)
        sd.spec = replace(sd.spec, name="storybook")
        return sd

    monkeypatch.setattr(StableDiffusion, "from_pretrained", storybook)
    code, _, err = sdlearn(prompt="A red cat, a Zebra and a zebra on a bicycle!")
    assert code == 0
    line = next(line for line in err.splitlines() if "does not know" in line)
    assert "does not know zebra, bicycle; it knows: " in line
    assert {"red", "cat", "night"} <= set(line.split("it knows: ")[1].split())
    assert "does not know" not in sdlearn(prompt=PROMPT)[2]


def test_a_long_prompt_is_cut_with_a_plain_warning(sdlearn):
    code, _, err = sdlearn(prompt="a red cat to the left of " * 20)
    assert code == 0
    assert "sdlearn: the prompt" in err
    assert "warn(" not in err


def test_help_is_quick_and_complete(capsys):
    for argv, words in (
        (["--help"], ["generate", "train", "evaluate"]),
        (["generate", "--help"], ["--steps", "--guidance", "--seed", "--out", "--n", "--negative"]),
    ):
        with pytest.raises(SystemExit) as stop:
            main.main(argv)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)
    code = "import sys, sdlearn.cli.main as c, sdlearn.cli.generate; c.parse(['generate', 'x']); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "argv", [[], ["paint"], ["generate"], ["generate", "x", "--steps", "many"]]
)
def test_wrong_arguments_end_with_code_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(argv)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"sdlearn: .+; see sdlearn( generate)? --help\n", err)
