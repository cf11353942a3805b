"""Saving: what cannot be read again is refused, and no two models are read as one."""

import os
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from sdlearn import weights
from sdlearn.controlnet import ControlNet
from sdlearn.vae import VAE
from sdlearn.weights.tokenizer_files import read_tokenizer
from tests.tiny_folders import complaint, embeddings, learn, load
from tests.tiny_model import tiny_diffusers
from tests.tiny_original import TINY1, TINY_VAE

NAN = float("nan")


@pytest.fixture(scope="module")
def pipe():
    return tiny_diffusers()


@pytest.fixture(scope="module")
def published(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy of SD 1 to change."""
    return shutil.copytree(published, tmp_path / "model")


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


UNREADABLE = [
    ({"dtype": torch.int8}, "dtype is torch.int8; it must be one of torch.float32, "),
    ({"dtype": torch.complex64}, "dtype is torch.complex64; it must be one of"),
    ({"dtype": torch.float8_e4m3fn}, "dtype is torch.float8_e4m3fn; it must be one of"),
    ({"dtype": "fp16"}, "dtype is 'fp16'; it must be one of torch.float32"),
    ({"max_bytes": 0}, "max_bytes is 0; it must be a whole number of bytes, at least 1"),
    ({"max_bytes": -1}, "max_bytes is -1"),
    ({"max_bytes": True}, "max_bytes is True"),
    ({"max_bytes": "1GB"}, "max_bytes is '1GB'"),
    ({"max_bytes": 1e9}, "max_bytes is 1000000000.0"),
    ({"max_bytes": NAN}, "max_bytes is nan"),
]


@pytest.mark.parametrize(("options", "words"), UNREADABLE, ids=[str(o) for o, _ in UNREADABLE])
def test_what_could_not_be_read_again_is_not_written(published, folder, tmp_path, options, words):
    sd, before = load(published), files(folder)
    for target in (folder, tmp_path / "new"):
        assert words in complaint(lambda to=target: sd.save_pretrained(to, **options))
    assert files(folder) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [70_000.0, NAN])
def test_values_that_the_type_does_not_have_are_not_written(published, folder, value):
    sd, before = load(published), files(folder)
    sd.vae.quant_conv.bias[3] = value
    said = complaint(lambda: sd.save_pretrained(folder, dtype=torch.float16))
    assert "quant_conv.bias of this VAE is not finite as torch.float16" in said
    assert files(folder) == before
    if value == value:
        sd.save_pretrained(folder, dtype=torch.bfloat16)
        assert load(folder).vae.quant_conv.bias[3] == torch.tensor(value).bfloat16()


def test_the_smallest_shards_can_be_read(published, tmp_path):
    sd = load(published)
    sd.save_pretrained(tmp_path, max_bytes=1)
    names = [p.name for p in (tmp_path / "vae").glob("*.safetensors")]
    assert len(names) == len(sd.vae.state_dict())
    again = load(tmp_path).vae.state_dict()
    assert all(torch.equal(again[key], value) for key, value in sd.vae.state_dict().items())


def test_a_file_or_a_full_disk_in_the_way(published, tmp_path, monkeypatch):
    sd = load(published)
    (tmp_path / "file").touch()
    assert complaint(lambda: sd.save_pretrained(tmp_path / "file")) == (
        f"{tmp_path / 'file'} is a file; give a folder to write to"
    )
    inside = tmp_path / "file" / "model"
    assert f"lies in {tmp_path / 'file'}" in complaint(lambda: sd.save_pretrained(inside))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "vae").touch()
    said = complaint(lambda: sd.save_pretrained(tmp_path / "half"))
    assert said.startswith(f"{tmp_path / 'half' / 'vae'} is a file; ")
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["vae"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 100))
    said = complaint(lambda: sd.save_pretrained(tmp_path / "new"))
    assert "bytes, but only 100 are free" in said
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_to(published, tmp_path, monkeypatch):
    sd = load(published)

    def refuse(dir):  # noqa: A002
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    said = complaint(lambda: sd.save_pretrained(tmp_path / "new"))
    assert said.endswith("cannot be written to: Permission denied; give another folder")


STALE = [
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    "vae/diffusion_pytorch_model.non_ema.bin",
    "text_encoder/pytorch_model.bin",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
]


def test_nothing_of_an_older_model_is_left_to_be_read(pipe, published, tmp_path):
    """Weights of every variant, and a tokenizer's files, which would come before the new ones."""
    learn(tiny_diffusers(seed=1)).save_pretrained(tmp_path)
    for name in STALE:
        (tmp_path / name).write_bytes(b"older")
    kept = ["README.md", "unet/notes.txt", "vae/model.png"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    sd = load(published)
    sd.save_pretrained(tmp_path)
    assert not [name for name in STALE if (tmp_path / name).exists()]
    assert all((tmp_path / name).read_text() == "mine" for name in kept)
    assert len(read_tokenizer(tmp_path / "tokenizer")) == 581
    theirs = DiffusionPipeline.from_pretrained(tmp_path)
    assert all(map(torch.equal, embeddings(theirs, "a cat"), embeddings(pipe, "a cat")))


@pytest.mark.parametrize("after", range(0, 12, 2))
def test_two_models_are_never_read_as_one(published, folder, monkeypatch, after):
    """A save that fails after any file leaves a folder that says that it is not whole."""
    sd, count = load(published), iter(range(99))
    move = os.replace

    def fail(source, target):
        if next(count) == after:
            raise OSError("No space left on device")
        move(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        sd.save_pretrained(folder)
    assert not list(folder.rglob("*.part"))
    assert "model_index.json is missing" in complaint(lambda: load(folder))
    monkeypatch.undo()
    sd.save_pretrained(folder)
    assert torch.equal(load(folder).unet.conv_in.weight, sd.unet.conv_in.weight)


def test_a_controlnet_s_older_weights_are_deleted(published, tmp_path):
    net = ControlNet.from_unet(load(published).unet, (4, 6))
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"older")
    (tmp_path / "model_index.json").write_text("{}")
    assert "dtype is torch.int8" in complaint(lambda: net.save_pretrained(tmp_path, torch.int8))
    assert len(list(tmp_path.iterdir())) == 2
    net.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "model_index.json",
    ]
    assert load_file(tmp_path / "diffusion_pytorch_model.safetensors")


# What is given in the place of a path -> what the sentence says.
NO_PATHS = {
    "nothing": (None, "is None; it must be a folder, a file"),
    "a number": (3, "is 3; it must be"),
    "no characters": ("", "is ''; it must be"),
    "a zero": ("a\0b.safetensors", "a path with a line break or another control character"),
    "a name of 300 characters": (
        "x" * 300 + ".safetensors",
        "cannot be opened: File name too",
    ),
    "5000 characters": ("x" * 5000, "it must be"),
}


@pytest.mark.parametrize("kind", NO_PATHS)
def test_what_is_no_path(kind):
    given, words = NO_PATHS[kind]
    for use in (
        lambda: weights.load(VAE(TINY_VAE), given),
        lambda: weights.save(VAE(TINY_VAE), given),
        lambda: weights.load_original(TINY1, given),
        lambda: ControlNet.from_pretrained(given),
    ):
        assert words in complaint(use)


def test_places_where_no_file_can_be_written(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    for place, words in (
        ("folder.safetensors", "folder.safetensors is a folder; give the name of a file in it"),
        ("file/vae.safetensors", "file is a file; give a folder to write to"),
    ):
        assert words in complaint(lambda place=place: weights.save(VAE(TINY_VAE), tmp_path / place))
    assert len(list(tmp_path.rglob("*"))) == 2
