"""`sdlearn playground` from the outside: what it refuses, and what it serves."""

import os
import socket
import sys
from pathlib import Path
from queue import Queue

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlearn.cli import main
from sdlearn.cli.playground import MODEL
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils import resources
from sdlearn.utils.resources import notebook_file
from sdlearn.weights import single_file, tensor_files
from tests.tiny_model import tiny_diffusers
from tests.tiny_original import CLIP, original


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_that_is_none(port, capsys):
    assert main.main(["playground", "--port", port]) == 2
    said = capsys.readouterr().err
    assert said == f"sdlearn: --port is {port}; it must lie in 1 … 65535\n"


def test_without_voila_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "sdlearn.cli.playground_server", raising=False)
    monkeypatch.setitem(sys.modules, "voila.app", None)
    assert main.main(["playground"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdlearn: the playground needs Voilà")
    assert "sdlearn[course]" in said


def test_without_the_notebook(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    assert main.main(["playground"]) == 2
    assert "the notebook playground.ipynb was not found" in capsys.readouterr().err


def test_the_notebook_is_the_one_of_the_course():
    assert notebook_file("playground.ipynb").parent.name in ("notebooks", "_notebooks")


@pytest.fixture
def served(monkeypatch):
    """What the command would serve: the arguments, and the model in the kernel's environment."""
    server = pytest.importorskip("sdlearn.cli.playground_server")
    calls = []
    monkeypatch.setenv(MODEL, "nowhere")  # so that it is put back after the test
    monkeypatch.delenv(MODEL)
    monkeypatch.setattr(
        server, "serve", lambda *arguments: calls.append((*arguments, os.environ.get(MODEL)))
    )
    monkeypatch.setattr(server, "bind", lambda port: f"a socket at {port}")
    return calls


def test_large_photos_go_through_and_kernels_of_closed_pages_end():
    server = pytest.importorskip("sdlearn.cli.playground_server")
    config = server.settings(Path("a.ipynb"), 8866, False)
    assert config.Voila.tornado_settings["websocket_max_message_size"] > 20 * 10**6
    assert 0 < config.MappingKernelManager.cull_idle_timeout <= 600
    assert 0 < config.MappingKernelManager.cull_interval <= 60


def test_the_storybook_is_served_unless_a_model_is_named(served):
    assert main.main(["playground", "--no-browser"]) == 0
    assert served == [(notebook_file("playground.ipynb"), "a socket at 8866", False, None)]


def test_a_model_in_the_environment_is_read_too(served, monkeypatch, capsys):
    monkeypatch.setenv(MODEL, "nowhere")
    assert main.main(["playground"]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert served == []


def test_a_model_is_read_and_found_from_the_kernel_s_folder(served, tmp_path, monkeypatch):
    tiny_diffusers().save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert main.main(["playground", "--model", "mine", "--port", "9000"]) == 0
    assert served == [
        (notebook_file("playground.ipynb"), "a socket at 9000", True, str(tmp_path / "mine"))
    ]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere", "nowhere does not exist; give a model's folder, or its id"),
        ("no/where/at/all", "no/where/at/all does not exist"),
        ("nobody/nothing", "nobody/nothing is not a local folder, and it could not be downloaded"),
        ("empty", "model_index.json"),
        ("no-unet", "unet"),
        ("cut", "unet"),
        ("words.safetensors", "words.safetensors"),
        ("gone.safetensors", "gone.safetensors does not exist"),
    ],
)
def test_a_model_that_cannot_be_read_is_said_before_anything_is_served(
    served, tmp_path, monkeypatch, capsys, place, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.safetensors").write_text("no weights")
    if place in ("no-unet", "cut"):
        tiny_diffusers().save_pretrained(place)
        (weights,) = (tmp_path / place / "unet").glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-8])
        if place == "no-unet":
            weights.unlink()
    capsys.readouterr()
    assert main.main(["playground", "--model", place]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.startswith("sdlearn: ")
    assert sentence.count("\n") == 1
    assert served == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_weights_are_compared_by_name_and_shape_and_not_read(
    served, tmp_path, monkeypatch, kind
):
    """The page's kernel reads them; to read them twice would double the start."""
    place = folder = tmp_path / "mine"
    tiny_diffusers().save_pretrained(folder)
    if kind == "file":
        sd = StableDiffusion.from_pretrained(folder)
        tensors = original(sd.unet, "model.diffusion_model.") | original(
            sd.vae, "first_stage_model."
        )
        tensors |= original(sd.text.encoders[0], CLIP)
        place = tmp_path / "mine.safetensors"
        save_file({name: values.contiguous() for name, values in tensors.items()}, place)
        monkeypatch.setattr(single_file, "detect_spec", lambda *_: sd.spec)
        monkeypatch.setattr(single_file, "download_tokenizer", lambda _: folder)
    monkeypatch.setattr(tensor_files, "read_at", lambda *_: 1 / 0)
    assert main.main(["playground", "--model", str(place)]) == 0
    assert served[0][-1] == str(place)


def test_weights_of_another_shape_are_refused_before_anything_is_served(served, tmp_path, capsys):
    tiny_diffusers().save_pretrained(tmp_path)
    (weights,) = (tmp_path / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    name = "decoder.conv_in.bias"
    save_file(tensors | {name: torch.zeros(3)}, weights)
    assert main.main(["playground", "--model", str(tmp_path)]) == 2
    assert f"{name} has the shape (3,); VAE needs (" in capsys.readouterr().err
    assert served == []


def test_a_port_in_use_is_one_sentence(capsys):
    pytest.importorskip("sdlearn.cli.playground_server")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main.main(["playground", "--port", str(port), "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"sdlearn: --port {port} cannot be used (address already in use)")
    assert said.count("\n") == 1


def test_the_browser_is_opened_at_a_file_and_not_at_the_token(tmp_path, monkeypatch):
    """Another user of the computer sees the arguments of the browser, and not the file."""
    server = pytest.importorskip("sdlearn.cli.playground_server")
    asked = Queue()
    monkeypatch.setattr(server.webbrowser, "open", asked.put)
    server.open_page("http://127.0.0.1:8866/?token=a&b", tmp_path)
    place = asked.get(timeout=30)
    assert place == (tmp_path / "playground.html").as_uri()
    assert "url=http://127.0.0.1:8866/?token=a&amp;b" in (tmp_path / "playground.html").read_text()
