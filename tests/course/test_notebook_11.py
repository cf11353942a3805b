"""Notebook 11: its pipeline is the library's, with any weights, and a slip in it is noticed.

nbval runs the notebook with the shipped model; here its cells run with a tiny random one, so that
nothing in it depends on how good the shipped weights are.
"""

import json
import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sdlearn
from sdlearn.course import figures
from sdlearn.evaluation import Match, Verdict
from sdlearn.storybook import render, sample_scene

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "11-text-to-image.ipynb"
LEFT_OUT = {"noise-table", "shared"}  # nothing uses their results


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def unlearned() -> sdlearn.StableDiffusion:
    """The shipped tokenizer, and small networks with random weights."""
    real = sdlearn.StableDiffusion.storybook(device="cpu")
    tokenizer = real.text.tokenizers[0]
    text = replace(
        real.spec.text[0], hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32
    )
    unet = replace(
        real.spec.unet,
        block_out_channels=(8, 16),
        num_heads=(2, 2),
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    vae = replace(real.spec.vae, block_out_channels=(4, 8, 8, 8), norm_num_groups=4)
    torch.manual_seed(0)
    encoder = sdlearn.TextEncoder([tokenizer], [sdlearn.CLIPTextEncoder(text)])
    parts = sdlearn.UNet(unet), sdlearn.VAE(vae), encoder
    for module in parts:
        module.eval().requires_grad_(False)
    return sdlearn.StableDiffusion(*parts, replace(real.spec, text=(text,), unet=unet, vae=vae))


@pytest.fixture
def run(cells, unlearned, monkeypatch, tmp_path):
    """Run cells, from the first to the one of an id, with a text in them changed."""
    parts = (unlearned.unet, unlearned.vae, unlearned.text)
    twin = sdlearn.StableDiffusion(*(deepcopy(part).double() for part in parts), unlearned.spec)

    def storybook(dtype=torch.float32, device="cpu"):
        return twin if dtype == torch.float64 else unlearned

    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", storybook)
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)

    def run(last: str, change: tuple[str, str] = ("", ""), skip: set[str] = frozenset()) -> dict:
        names: dict = {"__name__": "the_notebook"}
        changed = 0
        for cell in cells:
            source = cell["source"]
            if change[0]:
                changed += source.count(change[0])
                source = source.replace(*change)
            if cell["id"] not in skip and not source.startswith("quiz("):
                exec(compile(source, cell["id"], "exec"), names)
            if cell["id"] == last:
                assert changed or not change[0], f"nothing in the notebook reads {change[0]!r}"
                return names
        raise AssertionError(f"the notebook has no cell {last!r}")

    return run


