"""What notebook 01 builds, taken out of it, is the finished code, and a slip is noticed."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sdlearn
from sdlearn.course import check, solution
from sdlearn.course.figures.latents import project_patches

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01-why-latent-space.ipynb"
PARTS = (
    "to_latent",
    "to_image",
    "by_pca",
    "by_convolution",
    "encode_patches",
    "preview",
    "entropy",
    "png_bytes",
)


@pytest.fixture(scope="module")
def cells() -> dict[str, dict]:
    """The cells by their ids, with their sources and what they have printed."""
    cells = {cell["id"]: cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]}
    for cell in cells.values():
        cell["source"] = "".join(cell["source"])
        outputs = cell.get("outputs", [])
        texts = [out.get("text") or out["data"].get("text/plain", "") for out in outputs]
        cell["told"] = "\n".join("".join(text) for text in texts)
    return cells


def built(cells: dict[str, dict], change: tuple[str, str] = ("", "")) -> dict:
    """Its functions as the notebook defines them, with a piece of text replaced."""
    names = {"torch": torch, "nn": nn, "F": F, "Tensor": Tensor, "io": io}
    changed = not change[0]
    for number in ("01.1", "01.2", "01.3"):  # the learner writes these
        changed |= bool(change[0]) and change[0] in solution(number).text
        exec(solution(number).text.replace(*change), names)
    for cell in cells.values():
        if cell["cell_type"] == "code" and "nbgrader" not in cell["metadata"]:
            for node in ast.parse(cell["source"]).body:
                if isinstance(node, ast.FunctionDef) and node.name in PARTS:
                    text = ast.unparse(node)
                    changed |= bool(change[0]) and change[0] in text
                    exec(text.replace(*change), names)
    assert changed, "the notebook does not hold what is to be changed"
    return names


@pytest.fixture(scope="module")
def vae() -> sdlearn.VAE:
    torch.manual_seed(0)
    config = sdlearn.VAEConfig(
        block_out_channels=(4, 8, 8, 8), norm_num_groups=4, scaling_factor=0.7
    )
    module = sdlearn.VAE(config).double().eval()
    for parameter in module.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return module


def drawn(*shape: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def error(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((mine - theirs).norm() / theirs.norm()).item()


def compared(names: dict, vae: sdlearn.VAE) -> float:
    """The largest error of all that has a finished counterpart."""
    x, noise, z = drawn(2, 3, 16, 24).clamp(-1, 1), drawn(2, 4, 2, 3), drawn(2, 4, 2, 3)
    mean, basis = drawn(192) / 10, torch.linalg.qr(drawn(192, 192)).Q
    names |= {"mean": mean, "basis": basis, "matrix": drawn(4, 3) / 9}
    colours = (z.movedim(1, 3) @ names["matrix"]).movedim(3, 1).clamp(-1, 1)
    errors = [
        error(names["to_latent"](vae, x), vae.to_latent(x)),
        error(names["to_latent"](vae, x, noise), vae.to_latent(x, noise)),
        error(names["to_image"](vae, 3 * z), vae.to_image(3 * z)),
        error(names["by_pca"](x, 5), project_patches(x, mean, basis, 5)),
        error(
            names["by_convolution"](x, mean, basis[:5]),
            names["encode_patches"](x, mean, basis[:5]),
        ),
        error(names["preview"](z), colours),
    ]
    return max(errors)


def test_what_it_builds_is_the_finished_in_float64(cells, vae):
    names = built(cells)
    assert set(PARTS) <= set(names)
    with torch.no_grad():
        assert compared(names, vae) <= 1e-12
        with contextlib.redirect_stdout(io.StringIO()) as said:
            x = drawn(1, 3, 8, 16)
            check.same(names["to_latent"], sdlearn.VAE.to_latent, vae, x)
            check.same(names["to_image"], sdlearn.VAE.to_image, vae, drawn(1, 4, 1, 2))
    assert said.getvalue().count("same: ") == 2


@pytest.mark.parametrize(
    "change",
    [
        ("z * vae.config.scaling_factor", "z / vae.config.scaling_factor"),
        ("z / vae.config.scaling_factor", "z"),
        ("(logvar / 2).exp()", "logvar.exp()"),
        ("mean if noise is None else mean +", "mean if noise is None else"),
        (".clamp(-1, 1)", ""),
        ("vae.decode", "vae.decoder"),
        ("patches - middle", "patches"),
        ("z) + middle", "z)"),
        ("F.pixel_shuffle(back, 8)", "F.pixel_shuffle(back, 8).mT"),
        ("unflatten(1, (3, 8, 8))", "unflatten(1, (8, 8, 3)).movedim(3, 1)"),
        ("bias=-basis @ mean", "bias=basis @ mean"),
        ("basis[:k]", "basis[-k:]"),
        ("z, matrix)", "-z, matrix)"),
    ],
)
def test_a_slip_in_it_is_noticed(cells, vae, change):
    try:
        with torch.no_grad():
            worst = compared(built(cells, change), vae)
    except (RuntimeError, TypeError):
        return
    assert not worst <= 1e-12


def test_its_measures_are_right(cells):
    names = built(cells)
    every = torch.arange(256, dtype=torch.uint8).repeat(3)
    assert names["entropy"](every) == pytest.approx(8)
    assert names["entropy"](torch.zeros(7, dtype=torch.uint8)) == 0
    assert names["entropy"](torch.tensor([0, 0, 0, 9], dtype=torch.uint8)) == pytest.approx(
        0.8113, abs=1e-4
    )


def rows_of(cell: dict) -> list[list[str]]:
    """The rows of the table that a cell has shown, without its headings."""
    lines = [line for line in cell["told"].splitlines() if "  " in line]
    return [re.split(r" {2,}", line.strip()) for line in lines[1:]]


def test_what_it_says_of_counts_is_in_its_outputs(cells):
    assert [row[1:] for row in rows_of(cells["truth-table"])] == [
        ["4 × 64²", "16 × 128²"],
        ["48×", "12×"],
        ["64×", "64×"],
        ["24×", "6×"],
    ]
    flops = {row[0]: row[1:] for row in rows_of(cells["flops-table"])}
    assert flops["U-Net, 512 × 512"][1:] == ["679", "92%"]
    assert flops["U-Net, 512 × 512, attention at 64 × 64"][1] == "36"
    assert flops["decoder, 64 × 64"] == ["2,515", "3.13"]
    assert re.search(r"679\s+times", cells["flops-read"]["source"])
    assert re.search(r"36\s+times", cells["flops-read"]["source"])
    assert re.search(r"679 times cheaper, or 36\s+times", cells["summary"]["source"])
    assert cells["codec-conv"]["told"].count("same: ") == 1
    assert cells["to-latent"]["told"].count("same: ") == 2
    chosen = [row for row in rows_of(cells["table"]) if row[:2] == ["8", "4"]]
    assert chosen == [["8", "4", "48×", "0.9"]]


@pytest.mark.parametrize(
    ("text", "result", "numbers"),
    [
        ("entropy-read", "entropy-table", ("7.5", "1.6", "7.6")),
        ("vae-read", "vae-table", ("0.05", "0.96")),
        ("measure-read", "measure-figure", ("56",)),
        ("outlines-read", "outlines-table", ("22", "89", "40.1", "25.6")),
        ("outlines-read", "round-trip-figure", ("32.6",)),
        ("rates-read", "rates-figure", ("68",)),
        ("noise-round-trip-read", "noise-round-trip-table", ("10.8", "9.8")),
        ("influence-read", "influence-figure", ("34", "94")),
        ("table-read", "flops-table", ("5.82",)),
        ("table-read", "table", ("0.9", "2.63", "0.87", "2.04")),
        ("codec-read", "codec", ("20.1",)),
        ("pca-read", "pca-table", ("84.8",)),
        ("faces-read", "faces-figure", ("45.3", "25.8", "23.0", "21.8")),
        ("preview-read", "preview-figure", ("62",)),
        ("between-read", "between-table", ("16.3", "17.1", "17.9", "2.8", "9.1")),
        ("ranked-read", "ranked-figure", ("27.6", "24.5")),
        ("between-deviation-read", "between-deviation-table", ("0.71",)),
    ],
)
def test_its_numbers_are_those_of_its_outputs(cells, text, result, numbers):
    """Rounded as the text rounds them."""
    found = [float(x) for x in re.findall(r"\d+(?:\.\d+)?", cells[result]["told"])]
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", cells[text]["source"]), number
        decimals = len(number.partition(".")[2])
        assert float(number) in [round(x, decimals) for x in found], number


def test_a_noise_between_two_has_too_little_variance(cells):
    ((_, *row),) = rows_of(cells["between-deviation-table"])
    stds = [float(x) for x in row]
    assert stds[2] == pytest.approx(0.5**0.5, abs=0.02)
    assert stds[0] == pytest.approx(1, abs=0.02)
    assert stds[2] < min(stds[1], stds[3])


def test_halfway_is_no_cat_in_the_middle(cells):
    in_pixels, in_latents, meadow, round_trip = (
        float(row[-1]) for row in rows_of(cells["between-table"])
    )
    assert max(in_pixels, in_latents) <= meadow
    assert round_trip > meadow + 5


def test_noise_is_no_better_for_any_code(cells):
    grey, pca, trained = (float(row[-1]) for row in rows_of(cells["noise-round-trip-table"]))
    assert abs(pca - grey) < 0.15
    assert trained < grey - 0.3


def test_the_arc_keeps_the_standard_deviation_of_noise(cells):
    chord, arc = ([float(x) for x in row[1:]] for row in rows_of(cells["arc-figure"]))
    assert chord[4] < 0.3
    assert all(0.9 < x < 1.1 for x in arc)


def test_more_objects_are_smaller_and_worse_near_outlines(cells):
    rows = [[float(x) for x in row] for row in rows_of(cells["ranked-figure"])]
    assert [row[0] for row in rows[-3:]] == [1, 2, 3]
    sizes, decibels = ([row[k] for row in rows[-3:]] for k in (1, 2))
    assert sizes == sorted(sizes, reverse=True)
    assert decibels == sorted(decibels, reverse=True)


def test_a_level_becomes_cheaper_by_a_factor_between_two_limits(cells):
    rows = rows_of(cells["cheaper-table"])
    assert [row[-1] for row in rows] == ["136", "2,232", "4,043"]
    assert "3,520: 50%" in cells["cheaper-table"]["told"]
    assert "3,520" in cells["cheaper-read"]["source"]
