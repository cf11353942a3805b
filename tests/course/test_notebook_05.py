"""Notebook 05: its classes, taken out of it, are the finished ones, and a slip is noticed; what its
prose says of causality, bags and merges holds for any weights."""

import ast
import contextlib
import io
import json
import random
import re
from collections import Counter
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sdlearn
from sdlearn import clip
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.course import check

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "05-text-encoder.ipynb"
CLASSES = ("CausalAttention", "MLP", "Layer", "States", "Embeddings", "Encoder", "TextTransformer")
SMALL = CLIPTextConfig(
    vocab_size=99, hidden_size=24, num_layers=3, num_heads=3, intermediate_size=56, eos_token_id=98
)
PROJECTED = CLIPTextConfig(
    vocab_size=99, hidden_size=24, num_layers=2, num_heads=4, intermediate_size=40,
    eos_token_id=98, activation="gelu", projection_dim=16,
)  # fmt: skip


def cells() -> dict[str, str]:
    stored = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in stored if cell["cell_type"] == "code"}


def built(change: tuple[str, str] = ("", ""), kinds=ast.ClassDef, names=CLASSES) -> dict:
    """Definitions of the notebook by name, with a piece of their text replaced."""
    made = {"torch": torch, "nn": nn, "F": F, "Tensor": Tensor, "NamedTuple": NamedTuple}
    made |= {"Counter": Counter, "pairwise": pairwise}
    for source in cells().values():
        for node in ast.parse(source).body:
            if isinstance(node, kinds) and node.name in names:
                exec(ast.unparse(node).replace(*change), made)
    return made


def tokens() -> Tensor:
    ids = torch.randint(0, 97, (2, 77), generator=torch.Generator().manual_seed(0))
    ids[0, 9:], ids[1, -1] = 98, 98
    return ids


def compared(names: dict) -> None:
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))
    check.same(names["CausalAttention"](24, 3), clip.CausalAttention(24, 3), x)
    for config in (SMALL, PROJECTED):
        check.same(names["TextTransformer"](config), CLIPTextEncoder(config), tokens())


def test_its_classes_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 3


@pytest.mark.parametrize("config", [SMALL, PROJECTED])
def test_they_agree_in_float64_with_the_weights_of_the_finished_ones(config):
    """Without the help of check.same."""
    torch.manual_seed(0)
    theirs = CLIPTextEncoder(config).double()
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    mine = built()["TextTransformer"](config).double()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    a, b = mine(tokens()), theirs(tokens())
    for x, y in ((a.last, b.last), (a.pooled, b.pooled), *zip(a.hidden, b.hidden, strict=True)):
        assert (x - y).norm() / y.norm() <= 1e-12


@pytest.mark.parametrize(
    "change",
    [
        ("triu(1)", "triu(0)"),
        ("triu(1)", "triu(2)"),
        ("triu(1)", "tril(-1)"),
        ("float('-inf')", "-9.0"),
        ("softmax(dim=-1)", "softmax(dim=-2)"),
        ("/ q.shape[-1] ** 0.5", ""),
        ("seen.transpose(1, 2).flatten(2)", "seen.reshape(x.shape)"),
        ("self.v_proj = nn.Linear(dim, dim)", "self.v_proj = nn.Linear(dim, dim, bias=False)"),
        ("1.702", "1.7"),
        ("F.gelu(h)", "F.gelu(h, approximate='tanh')"),
        ("self.activation == 'quick_gelu'", "True"),
        ("self.self_attn(self.layer_norm1(x))", "self.self_attn(x)"),
        ("x = x + self.self_attn(", "x = self.layer_norm1(x) + self.self_attn("),
        ("return x + self.mlp", "return self.mlp"),
        ("self.mlp(self.layer_norm2(x))", "self.mlp(x)"),
        ("last = self.final_layer_norm(hidden[-1])", "last = hidden[-1]"),
        ("last = self.final_layer_norm(hidden[-1])", "last = self.final_layer_norm(hidden[-2])"),
        ("row.index(self.end)", "len(row) - 1"),
        (" + self.position_embedding.weight[:ids.shape[1]]", ""),
        ("pooled = self.text_projection(pooled)", "pass"),
        ("hidden = [x]", "hidden = [x * 1.001]"),
    ],
)  # fmt: skip
def test_a_slip_in_its_classes_is_noticed(change):
    with pytest.raises((AssertionError, RuntimeError)):
        compared(built(change))


def test_a_bag_of_words_cannot_bind_with_places_or_without():
    torch.manual_seed(0)
    words, places = torch.randn(99, 12).double(), torch.randn(9, 12).double()
    one, other = torch.tensor([[5, 6, 7, 8, 5, 9, 10], [5, 9, 7, 8, 5, 6, 10]])
    for vectors in (words[one] - words[other], words[one] + places[:7] - words[other] - places[:7]):
        assert vectors.sum(0).norm() < 1e-12
    states = CLIPTextEncoder(SMALL)(torch.tensor([[*one, 98], [*other, 98]])).last
    assert (states[0] - states[1]).norm(dim=-1)[-1] > 1e-3