def test_its_pipeline_is_the_library_s_for_other_settings(run, unlearned):
    names = run("pictures", skip={"noise-table"})
    Pipeline, Settings = names["Pipeline"], names["Settings"]
    double = names["double"]
    mine = Pipeline(double.unet, double.vae, double.text)
    prompts = ["two green fish in the sea by day", "a red cat", ""]
    rng = random.Random(1)
    pages = [render(sample_scene(rng), 64) for _ in prompts]
    for s in (
        Settings(negative="a house", steps=5, scale=3.5, seed=123),
        Settings(steps=7, scale=1.5, seed=9, height=64, width=64),
    ):
        options = {
            "negative_prompt": s.negative,
            "steps": s.steps,
            "guidance_scale": s.scale,
            "seed": s.seed,
            "output": "latent",
            "progress": False,
        }
        for strength in (0.0, 0.29, 0.5, 1.0):
            expected = double.image_to_image(prompts, pages, strength=strength, **options)
            found = mine.image_latents(prompts, pages, strength, s)
            assert (found - expected).norm() / expected.norm() <= 1e-12
        expected = double.text_to_image(prompts, **options)
        found = mine.text_latents(prompts, s)
        assert (found - expected).norm() / expected.norm() <= 1e-12
    own = Pipeline(unlearned.unet, unlearned.vae, unlearned.text)
    drawn = own.text_to_image(prompts, Settings(steps=4, seed=2))
    expected = unlearned.text_to_image(prompts, steps=4, seed=2, progress=False)
    for a, b in zip(drawn, expected, strict=True):
        assert np.abs(np.array(a, int) - np.array(b, int)).max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        ("seed + k) for", "seed) for"),
        ("1 + k * (1000", "k * (1000"),
        ("without + scale * (given - without)", "given + scale * (given - without)"),
        (".chunk(2)\n        eps", ".flip(0).chunk(2)\n        eps"),
        ("(z - point.sigma * eps) / point.alpha", "z - point.sigma * eps"),
        ("there.sigma**2 - kick**2", "there.sigma**2"),
        ("[negative] * len(prompts) + prompts", "prompts + [negative] * len(prompts)"),
        ("s.height // f, s.width // f", "s.width // f, s.height // f"),
        ("self.vae.to_latent(x, noise())", "self.vae.to_latent(x)"),
        ("path[s.steps - int(s.steps * strength) :]", "path[int(s.steps * strength) :]"),
        ("int(s.steps * strength) :]", "round(s.steps * strength) :]"),
        ("path[0].alpha * z_0 + path[0].sigma", "path[-1].alpha * z_0 + path[-1].sigma"),
        ("2 * (pixels.permute", "(pixels.permute"),
        ("* 127.5)", "* 126)"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(run, change):
    with pytest.raises((AssertionError, IndexError, RuntimeError, ValueError)):
        run("pictures", change, skip={"noise-table"})


def test_all_of_it_runs_with_weights_that_know_nothing(run, tmp_path, capsys):
    names = run("real", skip=LEFT_OUT)
    scores = names["scores"]
    assert scores["judge, true pages"][0][0] > 0.9  # the judge does not depend on the model
    assert sum(names["sorts"].values()) <= 2 * len(names["scenes"])
    known = [numbers for columns in scores.values() for numbers in columns if numbers[0] >= -1]
    assert len(known) > len(scores)
    for share, low, high in known:
        assert low <= share <= high <= 1
    assert "Weakest in that column: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("faulty", "named", "level"),
    [
        # In a line every so-manieth thing is wrong. (The U-Net is tested against one half.)
        ({"walk": 4}, "walk from noise", "none"),
        ({"walk": 4, "U-Net": 9}, "walk from noise", "U-Net, shown the truth"),
        ({"U-Net": 3}, "U-Net, shown the truth", "none"),
    ],
)
def test_the_weakest_part_is_named_and_those_that_luck_cannot_tell_from_it(
    cells, capsys, faulty, named, level
):
    def hits(part):
        step = faulty.get(part, 1000)
        return torch.tensor([[2 * k % step != 0, (2 * k + 1) % step != 0] for k in range(1, 49)])

    def seen(part):
        kinds = hits(part).tolist()
        return [
            Match(tuple(Verdict(kind, True, True) for kind in page), True, True, True)
            for page in kinds
        ]

    perfect = ("true pages", "after the autoencoder", "from the truth, 0.4", "from the truth, 0.8")
    never = [Match((Verdict(), Verdict()), False, False, False)] * 48
    (source,) = (cell["source"] for cell in cells if cell["id"] == "verdict")
    names = {
        "np": np,
        "torch": torch,
        "wins": {
            "another kind": hits("U-Net"),
            "another colour": hits(""),
            "colours exchanged": hits(""),
        },
        "read": {"its kind": hits("").flatten(), "its colour": hits("").flatten()},
        "checked": {name: seen("") for name in perfect}
        | {"drawn by the model": seen("walk"), "of another caption": never},
    }
    exec(compile(source, "verdict", "exec"), names)
    kinds, _ = capsys.readouterr().out.split("wrong colour")
    assert f"Weakest in that column: {named}\n" in kinds
    assert kinds.split("may have done it: ")[1].split("\n")[0] == level


def test_its_figure_of_merit_is_the_share_of_pairs_in_order(run, cells):
    auc = run("auc", skip={cell["id"] for cell in cells} - {"setup", "auc"})["auc"]
    rng = torch.Generator().manual_seed(0)
    seen, inside = (
        torch.rand(30, generator=rng).round(decimals=1),
        torch.rand(30, generator=rng) > 0.7,
    )
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, here in zip(seen, inside, strict=True)
        for b, there in zip(seen, inside, strict=True)
        if here and not there
    ]
    assert auc(seen, inside) == pytest.approx(np.mean(pairs))
