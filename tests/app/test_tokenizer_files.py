"""Tokenizers of published folders: learnt words, settings, and files that do not fit."""

import json
import shutil
import warnings
from itertools import product

import pytest
import torch
from diffusers import DiffusionPipeline

from sdlearn.text import token_ids
from sdlearn.utils.atomic_files import read_json
from sdlearn.weights.tokenizer_files import PROBE, read_tokenizer, write_tokenizer
from tests.tiny_folders import WORDS, change, complaint, embeddings, learn, load
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl, tiny_tokenizer

PROMPTS = ["a <cat-toy> on the sand", "a red cat, über-stil", "a <CAT-TOY>_1 <|endoftext|>!", ""]


def old_layout(folder):
    """What transformers wrote before version 4.34: learnt words in added_tokens.json only."""
    change(folder / "tokenizer_config.json", added_tokens_decoder="gone")
    assert (folder / "added_tokens.json").is_file()


def newer_layout(folder):
    """What transformers 4.34 and later can do without."""
    (folder / "added_tokens.json").unlink()
    assert len(read_json(folder / "tokenizer_config.json")["added_tokens_decoder"]) >= len(WORDS)


@pytest.mark.parametrize("make", [tiny_diffusers, tiny_sd2, tiny_sdxl])
def test_learnt_words_are_read_and_kept(make, tmp_path):
    """As diffusers reads them: several embeddings of one word, pooling, capitals, padding."""
    pipe = learn(make())
    pipe.save_pretrained(tmp_path / "theirs")
    sd = load(tmp_path / "theirs")
    sd.save_pretrained(tmp_path / "ours")
    wanted = [embeddings(pipe, prompt) for prompt in PROMPTS]
    assert not torch.equal(wanted[0][0], embeddings(pipe, "a on the sand")[0])
    for layout in (None, old_layout, newer_layout):
        folder = tmp_path / (layout.__name__ if layout else "ours")
        if layout:
            shutil.copytree(tmp_path / "ours", folder)
            for tokenizer in folder.glob("tokenizer*"):
                layout(tokenizer)
        again, theirs = load(folder), DiffusionPipeline.from_pretrained(folder)
        for prompt, expected in zip(PROMPTS, wanted, strict=True):
            for ours in (sd.text([prompt]), again.text([prompt])):
                found = [ours.context] if ours.pooled is None else [ours.context, ours.pooled]
                assert all(map(torch.allclose, found, expected))
            assert all(map(torch.allclose, embeddings(theirs, prompt), expected))


def test_a_word_of_several_embeddings_is_spelled_out(tmp_path):
    learn(tiny_diffusers()).save_pretrained(tmp_path)
    tokenizer = load(tmp_path).text.tokenizers[0]
    first = len(tokenizer) - len(WORDS)
    (ids,) = token_ids(tokenizer, ["<cat-toy> cat"]).tolist()
    assert ids[1:4] == [first, first + 1, first + 2]


@pytest.mark.parametrize(
    ("length", "tokens"), [(16, 16), (77.0, 77), (500, 77), (int(1e30), 77), (None, 77)]
)
def test_the_length_of_a_sequence_is_the_tokenizer_s(folder, length, tokens, tmp_path):
    """Or the text encoder's, if the tokenizer allows longer ones or does not say.

    A saved tokenizer says it, so that diffusers can pad to it.
    """
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    sd = load(folder)
    assert sd.text(["a cat"]).context.shape[1] == tokens
    sd.save_pretrained(tmp_path / "saved")
    theirs = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert embeddings(theirs, "a cat")[0].shape[1] == tokens


TOKENIZER_FAULTS = {
    "another class": (
        "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer"},
        "tokenizer_class is 'BertTokenizer'; only CLIPTokenizer and CLIPTokenizerFast, and",
    ),
    "no length": ("tokenizer_config.json", {"model_max_length": 2}, "model_max_length is 2; it m"),
    "a length in words": ("tokenizer_config.json", {"model_max_length": "77"}, "is '77'; it must"),
    "no padding": ("tokenizer_config.json", {"pad_token": None}, "pad_token is null; a CLIP tok"),
    "an unknown padding": ("tokenizer_config.json", {"pad_token": "<pad>"}, "has 582 tokens, more"),
    "another id for a word": (
        "added_tokens.json",
        {"<cat>": 9999},
        "the token '<cat>' has the number 9999, but 581 in the other files",
    ),
}


@pytest.mark.parametrize("fault", TOKENIZER_FAULTS)
def test_a_tokenizer_that_does_not_fit(folder, fault):
    name, changes, words = TOKENIZER_FAULTS[fault]
    path = folder / "tokenizer" / name
    if not path.is_file():
        path.write_text("{}")
    change(path, **changes)
    said = complaint(lambda: load(folder))
    assert words in said
    assert str(folder / "tokenizer") in said


def layouts(tmp_path):
    """The same tokenizer in both layouts."""
    tokenizer = tiny_tokenizer()
    write_tokenizer(tmp_path / "two files", tokenizer)
    tokenizer.save_pretrained(tmp_path / "one file")
    (tmp_path / "one file" / "added_tokens.json").write_text("{}")
    return tokenizer, [tmp_path / "two files", tmp_path / "one file"]


