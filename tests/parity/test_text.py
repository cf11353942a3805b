"""Tokens and their states against transformers, as diffusers uses it."""

import logging
import warnings

import pytest
import torch

from sdlearn.pipeline import StableDiffusion
from sdlearn.text import token_ids
from tests.tiny_model import tiny_diffusers

from .oracle import TOLERANCE, relative_error

PROMPTS = ["a red cat on the sand", "", "Zebra 123! ünïcödé 🐈's", "a red cat on the sand"]
LONG = "a red cat to the left of " * 20 + "a blue house"


@pytest.fixture(scope="module")
def pipe():
    return tiny_diffusers()


@pytest.fixture(scope="module")
def sd(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pipe.save_pretrained(folder)
    return StableDiffusion.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("prompt", [*PROMPTS, LONG])
def test_ids(prompt, pipe, sd):
    options = {"padding": "max_length", "max_length": 77, "truncation": True}
    theirs = pipe.tokenizer(prompt, return_tensors="pt", **options).input_ids
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = token_ids(sd.text.tokenizers[0], [prompt])
    assert ours.tolist() == theirs.tolist()


def test_a_saved_tokenizer_is_the_same(sd, pipe, tmp_path):
    sd.save_pretrained(tmp_path)
    again = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    ours, theirs = (
        token_ids(again.text.tokenizers[0], PROMPTS),
        token_ids(pipe.tokenizer, PROMPTS),
    )
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_context(dtype, pipe, sd):
    """One batch, a repeated prompt included, against one prompt at a time."""
    encoder = pipe.text_encoder.to(dtype)
    ids = token_ids(pipe.tokenizer, PROMPTS)
    theirs = torch.cat([encoder(row[None]).last_hidden_state for row in ids])
    ours = sd.text.to(dtype)(PROMPTS).context
    assert ours.shape == (4, 77, 24)
    assert relative_error(ours, theirs) <= TOLERANCE[dtype]
    assert relative_error(ours[1:2], theirs[:1]) > 0.1  # prompts do differ


def test_a_long_prompt_is_cut_with_a_warning(sd, pipe, caplog, monkeypatch):
    """And with that one alone: transformers has another, of indexing errors that do not happen."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    sd.text.tokenizers[0].deprecation_warnings.clear()  # transformers says it once
    tokens = len(pipe.tokenizer(LONG, verbose=False).input_ids) - 2
    with pytest.warns(UserWarning, match=rf"has {tokens} tokens.*reads 75.*a blue house'"):
        ids = token_ids(sd.text.tokenizers[0], ["a cat", LONG])
    assert caplog.text == ""
    assert ids.shape == (2, 77)
    assert ids[1, -1] == sd.text.tokenizers[0].eos_token_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token_ids(sd.text.tokenizers[0], PROMPTS)
