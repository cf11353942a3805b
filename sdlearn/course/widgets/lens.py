"""The live part of notebook 05: from where on the page is a word looked at?"""

import html

import ipywidgets as widgets

from sdlearn.course import looking
from sdlearn.course.figures import grid, img, lit, tile

ALL_HEADS = -1  # a menu takes None for "nothing chosen"


class Lens(widgets.VBox):
    """From where on the page is a word looked at? For one word, layer, step and head.

    `picture` is what is shown: the page, the map of the word, and the page in its light.
    """

    def __init__(self, looks: looking.Looks, word: int = 1, width: int = 480) -> None:
        """looks: see looking.watch. word: its number at the beginning. width: in CSS pixels."""
        self.looks = looks
        self.width = width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        words = [(f"{k}: {word}", k) for k, word in enumerate(looks.words)]
        layers = [(name.replace(".transformer_blocks.0.attn2", ""), name) for name in looks.q]
        steps, heads = next(iter(looks.q.values())).shape[:2]
        every = [("mean of all", ALL_HEADS), *((str(k), k) for k in range(heads))]
        self.word = widgets.Dropdown(options=words, value=word, description="Word", **row)
        middle = layers[len(layers) // 2][1]
        self.layer = widgets.Dropdown(options=layers, value=middle, description="Layer", **row)
        self.head = widgets.Dropdown(options=every, description="Head", **row)
        self.step = widgets.IntSlider(
            value=steps, min=1, max=steps, description="Step", continuous_update=False, **row
        )
        self.sharpness = widgets.FloatSlider(
            value=1, min=0, max=4, step=0.25, description="Sharpness", **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.word, self.layer, self.head, self.step, self.sharpness]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Show the map of the current settings, and say its numbers."""
        head = None if self.head.value == ALL_HEADS else self.head.value
        shares = looking.weights(
            self.looks, self.layer.value, self.step.value - 1, head, self.sharpness.value
        )
        page, word = self.looks.picture, self.looks.words[self.word.value]
        seen = looking.word_map(self.looks, self.word.value, shares)
        self.picture = grid(
            [[page, tile(seen, size=page.width), lit(page, seen)]],
            ["the page", f"weight of {word}", "the page in its light"],
            scale=2,
        )
        sentence = (
            f"The word “{word}” gets {seen.mean():.1%} of all looks, and {seen.max():.1%} where it "
            f"gets most; an equal share would be {1 / shares.shape[1]:.1%}."
        )
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"Map of the word {word}. {sentence}", self.width)
