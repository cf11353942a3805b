"""Notebook 05: its classes, taken out of it, are the finished ones, and a slip is noticed; what its
prose says of causality, bags of words and merges holds for any weights."""

import ast
import contextlib
import io
import json
import random
import re
from collections import Counter
from itertools import pairwise
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
from sdlearn.course import check, dual_encoder, solution
from sdlearn.course.dual_encoder import describe

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "05-text-encoder.ipynb"
CLASSES = (
    "CausalAttention", "MLP", "Layer", "TextOutput", "Embeddings", "Encoder",
)  # fmt: skip
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
    made |= {"Counter": Counter, "pairwise": pairwise, "CLIPTextConfig": CLIPTextConfig}
    # The learner writes these; the notebook goes on with the solution.
    for number in ("05.1", "05.2", "05.4"):
        exec(solution(number).text.replace(*change), made)
    for source in cells().values():
        for node in ast.parse(source).body:
            if isinstance(node, kinds) and node.name in names:
                exec(ast.unparse(node).replace(*change), made)
    if "TextOutput" in made:
        exec(solution("05.3").text.replace(*change), made)
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
        ('float("-inf")', "-9.0"),
        ("softmax(dim=-1)", "softmax(dim=-2)"),
        ("/ q.shape[-1] ** 0.5", ""),
        ("out.transpose(1, 2).flatten(2)", "out.reshape(x.shape)"),
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
        ("(ids == self.end)", "(ids == ids)"),
        ("ids == self.end).int().argmax", "ids.flip(1) == self.end).int().argmax"),
        ("token_embedding(ids) + positions]", "token_embedding(ids)]"),
        ("self.text_projection(pooled)", "pooled"),
        ("+ positions]", "+ 1.001 * positions]"),
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
    states.pooled.sum().backward()
    reached = [(h.grad.abs().sum(-1) > 0).sum().item() for h in states.hidden]
    assert reached == [10, 10, 10, 1]


def test_its_merges_put_every_word_together_and_lose_no_letter():
    names = built(kinds=ast.FunctionDef, names=("letters", "join", "pieces_after"))
    words = Counter(["a", "banana", "and", "a", "bandana", "in", "a", "cabana"])
    merges = names["merges"] = names["learn_merges"](words, 1000)
    cut = [[names["pieces_after"](word, n) for word in words] for n in range(len(merges) + 1)]
    for pieces in cut:
        assert ["".join(word) for word in pieces] == [f"{word}</w>" for word in words]
    assert all(len(pieces) == 1 for pieces in cut[-1])
    sizes = [sum(map(len, pieces)) for pieces in cut]
    assert sizes == sorted(sizes, reverse=True)
    assert merges[0] == ("a", "n")
    assert names["join"](("a", "a", "a", "b"), ("a", "a")) == ["aa", "a", "b"]


def test_its_loss_is_the_finished_one():
    loss = built()["info_nce"]
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 9, generator=rng, dtype=torch.float64) for _ in range(2))
    for scale in (0.0, 2.0, 9.0):
        log_scale = torch.tensor(scale, dtype=torch.float64)
        assert torch.allclose(
            loss(x, y, log_scale), clip.contrastive_loss(x, y, log_scale), rtol=1e-12, atol=0
        )


def test_the_training_images_are_fair(monkeypatch):
    """Hard negatives have the same words and differ in pixels; the order says no side."""
    names = {"random": random, "torch": torch}
    exec(cells()["pairs"], names)
    train, test = names["train"], names["test"]
    assert len(test) == 24
    choices = [{(frozenset(k), frozenset(c)) for _, k, c in drawn} for drawn in (*train, test)]
    *learnt, asked = choices
    assert len(asked) == 24
    assert all(len(choice) == 1 for choice in learnt)  # so only pairs share their words in a batch
    assert len(set.union(*learnt)) == len(train)
    assert not set.union(*learnt) & asked
    scenes = []
    blank = np.zeros((32, 32, 3))
    monkeypatch.setattr(dual_encoder, "render", lambda scene, side: scenes.append(scene) or blank)
    for seed in range(60):
        dual_encoder.draw_pair(("cat", "house"), ("red", "blue"), random.Random(seed))
    assert 20 < sum(scene.things[0].x < scene.things[1].x for scene in scenes[::2]) < 40
    for page, other in zip(scenes[::2], scenes[1::2], strict=True):
        assert [(t.kind, t.x, t.y) for t in page.things] == [
            (t.kind, t.x, t.y) for t in other.things
        ]
        assert [t.colour for t in page.things] == [t.colour for t in other.things][::-1]
    for pixels, kinds, colours in test:
        for flip in (False, True):
            one, other = describe(kinds, colours, flip)
            assert one != other
            assert Counter(one.split()) == Counter(other.split())
        assert (pixels[0] - pixels[1]).abs().max() > 0.5
        assert pixels.shape == (2, 3, 32, 32)
    # The first 48 classes of section 10 are the test images, in their order.
    classes = [text for combo in names["combos"] for text in describe(*combo, False)]
    assert len(set(classes)) == 336
    assert classes[:48] == [text for _, k, c in test for text in describe(k, c, False)]


def test_a_batch_without_hard_negatives_never_asks_for_binding():
    rng = random.Random(0)
    combos = dual_encoder.combinations_of_two(rng)[:12]
    train = [[dual_encoder.draw_pair(*combo, rng)] for combo in combos]
    pixels, captions = dual_encoder.draw_batch(train, 12, rng)
    assert pixels.shape == (24, 3, 32, 32)
    for one, other in zip(captions[::2], captions[1::2], strict=True):
        assert one != other
        assert Counter(one.split()) == Counter(other.split())
    kept, said = dual_encoder.one_of_each(pixels, captions, rng)
    assert len({tuple(sorted(text.split())) for text in said}) == len(said) == len(kept) == 12
    for image, text in zip(kept, said, strict=True):
        (k,) = [k for k, row in enumerate(pixels) if torch.equal(row, image)]
        assert captions[k] == text
    rates = [dual_encoder.warm_up_and_decay(step, 250) for step in range(250)]
    assert rates[0] < rates[10] < rates[19] == rates[20] == max(rates) == 3e-3
    assert rates == [*rates[:26], *sorted(rates[26:], reverse=True)]
    assert rates[-1] < 0.11 * max(rates)
    ids = torch.tensor([[1, 2, 3], [3, 2, 1]])
    table = nn.Embedding(9, 64)
    one, other = dual_encoder.Bag(table)(ids)
    assert torch.allclose(one, other, atol=1e-6)
    assert dual_encoder.image_tower()(pixels).shape == (24, 64)


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


def rows_of(name: str) -> list[list[int]]:
    """The percentages in the table that a cell has stored, row by row."""
    stored = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    (cell,) = [cell for cell in stored if cell["id"] == name]
    text = "".join("".join(out.get("data", {}).get("text/plain", "")) for out in cell["outputs"])
    return [
        [int(x) for x in re.findall(r"(\d+)%", line)] for line in text.splitlines() if "%" in line
    ]


def test_its_training_with_hard_negatives_binds_and_the_bag_does_not():
    """As stored: what the tables show and the prose says of them."""
    bag, plain, hard = rows_of("training-table")
    assert min(bag[0], plain[0], hard[0]) > 90
    assert bag[1:] == [50, 50, 50]
    assert min(plain[1:]) > 55
    assert max(plain[1:]) == 83
    assert min(hard[1:]) == 96
