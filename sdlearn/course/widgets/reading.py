"""The live part of notebook 03: two captions, and which of the first one's states they share."""

import html
import warnings
from typing import NamedTuple

import ipywidgets as widgets
import torch
from torch import Tensor

from sdlearn.clip import CLIPTextEncoder
from sdlearn.course.figures import img
from sdlearn.course.figures.reading import STILL, readable, token_page
from sdlearn.text import TextEncoder, token_ids


class Reading(NamedTuple):
    """A caption beside another one. tokens, ids: of the first, padded. changed: the places where
    the other has another token. moved: (layers + 2, n), how far each state of the first is from
    the other's, as a part of its length: the embedding, each layer, and after the final norm."""

    tokens: list[str]
    ids: list[int]
    changed: list[int]
    moved: Tensor


def compare(text: TextEncoder, first: str, other: str) -> Reading:
    """Read two captions with the first of a model's text encoders; warns where it cuts one."""
    tokenizer, encoder = text.tokenizers[0], first_encoder(text)
    ids = token_ids(tokenizer, [first, other], encoder.config.max_positions)
    with torch.no_grad():
        states = encoder(ids)
    every = torch.stack([*states.hidden, states.last])  # (layers + 2, 2, n, d)
    moved = (every[:, 0] - every[:, 1]).norm(dim=-1) / every[:, 0].norm(dim=-1)
    row = ids[0].tolist()
    changed = (ids[0] != ids[1]).nonzero().flatten().tolist()
    return Reading(tokenizer.convert_ids_to_tokens(row), row, changed, moved)


def first_encoder(text: TextEncoder) -> CLIPTextEncoder:
    encoder = text.encoders[0]
    assert isinstance(encoder, CLIPTextEncoder)
    return encoder


def told(reading: Reading, layer: int) -> str:
    """What a reading shows at one layer, in a sentence or two."""
    n, words = len(reading.tokens), reading.tokens.index(reading.tokens[-1])
    if not reading.changed:
        return f"Both captions have the same {n} tokens; nothing moves."
    stayed = int((reading.moved[layer] < STILL).sum())
    before = reading.changed[0]
    return (
        f"{words - 1} tokens between start and end, {n - words - 1} of filling. The first change "
        f"is at place {before} (“{readable(reading.tokens[before])}”); the {before} states before "
        f"it stay, {n - stayed} of all {n} move."
    )


class ReadingGlass(widgets.VBox):
    """A caption, another one, and a layer: the tokens of the first, and which states move.

    `reading` is what was computed last, `picture` what is shown.
    """

    def __init__(self, text: TextEncoder, caption: str, other: str, width: int = 848) -> None:
        """width: of the page of tokens, in CSS pixels."""
        self.text = text
        self.width = width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "44em"}}
        self.caption = widgets.Text(
            value=caption, description="Caption", continuous_update=False, **row
        )
        self.other = widgets.Text(
            value=other, description="Changed", continuous_update=False, **row
        )
        layers = first_encoder(text).config.num_layers
        names = ["embedding", *(f"layer {k + 1}" for k in range(layers)), "final norm"]
        self.layer = widgets.SelectionSlider(
            options=[(name, k) for k, name in enumerate(names)],
            value=layers + 1,
            description="State",
            **row,
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        for text_box in (self.caption, self.other):
            text_box.observe(lambda _: self.read(), "value")
        self.layer.observe(lambda _: self.show(), "value")
        self.read()
        super().__init__([self.caption, self.other, self.layer, self.message, self.view])

    def read(self) -> None:
        """Encode both captions, and show them at the chosen layer."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self.reading = compare(self.text, self.caption.value, self.other.value)
        self.notes = [f"{str(one.message)[:1].upper()}{str(one.message)[1:]}." for one in warned]
        self.show()

    def show(self) -> None:
        """Show the last reading at the chosen layer."""
        reading, layer = self.reading, self.layer.value
        self.picture = token_page(
            reading.tokens,
            reading.ids,
            reading.moved[layer],
            reading.changed,
            f"Token, number, and how far its state moves: {self.layer.label}",
        )
        sentence = " ".join([told(reading, layer), *dict.fromkeys(self.notes)])
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"The tokens in their places. {sentence}", self.width)
