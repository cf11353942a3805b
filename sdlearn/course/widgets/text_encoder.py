"""The widget of notebook 05: two captions, and how far the embeddings differ between them."""

import html
import warnings
from typing import Any, NamedTuple

import ipywidgets as widgets
import torch
from torch import Tensor

from sdlearn.clip import CLIPTextEncoder
from sdlearn.course.figures import img
from sdlearn.course.figures.text_encoder import ROUNDING, display_token, token_grid
from sdlearn.course.widgets.stored_image import MimeBundle, with_image
from sdlearn.text import TextEncoder, token_ids


class CaptionComparison(NamedTuple):
    """The embeddings of one caption compared with those of another.

    Attributes:
        tokens: Tokens of the first caption, padded.
        ids: Their ids.
        changed: Positions at which the other caption has another token.
        moved: Relative distance between the embeddings of both captions, (layers + 2, n): token
            embedding, each layer, final norm.
    """

    tokens: list[str]
    ids: list[int]
    changed: list[int]
    moved: Tensor


def compare(text: TextEncoder, first: str, other: str) -> CaptionComparison:
    """Encode two captions with a model's first text encoder; warn if one is truncated."""
    tokenizer, encoder = text.tokenizers[0], first_encoder(text)
    ids = token_ids(tokenizer, [first, other], encoder.config.max_positions)
    with torch.no_grad():
        states = encoder(ids)
    every = torch.stack([*states.hidden, states.last])  # (layers + 2, 2, n, d)
    moved = (every[:, 0] - every[:, 1]).norm(dim=-1) / every[:, 0].norm(dim=-1)
    row = ids[0].tolist()
    changed = (ids[0] != ids[1]).nonzero().flatten().tolist()
    return CaptionComparison(tokenizer.convert_ids_to_tokens(row), row, changed, moved)


def first_encoder(text: TextEncoder) -> CLIPTextEncoder:
    """Return a model's first text encoder."""
    encoder = text.encoders[0]
    assert isinstance(encoder, CLIPTextEncoder)
    return encoder


def describe(reading: CaptionComparison, layer: int) -> str:
    """Describe a comparison at one layer in a sentence or two."""
    n, words = len(reading.tokens), reading.tokens.index(reading.tokens[-1])
    if not reading.changed:
        return f"Both captions have the same {n} tokens; no embedding changes."
    stayed = int((reading.moved[layer] < ROUNDING).sum())
    first = reading.changed[0]
    return (
        f"{words - 1} tokens between start and end, {n - words - 1} padding tokens. The first "
        f"change is at position {first} (“{display_token(reading.tokens[first])}”). The {first} "
        f"embeddings before it stay the same; {n - stayed} of all {n} change."
    )


class TextEncoderWidget(widgets.VBox):
    """Two captions and a layer: the tokens of the first, and which embeddings change.

    Attributes:
        reading: The current comparison.
        image: The figure on display.
        alt: Its text alternative.
    """

    def __init__(self, text: TextEncoder, caption: str, other: str, width: int = 474) -> None:
        """Build the widget.

        Args:
            text: The text encoder.
            caption: The first caption.
            other: The caption to compare it with.
            width: Of the figure, in CSS pixels.
        """
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
        """Encode both captions and show them at the chosen layer."""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self.reading = compare(self.text, self.caption.value, self.other.value)
        self.notes = [f"{str(one.message)[:1].upper()}{str(one.message)[1:]}." for one in warned]
        self.show()

    def show(self) -> None:
        """Show the current comparison at the chosen layer."""
        reading, layer = self.reading, self.layer.value
        self.image = token_grid(
            reading.tokens,
            reading.ids,
            reading.moved[layer],
            reading.changed,
            f"Token, id, and how far its embedding moves ({self.layer.label}) when the caption "
            f"becomes “{self.other.value}”",
        )
        sentence = " ".join([describe(reading, layer), *dict.fromkeys(self.notes)])
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.alt = f"The tokens in their positions. {sentence}"
        self.view.value = img(self.image, self.alt, self.width)

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        view = super()._repr_mimebundle_(**options)
        return with_image(view, self.image, self.alt, self.width)
