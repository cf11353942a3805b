"""The classes of notebook 04, taken out of it, are the finished ones, and a slip is noticed."""

import ast
import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sdlearn
from sdlearn import attention
from sdlearn.course import check, solution

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
