"""What the tests of published folders share: damage, complaints, and words that were learnt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from sdlearn.pipeline import StableDiffusion

WORDS = ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2", "Über-Stil"]


def change(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; "gone" removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


def load(folder: Path) -> StableDiffusion:
    return StableDiffusion.from_pretrained(folder, device="cpu")


def complaint(action: Callable[[], object]) -> str:
    """The one sentence of bounded length that an action is refused with."""
    with pytest.raises((ValueError, OSError)) as caught:
        action()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    assert not any(word in said for word in ("set_int_max", "trust_remote_code", "weights_only"))
    return said


def learn(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """The same pipeline with learnt words in each of its tokenizers."""
    names = [name for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)]
    for name in names:
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        tokenizer.add_tokens(WORDS)
        encoder = getattr(pipe, name)
        encoder.resize_token_embeddings(len(tokenizer))
        with torch.no_grad():
            encoder.get_input_embeddings().weight[-len(WORDS) :].normal_()
    return pipe


def embeddings(pipe: DiffusionPipeline, prompt: str) -> list[Tensor]:
    given = pipe.encode_prompt(
        prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return [each for each in given if each is not None]
