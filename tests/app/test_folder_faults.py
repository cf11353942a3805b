"""Folders with something else in the place of a file, read and written: refused before the work.

Pipes, links to nothing, and folders that have the name of a file.
"""

import json
import os
import shutil

import pytest

from tests.tiny_folders import complaint, load
from tests.tiny_model import tiny_diffusers


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd1")
    tiny_diffusers().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy to change."""
    return shutil.copytree(published, tmp_path / "model")


needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")


@needs_pipes
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "tokenizer_config.json"])
def test_a_pipe_in_the_place_of_a_tokenizers_file_is_not_waited_for(folder, name):
    path = folder / "tokenizer" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    said = complaint(lambda: load(folder))
    assert said == f"{path} is no regular file; the tokenizer needs one in its place"


@needs_pipes
def test_other_pipes_beside_the_files_are_left_alone(folder):
    for part in ("tokenizer", "unet"):
        os.mkfifo(folder / part / "other.json")
    load(folder)


@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors",
     "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/tokenizer.json",
     "scheduler/scheduler_config.json"],
)  # fmt: skip
def test_a_folder_with_the_name_of_a_file_is_refused_before_anything_is_written(
    published, folder, name
):
    sd = load(published)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    said = complaint(lambda: sd.save_pretrained(folder))
    assert said == f"{folder / name} is a folder; a file of this name is to be written"
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("part", ["", "vae", "tokenizer"])
def test_a_link_to_nothing_is_refused_before_anything_is_written(published, folder, part):
    sd = load(published)
    shutil.rmtree(folder / part)
    (folder / part).symlink_to("gone")
    said = complaint(lambda: sd.save_pretrained(folder))
    assert said.endswith(
        f"{part or 'model'} is a link to gone, which does not exist; give a folder to write to"
    )
    assert (folder / "model_index.json").is_file() or not part


@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
)
def test_a_configuration_given_for_the_model(folder, name):
    assert complaint(lambda: load(folder / name)) == (
        f"{folder / name} is a configuration; give the folder of the whole model, the one that "
        "holds model_index.json"
    )


def test_a_device_is_no_model():
    if os.path.exists(os.devnull) and os.name == "posix":
        assert complaint(lambda: load(os.devnull)).startswith(
            f"{os.devnull} is neither a folder nor a file; give"
        )


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_noise_predicted_from_pure_noise_is_refused_before_the_first_step(folder, spacing, sampler):
    """With alpha 0 the clean latent is a division by 0; diffusers' latents are not finite."""
    path = folder / "scheduler" / "scheduler_config.json"
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    path.write_text(json.dumps(json.loads(path.read_text()) | zero_snr))
    with pytest.warns(UserWarning, match="steps that miss"):
        sd = load(folder)
    said = complaint(lambda: sd.text_to_image("a cat", sampler=sampler, steps=4, progress=False))
    assert said.startswith(f"model predicts noise, and the sampler '{sampler}' starts from pure ")
    given = {"steps": 4, "progress": False, "output": "latent"}
    assert sd.text_to_image("a cat", sampler="dpm_pp_2m", **given).isfinite().all()
    image = sd.text_to_image("a cat", sampler="dpm_pp_2m", steps=2, progress=False)[0]
    half = sd.image_to_image("a cat", image, strength=0.5, sampler=sampler, **given)
    assert half.isfinite().all()
