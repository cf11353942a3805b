"""Textual-inversion files against diffusers: the same file gives both the same noise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlearn.pipeline import StableDiffusion
from sdlearn.text import spell_out
from sdlearn.textual_inversion import add_word
from tests.tiny_folders import complaint, embeddings
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl

from .oracle import relative_error

WIDTH = {"SD 1": 24, "SD 2": 28}
MAKE = {"SD 1": tiny_diffusers, "SD 2": tiny_sd2, "SDXL": tiny_sdxl}
PROMPT = "a red <toy> on the sand, <toy> at night"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in MAKE.items():
        made[name] = tmp_path_factory.mktemp(name.replace(" ", ""))
        pipe = make()
        if name == "SDXL":  # with the end-of-text token of the old files, transformers would take
            pipe.text_encoder_2.config.eos_token_id = pipe.tokenizer_2.eos_token_id  # a new word
        pipe.save_pretrained(made[name])
    return made


def ours(folder: Path) -> StableDiffusion:
    return StableDiffusion.from_pretrained(folder, torch.float64, "cpu")


def theirs(folder: Path) -> DiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float64, safety_checker=None
    )


def values(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


def write(place: Path, form: str, vectors: Tensor) -> Path:
    """A file of one form, written by torch or safetensors themselves."""
    if form == "diffusers":
        save_file({"<toy>": vectors}, place / "some.safetensors")
        return place / "some.safetensors"
    if form == "diffusers, one row":
        torch.save({"<toy>": vectors[0]}, place / "some.bin")
        return place / "some.bin"
    if form == "emb_params":
        save_file({"emb_params": vectors}, place / "<toy>.safetensors")
        return place / "<toy>.safetensors"
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": nn.Parameter(vectors)},
        "name": "<toy>",
        "step": 1999,
        "sd_checkpoint": "cc6cb27103",
        "sd_checkpoint_name": None,
    }
    torch.save(content, place / "some.pt")
    return place / "some.pt"


FORMS = ("diffusers", "diffusers, one row", "emb_params", "string_to_param")


def noise(sd: StableDiffusion, prompt: str = PROMPT) -> Tensor:
    z = values(4 * 8, 8).view(1, 4, 8, 8)
    with torch.no_grad():
        return sd.unet(z, 321, sd.text([prompt]).context)


def their_noise(pipe: DiffusionPipeline, prompt: str = PROMPT) -> Tensor:
    z = values(4 * 8, 8).view(1, 4, 8, 8)
    with torch.no_grad():
        (context,) = embeddings(pipe, prompt)
        return pipe.unet(z, 321, context).sample


@pytest.mark.parametrize("name", WIDTH)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 3])
def test_both_read_the_same_word(
    folders: dict[str, Path], tmp_path: Path, name: str, form: str, n: int
) -> None:
    file = write(tmp_path, form, values(n, WIDTH[name]))
    sd, pipe = ours(folders[name]), theirs(folders[name])
    before = {key: value.clone() for key, value in sd.text.state_dict().items()}
    other = noise(sd, "a blue house")
    assert sd.load_embedding(file) == "<toy>"
    pipe.load_textual_inversion(
        str(tmp_path), weight_name=file.name, token="<toy>" if form == "emb_params" else None
    )
    assert relative_error(noise(sd), their_noise(pipe)) < 1e-12
    assert torch.equal(noise(sd, "a blue house"), other)
    table = "encoders.0.embeddings.token_embedding.weight"
    for key, value in sd.text.state_dict().items():
        rows = value[: len(before[key])] if key == table else value
        assert torch.equal(rows, before[key])
    one = form == "diffusers, one row"
    assert len(sd.text.state_dict()[table]) == len(before[table]) + (1 if one else n)


def test_diffusers_reads_what_is_written_and_a_folder_keeps_the_word(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    sd, pipe = ours(folders["SD 1"]), theirs(folders["SD 1"])
    sd.load_embedding(write(tmp_path, "string_to_param", values(2, 24)), "<mine>")
    sd.save_embedding(tmp_path / "learned_embeds.safetensors", "<mine>")
    assert load_file(tmp_path / "learned_embeds.safetensors").keys() == {"<mine>"}
    pipe.load_textual_inversion(str(tmp_path))
    prompt = "a blue <mine>"
    assert relative_error(noise(sd, prompt), their_noise(pipe, prompt)) < 1e-12
    sd.save_pretrained(tmp_path / "model")
    assert torch.equal(noise(ours(tmp_path / "model"), prompt), noise(sd, prompt))


def test_sdxl_has_two_tables(folders: dict[str, Path], tmp_path: Path) -> None:
    sd = ours(folders["SDXL"])
    pipe = StableDiffusionXLPipeline.from_pretrained(folders["SDXL"], torch_dtype=torch.float64)
    state = {"clip_g": values(2, 20), "clip_l": values(2, 12, seed=1)}
    save_file(state, tmp_path / "toys.safetensors")
    sd.load_embedding(tmp_path / "toys.safetensors", "<toy>")
    for part, number in (("clip_l", ""), ("clip_g", "_2")):
        parts: dict[str, Any] = {
            "text_encoder": getattr(pipe, f"text_encoder{number}"),
            "tokenizer": getattr(pipe, f"tokenizer{number}"),
        }
        pipe.load_textual_inversion({"<toy>": state[part]}, token="<toy>", **parts)
    found = sd.text([PROMPT])
    context, pooled = embeddings(pipe, PROMPT)
    assert relative_error(found.context, context) < 1e-12
    assert found.pooled is not None
    assert relative_error(found.pooled, pooled) < 1e-12
    sd.save_embedding(tmp_path / "again.safetensors", "<toy>")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


class Dangerous:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_what_is_no_embedding_for_this_model_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    sd, file = ours(folders["SD 1"]), tmp_path / "some.safetensors"
    before = noise(sd, "a red cat")

    def said(content: Any, word: str | None = "<toy>") -> str:
        if isinstance(content, dict) and all(isinstance(x, Tensor) for x in content.values()):
            save_file(content, file)
        else:
            torch.save(content, file)
        return complaint(lambda: sd.load_embedding(file, word))

    wide = said({"<toy>": torch.ones(1, 1024)})
    assert "holds vectors of width 1024, for Stable Diffusion 2; the text encoder of" in wide
    assert wide.endswith("this model needs 24")
    assert "width 12 and 20, for SDXL" in said(
        {"clip_l": torch.ones(1, 12), "clip_g": torch.ones(1, 20)}
    )
    assert "different numbers of vectors in clip_l and clip_g" in said(
        {"clip_l": torch.ones(1, 12), "clip_g": torch.ones(2, 20)}
    )
    assert "which is not an embedding; accepted: textual-inversion" in said(
        {"a": torch.ones(1, 24), "b": torch.ones(1, 24)}
    )
    assert "is not finite; the file is damaged" in said({"a": torch.full((1, 24), torch.nan)})
    assert "with n at most 75" in said({"a": torch.ones(76, 24)})
    assert "the type torch.int64" in said({"a": torch.ones(1, 24, dtype=torch.int64)})
    good = {"<toy>": torch.ones(2, 24)}
    assert "accepted: a word of 1 to 100 characters without spaces" in said(good, "two words")
    assert "already has the token 'cat</w>'" in said(good, "cat")
    lists = nn.ParameterDict({"a": nn.Parameter(torch.ones(1, 24))})
    assert "a torch ParameterDict, which is not supported" in said({"string_to_param": lists})
    assert "can run any code" in said({"string_to_param": Dangerous()})
    assert "is missing; give the embedding's file" in complaint(lambda: sd.load_embedding("no.pt"))
    assert "was not added to this tokenizer" in complaint(
        lambda: sd.save_embedding(tmp_path / "no.safetensors", "<toy>")
    )
    assert torch.equal(noise(sd, "a red cat"), before)
    assert "<toy>" not in sd.text.tokenizers[0].get_vocab()
    sd.load_embedding(write(tmp_path, "diffusers", values(1, 24)))
    assert "written as .safetensors" in complaint(lambda: sd.save_embedding("no.pt", "<toy>"))


def test_a_word_cannot_continue_another(folders: dict[str, Path], tmp_path: Path) -> None:
    """<dog>_1 is the name of a second vector of <dog>, so it can be no other word's."""
    sd, file = ours(folders["SD 1"]), tmp_path / "some.safetensors"
    save_file({"<dog>": torch.ones(1, 24)}, file)
    sd.load_embedding(file)
    said = complaint(lambda: sd.load_embedding(file, "<dog>_1"))
    assert "word is '<dog>_1', which would continue the added word '<dog>'" in said
    other = ours(folders["SD 1"])
    other.load_embedding(file, "<dog>_1")
    said = complaint(lambda: other.load_embedding(file, "<dog>"))
    assert "already has the token '<dog>_1'" in said


@pytest.mark.parametrize(
    ("prompt", "spelled"),
    [
        ("a <dog>, <dog>", "a <dog> <dog>_1 <dog>_2, <dog> <dog>_1 <dog>_2"),
        ("a <dog> <dog>_1 <dog>_2 here", "a <dog> <dog>_1 <dog>_2 here"),
        ("<dog>_1", "<dog>_1"),
        ("xyz and xyzq", "xyz xyz_1 and xyzq xyzq_1"),
        ("a red cat", "a red cat"),
    ],
)
def test_a_word_is_spelled_out_once(folders: dict[str, Path], prompt: str, spelled: str) -> None:
    """diffusers replaces word by word, so what is spelled out already gets longer."""
    sd = ours(folders["SD 1"])
    (tokenizer,), (encoder,) = sd.text.tokenizers, sd.text.encoders
    for word, n in (("<dog>", 3), ("xyz", 2), ("xyzq", 2)):
        add_word(tokenizer, encoder, word, values(n, 24))
    assert spell_out(tokenizer, prompt) == spelled
