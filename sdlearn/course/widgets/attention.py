"""The widget of notebook 04: the attention map of any token, layer, head and step."""

import ipywidgets as widgets

from sdlearn.course import attention_maps
from sdlearn.course.figures import grid, heatmap, overlay
from sdlearn.course.widgets.figure_widget import FigureWidget

ALL_HEADS = -1  # a menu takes None for "nothing chosen"


class AttentionLens(FigureWidget):
    """Menus for token, layer, head and step, a slider for sharpness, and the attention map.

    Attributes:
        tiles: The generated image, the attention map, and the image lit by the map.
        image: The figure on display, with these three.
    """

    def __init__(self, maps: attention_maps.AttentionMaps, word: int = 1, width: int = 480) -> None:
        """Build the widget.

        Args:
            maps: From `attention_maps.record`.
            word: Index of the token to show first.
            width: Of the figure, in CSS pixels.
        """
        self.maps = maps
        self.width = width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        words = [(f"{k}: {word}", k) for k, word in enumerate(maps.words)]
        layers = [(name.replace(".transformer_blocks.0.attn2", ""), name) for name in maps.q]
        steps, heads = next(iter(maps.q.values())).shape[:2]
        every = [("mean of all", ALL_HEADS), *((str(k), k) for k in range(heads))]
        self.word = widgets.Dropdown(options=words, value=word, description="Word", **row)
        middle = layers[len(layers) // 2][1]
        self.layer = widgets.Dropdown(options=layers, value=middle, description="Layer", **row)
        self.head = widgets.Dropdown(options=every, description="Head", **row)
        self.step = widgets.IntSlider(
            value=steps, min=1, max=steps, description="Step", continuous_update=False, **row
        )
        self.sharpness = widgets.FloatSlider(
            value=1, min=0, max=2, step=0.1, description="Sharpness", **row
        )
        super().__init__([self.word, self.layer, self.head, self.step, self.sharpness])

    def update(self) -> None:
        """Show the map of the current settings and describe it."""
        head = None if self.head.value == ALL_HEADS else self.head.value
        weights = attention_maps.attention_weights(
            self.maps, self.layer.value, self.step.value - 1, head, self.sharpness.value
        )
        page, word = self.maps.image, self.maps.words[self.word.value]
        seen = attention_maps.token_map(self.maps, self.word.value, weights)
        # One scale for all words; the start and the end of the text may get far more than any.
        most = float(weights[:, 1 : len(self.maps.words) - 1].max())
        self.tiles = page, heatmap(seen, most, page.width), overlay(page, seen, most)
        headings = "the image", f"attention to {word}", "lit by the map"
        among = "mean of all heads" if head is None else f"head {head}"
        state = (
            f"{word}: {self.layer.label}, {among}, step {self.step.value}, "
            f"sharpness {self.sharpness.value:g}"
        )
        self.image = grid([self.tiles], headings, title=state, scale=2)
        sentence = (
            f"The token “{word}” gets {seen.mean():.1%} of the attention, and {seen.max():.1%} "
            f"where it gets most; an equal share would be {1 / weights.shape[1]:.1%}. White is "
            f"{most:.1%}, the most that any word gets here."
        )
        self.show(sentence, f"Attention map of {word}. {sentence} Settings: {state}.")