def test_in_the_last_layer_the_loss_reaches_the_end_token_only():
    states = built()["TextTransformer"](SMALL)(tokens()[:1])
    for hidden in states.hidden:
        hidden.retain_grad()
    states.pooled.pow(3).sum().backward()
    reached = [(h.grad.abs().sum(-1) > 0).sum().item() for h in states.hidden]
    assert reached == [10, 10, 10, 1]


def test_its_merges_put_every_word_together_and_lose_no_letter():
    wanted = "spelt_in_letters", "count_pairs", "join", "learn"
    names = built(kinds=ast.FunctionDef, names=wanted)
    words = Counter(["a", "banana", "and", "a", "bandana", "in", "a", "cabana"])
    names["words"] = words
    spelt, merges = names["spelt_in_letters"](words), []
    sizes = []
    while names["count_pairs"](spelt):
        spelt, _ = names["learn"](spelt, merges)
        sizes.append(sum(map(len, spelt.values())))
        assert all("".join(pieces) == f"{word}</w>" for word, pieces in spelt.items())
    assert all(len(pieces) == 1 for pieces in spelt.values())
    assert sizes == sorted(sizes, reverse=True)
    assert merges[0] == ("a", "n")
    assert names["join"](("a", "a", "a", "b"), ("a", "a")) == ("aa", "a", "b")


def test_its_loss_is_the_finished_one():
    loss = built(kinds=ast.FunctionDef, names=("clip_loss",))["clip_loss"]
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 9, generator=rng, dtype=torch.float64) for _ in range(2))
    for scale in (0.0, 2.0, 9.0):
        log_scale = torch.tensor(scale, dtype=torch.float64)
        assert torch.allclose(
            loss(x, y, log_scale), clip.contrastive_loss(x, y, log_scale), rtol=1e-12, atol=0
        )


def test_the_game_is_fair():
    """Twins have the same words and differ in pixels; the order of a caption says no side."""
    names = {"random": random, "torch": torch, "np": np}
    names |= {"combinations": combinations, "product": product}
    exec(cells()["world"], names)
    train, test = names["train"], names["test"]
    assert len(test) == 24
    choices = [{(frozenset(k), frozenset(c)) for _, k, c in drawn} for drawn in (*train, test)]
    *learnt, asked = choices
    assert len(asked) == 24
    assert all(len(choice) == 1 for choice in learnt)  # so only twins share their words in a batch
    assert len(set.union(*learnt)) == len(train)
    assert not set.union(*learnt) & asked
    scenes = []
    names["render"] = lambda scene, side: scenes.append(scene) or np.zeros((side, side, 3))
    for seed in range(60):
        names["draw_couple"](("cat", "house"), ("red", "blue"), random.Random(seed))
    assert 20 < sum(scene.things[0].x < scene.things[1].x for scene in scenes[::2]) < 40
    for page, twin in zip(scenes[::2], scenes[1::2], strict=True):
        assert [(t.kind, t.x, t.y) for t in page.things] == [
            (t.kind, t.x, t.y) for t in twin.things
        ]
        assert [t.colour for t in page.things] == [t.colour for t in twin.things][::-1]
    for pixels, kinds, colours in test:
        for flip in (False, True):
            one, other = names["describe"](kinds, colours, flip)
            assert one != other
            assert Counter(one.split()) == Counter(other.split())
        assert (pixels[0] - pixels[1]).abs().max() > 0.5
        assert pixels.shape == (2, 3, 32, 32)


def test_what_it_counts_are_the_published_encoders():
    """CLIP-L, OpenCLIP-H with 23 layers, OpenCLIP-bigG with its projection."""
    transformer = built()["TextTransformer"]
    for name, counts in (
        ("sd1.5", [123_060_480]),
        ("sd2.1", [340_387_840]),
        ("sdxl", [123_060_480, 694_659_840]),
    ):
        with torch.device("meta"):
            models = [transformer(config) for config in sdlearn.SPECS[name].text]
        assert [sum(p.numel() for p in model.parameters()) for model in models] == counts


def test_its_training_told_the_twins_apart_and_the_bag_could_not():
    """As stored: what the figures show and the prose says of them."""
    stored = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    (cell,) = [cell for cell in stored if cell["id"] == "training"]
    text = "".join("".join(out.get("text", "")) for out in cell["outputs"])
    rows = [[int(x) for x in re.findall(r"\d+", line)] for line in text.splitlines() if "%" in line]
    ends = [k for k, row in enumerate(rows) if k + 1 == len(rows) or rows[k + 1][0] == 0]
    (_, bag_couple, bag_within, _), (_, plain_couple, plain_within, _), last = (
        rows[k] for k in ends
    )
    _, couple, within, page = last
    assert min(couple, plain_couple, bag_couple) > 90
    assert within > 85
    assert page > 80
    assert bag_within == 50
    assert 50 < plain_within < within - 10