MARKS = {
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "Windows line ends": lambda content: content.replace(b"\n", b"\r\n"),
    "both": lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("marks", MARKS)
def test_files_that_an_editor_on_windows_saved(marks, tmp_path):
    """Each file of a tokenizer alone, and all of them."""
    tokenizer, folders = layouts(tmp_path)
    for folder in folders:
        files = sorted(folder.iterdir())
        for n, changed in enumerate([*([file] for file in files), files]):
            copy = shutil.copytree(folder, tmp_path / f"{n} {folder.name}")
            for file in changed:
                (copy / file.name).write_bytes(MARKS[marks](file.read_bytes()))
            read = read_tokenizer(copy)
            assert read(PROBE).input_ids == tokenizer(PROBE).input_ids
            assert (read.model_max_length, read.pad_token) == (77, tokenizer.pad_token)


@pytest.mark.parametrize("marks", MARKS)
def test_a_folder_that_an_editor_on_windows_saved(folder, marks, tmp_path):
    wanted = load(folder)
    for file in folder.rglob("*.json"):
        file.write_bytes(MARKS[marks](file.read_bytes()))
    sd = load(folder)
    assert sd.spec == wanted.spec
    assert torch.equal(sd.text(["a red cat"]).context, wanted.text(["a red cat"]).context)


@pytest.mark.parametrize(
    "name",
    ["CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", None],
)
def test_the_class_of_any_tokenizer_with_the_files_of_clip(folder, name):
    """In the tokenizer's file, in the list of parts, or in both, as diffusers reads them."""
    wanted = load(folder).text.tokenizers[0](PROBE).input_ids
    settings, index = folder / "tokenizer" / "tokenizer_config.json", folder / "model_index.json"
    change(settings, tokenizer_class=name)
    assert load(folder).text.tokenizers[0](PROBE).input_ids == wanted
    if name:
        change(index, tokenizer=["transformers", name])
        theirs = DiffusionPipeline.from_pretrained(folder)
        assert theirs.tokenizer(PROBE).input_ids == wanted
        assert load(folder).text.tokenizers[0](PROBE).input_ids == wanted
        change(settings, tokenizer_class="CLIPTokenizer")
        assert load(folder).text.tokenizers[0](PROBE).input_ids == wanted


@pytest.mark.parametrize("entry", ["normalizer", "pre_tokenizer", "post_processor"])
def test_the_class_of_any_tokenizer_with_other_files(folder, entry):
    """With this class, tokenizer.json decides how a text is split; with CLIP's it does not."""
    change(folder / "tokenizer" / "tokenizer.json", **{entry: None})
    wanted = DiffusionPipeline.from_pretrained(folder).tokenizer(PROBE).input_ids
    assert load(folder).text.tokenizers[0](PROBE).input_ids == wanted
    change(folder / "model_index.json", tokenizer=["transformers", "TokenizersBackend"])
    theirs = DiffusionPipeline.from_pretrained(folder)
    assert theirs.tokenizer(PROBE).input_ids != wanted
    said = complaint(lambda: load(folder))
    assert f"{folder / 'tokenizer'} is of the class TokenizersBackend, and its tokenizer.j" in said


def test_two_lengths_of_sequence_are_refused(families, tmp_path):
    folder = shutil.copytree(families["sdxl"], tmp_path / "model")
    change(folder / "tokenizer_2" / "tokenizer_config.json", model_max_length=16)
    assert "sequences of different lengths" in complaint(lambda: load(folder))


def test_other_settings_of_a_tokenizer_are_kept(folder, tmp_path):
    change(
        folder / "tokenizer" / "tokenizer_config.json", padding_side="left", truncation_side="left"
    )
    sd = load(folder)
    sd.save_pretrained(tmp_path / "ours")
    prompts = ["a red cat", "a red cat " * 40]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = token_ids(sd.text.tokenizers[0], prompts)
        after = token_ids(load(tmp_path / "ours").text.tokenizers[0], prompts)
    assert before[0, 0] == 580  # padded on the left
    assert torch.equal(before, after)


WRONG = [None, [], "x", -1, 0, [1], {"x": 1}, True, 1.5, 10**30, float("nan"), ["x"], "a\nb", ""]


def refusal(folder):
    """What is said of a tokenizer, None if it is read."""
    try:
        read_tokenizer(folder)
    except ValueError as error:
        return str(error)
    return None


def test_every_entry_of_a_tokenizer_of_a_wrong_kind(families, tmp_path):
    sd = load(families["sd1"])
    sd.save_pretrained(tmp_path / "ours")
    folder, refused = tmp_path / "ours" / "tokenizer", 0
    shutil.copy(families["sd1"] / "tokenizer" / "tokenizer.json", folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        content = json.loads((folder / name).read_text())
        for key, wrong in product([*content, "added_tokens_decoder"], WRONG):
            (folder / name).write_text(json.dumps(content | {key: wrong}))
            said = refusal(folder)
            refused += bool(said)
            assert not said or (str(folder) in said and "\n" not in said and len(said) < 500)
        (folder / name).write_text(json.dumps(content))
    assert refused > 80
