"""The classes of notebook 04, taken out of it, are the finished ones, and a slip is noticed."""

import ast
import contextlib
import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sdlearn
from sdlearn import attention
from sdlearn.course import check, figures, solution

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "04-attention.ipynb"
CLASSES = ("Attention", "GEGLU", "GatedFeedForward", "TransformerBlock", "SpatialTransformer")
GIVEN = ("GEGLU", "GatedFeedForward")  # the rest is typed by the learner


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The five classes as the notebook defines them, with a piece of their text replaced."""
    names = {"torch": torch, "nn": nn, "F": F, "Tensor": Tensor}
    # The learner writes these; the notebook goes on with the solution.
    for number in ("04.1", "04.2", "04.3", "04.4", "04.5"):
        exec(solution(number).text.replace(*change), names)
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            for node in ast.parse("".join(cell["source"])).body:
                if getattr(node, "name", "") in (*GIVEN, "attention_weights"):
                    exec(ast.unparse(node).replace(*change), names)
    return names


def inputs(*shapes):
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=rng) for shape in shapes]


def compared(names: dict) -> None:
    x, text, page = inputs((2, 15, 24), (2, 7, 10), (2, 32, 6, 4))
    for name, arguments, given in (
        ("Attention", (24, 3), [x]),
        ("Attention", (24, 3, 10), [x, text]),
        ("GEGLU", (24, 5), [x]),
        ("GatedFeedForward", (24,), [x]),
        ("TransformerBlock", (24, 3, 10), [x, text]),
        ("SpatialTransformer", (32, 4, 10, 2, 8), [page / 10, text]),
    ):
        check.same(names[name](*arguments), getattr(attention, name)(*arguments), *given)


def test_its_classes_are_the_finished_ones():
    names = built()
    assert set(CLASSES) <= set(names)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(names)
    assert said.getvalue().count("same: ") == 6


def test_they_agree_with_the_weights_of_the_finished_ones_in_float64():
    """Without the help of check.same."""
    names = built()
    page, text = (x.double() for x in inputs((2, 32, 6, 4), (2, 7, 10)))
    torch.manual_seed(0)
    theirs = attention.SpatialTransformer(32, 4, 10, 2, groups=8).double()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    mine = names["SpatialTransformer"](32, 4, 10, 2, groups=8).double()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    expected = theirs(page, text)
    assert (mine(page, text) - expected).norm() / expected.norm() <= 1e-12


@pytest.mark.parametrize(
    "change",
    [
        ("softmax(dim=-1)", "softmax(dim=-2)"),
        ("/ q.shape[-1] ** 0.5", ""),
        ("heads, width // heads).transpose(1, 2)", "width // heads, heads).permute(0, 3, 1, 2)"),
        ("out.transpose(1, 2).flatten(2)", "out.reshape(len(x), x.shape[1], -1)"),
        ("self.to_v(context)", "self.to_k(context)"),
        ("(dim, dim, bias=False)", "(dim, dim)"),
        ("u, g =", "g, u ="),
        ("F.gelu(g)", "F.gelu(g, approximate='tanh')"),
        ("nn.Identity(), ", ""),
        ("x = x + self.attn1(self.norm1(x))", "x = self.norm1(x + self.attn1(x))"),
        ("x = x + self.attn2(self.norm2(x), context)", "x = x + self.attn2(self.norm2(x))"),
        ("return x + self.ff(self.norm3(x))", "return self.ff(self.norm3(x))"),
        ("eps: float = 1e-6", "eps: float = 1e-5"),
        ("return x + self.proj_out", "return self.proj_out"),
        (".transpose(1, 2).reshape(b, c, h, w)", ".reshape(b, c, h, w)"),
        ("reshape(b, c, h, w)", "reshape(b, c, w, h).transpose(2, 3)"),
    ],
)  # fmt: skip
def test_a_slip_in_its_classes_is_noticed(change):
    with pytest.raises((AssertionError, RuntimeError)):
        compared(built(change))


def test_the_models_it_counts_are_the_published_ones():
    """So many transformer blocks have Stable Diffusion 1.5, 2.1 and XL."""
    for name, blocks in (("sd1.5", 16), ("sd2.1", 16), ("sdxl", 70)):
        with torch.device("meta"):
            unet = sdlearn.UNet(sdlearn.SPECS[name].unet)
        found = sum(isinstance(m, attention.TransformerBlock) for m in unet.modules())
        assert found == blocks


def test_height_and_width_exchanged_are_noticed_on_an_oblong_map_alone():
    """As the sentence for this mistake of exercise 04.5 says."""
    right, wrong = built(), built(("reshape(b, c, h, w)", "reshape(b, c, w, h)"))
    square, oblong, text = inputs((1, 8, 4, 4), (1, 8, 4, 6), (1, 3, 10))
    theirs, mine = (names["SpatialTransformer"](8, 2, 10, 1, 4) for names in (right, wrong))
    mine.load_state_dict(theirs.state_dict())
    assert torch.equal(mine(square, text), theirs(square, text))
    with pytest.raises(RuntimeError, match="must match the size"):
        mine(oblong, text)


def test_its_figures_say_what_they_show():
    one = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    drawn = figures.attention_diagrams.heads(
        one, [one, one.flip(1)], ["ear", "sky"], ["red", "night"]
    )
    assert {"one head", "two heads", "head 0", "head 1", ".75"} <= {
        text.get_text() for text in drawn.figure.axes[0].texts
    }
    assert "head 1 0.75 on red, 0.25 on night" in drawn.words
    assert "outputs of two heads 0.25 on red, 0.25 on night" in drawn.words

    drawn = figures.attention_diagrams.heads(
        one, [one, one.flip(1)], ["ear", "sky"], ["red", "night"], torch.tensor([[3.0, 0], [0, 7]])
    )
    assert {"3", "7"} <= {text.get_text() for text in drawn.figure.axes[0].texts}
    assert drawn.words.endswith("The queries: ear 3, 0; sky 0, 7.")

    lines = {"q·k": [0.3, 0.9], "q·k / √d": [0.1, 0.1]}
    drawn = figures.attention.saturation([4, 16], lines, lines)
    assert len(drawn.figure.axes) == 2
    assert "q·k: 0.30 at d = 4, 0.90 at d = 16" in drawn.words


def test_labels_of_lines_that_end_together_do_not_overlap():
    drawn = figures.attention.attention_time([4, 8, 16], {"plain": [1, 2, 9], "fused": [1, 2, 9]})
    heights = sorted(text.get_position()[1] for text in drawn.figure.axes[0].texts)
    assert all(high >= 1.8 * low for low, high in pairwise(heights))


def test_the_outline_of_a_silhouette_leaves_out_its_holes():
    page = figures.images.Image.new("RGB", (8, 8), "white")
    silhouette = np.zeros((8, 8), bool)
    silhouette[2:6, 2:6] = True
    silhouette[3, 3] = False
    drawn = figures.variant_rows({"a": [page], "b": [page]}, [0], "Title", "", [silhouette])
    dark = (np.array(drawn.figure) == 20).all(axis=-1)
    assert dark.sum() == 4 * 8  # a square of 4, doubled
    plain = figures.variant_rows({"a": [page], "b": [page]}, [0], "Title", "")
    assert plain.figure.size == drawn.figure.size
    assert not (np.array(plain.figure) == 20).all(axis=-1).any()


def test_maps_on_their_own_scale_are_rows_of_their_own():
    page = figures.images.Image.new("RGB", (8, 8), "white")
    maps = torch.stack([torch.full((2, 2), 0.5), torch.full((2, 2), 0.25)])
    together = figures.token_overlays(page, maps[:1], ["much"], "Title")
    both = figures.token_overlays(page, maps[:1], ["much"], "Title", alone={"little": maps[1]})
    assert both.figure.height > together.figure.height
    assert "each on its own scale: little: 25.0% on average" in both.words
