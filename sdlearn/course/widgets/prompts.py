"""The playground's prompt: the fields, examples, random ones, and the words the model knows."""

import random
from collections.abc import Sequence

import ipywidgets as widgets

from sdlearn.storybook.captions import NOUNS, PLACES, TIMES, caption
from sdlearn.storybook.scenes import COLOURS, POSES, sample_scene

PROMPT = "a red cat to the left of a blue house on the sand at night"
EXAMPLES = (
    PROMPT,
    "a yellow star above a green tree in the snow",
    "a boat at sea at sunset",
    "two pink fish at sea under a blue sky",
    "a waving person in red in a meadow on a sunny day",
    "a spotted red mushroom in front of a purple house on the grass",
    "an orange balloon above a black house on the street at dawn",
    "a striped green snail on the beach under grey clouds",
)
LINE = {
    "style": {"description_width": "8.5em"},
    "layout": widgets.Layout(width="auto", max_width="56em"),
}
CHOOSE = "choose one …"


class PromptBox(widgets.VBox):
    """A prompt and a negative prompt, and for the storybook model help to find a prompt.

    Attributes:
        prompt, negative: The two text fields.
        rng: Chooses the random prompts.
    """

    def __init__(self, prompt: str, storybook: bool) -> None:
        """Make the fields.

        Args:
            prompt: The first prompt.
            storybook: Whether the model is the storybook model, whose words are known.
        """
        self.rng = random.Random()
        self.prompt = widgets.Text(value=prompt, description="Prompt", **LINE)
        self.negative = widgets.Text(
            description="Negative prompt", placeholder="what to steer away from, or nothing", **LINE
        )
        self.examples = widgets.Dropdown(
            options=[CHOOSE, *EXAMPLES],
            description="Examples",
            style={"description_width": "8.5em"},
            layout={"width": "auto", "flex": "1 1 18em", "min_width": "0", "max_width": "42em"},
        )
        self.dice = widgets.Button(
            description="⚄ Random prompt",
            tooltip="Write a random caption like those of the training set",
            layout={"width": "auto"},
        )
        self.vocabulary = widgets.Accordion(
            [widgets.VBox()], titles=["Words the model knows"], selected_index=None
        )
        self.examples.observe(lambda change: self.take_example(change["new"]), "value")
        self.dice.on_click(lambda _: self.roll())
        self.vocabulary.observe(lambda _: self.fill_vocabulary(), "selected_index")
        helps = widgets.HBox([self.examples, self.dice], layout={"flex_flow": "row wrap"})
        help_rows = [helps, self.vocabulary] if storybook else []
        super().__init__([self.prompt, *help_rows, self.negative])

    def take_example(self, prompt: str) -> None:
        """Write an example into the field."""
        if prompt != CHOOSE:
            self.prompt.value = prompt

    def roll(self) -> None:
        """Write a random caption into the field."""
        self.prompt.value = caption(sample_scene(self.rng), self.rng)

    def append(self, words: str) -> None:
        """Add words at the end of the prompt."""
        self.prompt.value = f"{self.prompt.value.rstrip()} {words}".strip()

    def fill_vocabulary(self) -> None:
        """Make the fold's buttons when it is first opened, because each one takes the page time."""
        (inside,) = self.vocabulary.children
        if self.vocabulary.selected_index is None or inside.children:
            return
        note = widgets.HTML("Choose words to add them to the prompt.")
        inside.children = (note, *(self.row(name, words) for name, words in rows().items()))

    def row(self, name: str, words: Sequence[str]) -> widgets.HBox:
        """Make a row of buttons with a heading."""
        narrow = {"width": "auto", "margin": "1px"}
        buttons = [widgets.Button(description=each, layout=narrow) for each in words]
        for button in buttons:
            button.on_click(lambda pressed: self.append(pressed.description))
        label = widgets.HTML(f"<b>{name}</b>", layout={"width": "7em"})
        return widgets.HBox([label, *buttons], layout={"flex_flow": "row wrap"})


def rows() -> dict[str, tuple[str, ...]]:
    """Return the words of the captions, by heading."""
    return {
        "Objects": tuple(noun for nouns in NOUNS.values() for noun in nouns),
        "Colours": (*COLOURS, "striped", "spotted"),
        "Places": tuple(place for places in PLACES.values() for place in places),
        "Times": tuple(time for times in TIMES.values() for time in times),
        "Relations": (
            "to the left of", "to the right of", "above", "below", "in front of", "behind",
        ),
        "People": tuple(f"a {pose} person in red" for pose in POSES),
        "Other words": ("a", "an", "two", "and"),
    }  # fmt: skip
