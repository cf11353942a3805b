"""What notebook 01 builds, taken out of it, is the finished, and a slip is noticed."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sdlearn
from sdlearn.course import check
from sdlearn.course.figures.latents import project_patches

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01-why-latent-space.ipynb"
PARTS = ("to_latent", "to_image", "PatchCodec", "by_convolution", "entropy", "rounded")


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return cells


def built(cells: list[dict], change: tuple[str, str] = ("", "")) -> dict:
    """Its functions and its class as the notebook defines them, with a piece of text replaced."""
    names = {"torch": torch, "nn": nn, "F": F}
    changed = not change[0]
    for cell in cells:
        if cell["cell_type"] == "code":
            for node in ast.parse(cell["source"]).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in PARTS:
                    text = ast.unparse(node)
                    changed |= change[0] in text
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
    codec = names["PatchCodec"](mean, basis[:5])
    errors = [
        error(names["to_latent"](vae, x), vae.to_latent(x)),
        error(names["to_latent"](vae, x, noise), vae.to_latent(x, noise)),
        error(names["to_image"](vae, 3 * z), vae.to_image(3 * z)),
        error(codec.decode(codec.encode(x)), project_patches(x, mean, basis, 5)),
        error(names["by_convolution"](codec, x), codec.encode(x)),
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
        ("- self.mean[:, None, None]", ""),
        ("+ self.mean[:, None, None]", ""),
        ("F.pixel_shuffle(patches, 8)", "F.pixel_shuffle(patches, 8).mT"),
        ("unflatten(1, (3, 8, 8))", "unflatten(1, (8, 8, 3)).movedim(3, 1)"),
        ("bias=-codec.basis @ codec.mean", "bias=codec.basis @ codec.mean"),
    ],
)
def test_a_slip_in_it_is_noticed(cells, vae, change):
    try:
        with torch.no_grad():
            worst = compared(built(cells, change), vae)
    except RuntimeError:
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
    z = torch.linspace(-6, 6, 1001)
    for bits in (2, 3, 8):
        levels = names["rounded"](z, bits)
        assert len(levels.unique()) == 2**bits
        assert (levels - z.clamp(-4, 4)).abs().max() <= 4 / 2**bits + 1e-6


def test_what_its_cells_say_holds(cells):
    """What the text says of the numbers, read off the stored ones."""
    told = {
        cell["id"]: "".join("".join(out.get("text", "")) for out in cell.get("outputs", []))
        for cell in cells
        if cell["cell_type"] == "code"
    }
    assert "786,432" in told["count"]
    assert "16,384" in told["count"]
    assert "803 to 545,118 billion: 679 times" in told["flops"]
    assert "decoder 2,515" in told["translation"]
    rows = [line.split() for line in told["truth"].splitlines()[2:-1]]
    assert [[row[0], *row[3:]] for row in rows] == [
        [side, "48×", "64×", "12×", "24×"] for side in ("512", "768", "1024")
    ]
    assert told["codec-conv"].count("same: ") == 1
    assert told["to-latent-same"].count("same: ") == 3
    alone, differences, png = (
        [float(x.replace(",", "")) for x in line.split()[-3:]]
        for line in told["entropy"].splitlines()[1:4]
    )
    assert alone[0] == alone[1] < alone[2] <= 8
    assert differences[0] < differences[1] / 2
    assert png[0] < png[1] / 2 < 12288 / 2 < png[2]


def test_a_noise_between_two_is_too_quiet(cells):
    (cell,) = [cell for cell in cells if cell["id"] == "between-spread"]
    rows = [line.split() for line in "".join(cell["outputs"][0]["text"]).splitlines()[1:]]
    spreads = {float(row[0]): [float(x) for x in row[1:]] for row in rows}
    assert spreads[0.5][1] == pytest.approx(0.5**0.5, abs=0.02)
    assert spreads[0.0][1] == pytest.approx(1, abs=0.02)
    assert spreads[0.5][0] < min(spreads[0.0][0], spreads[1.0][0])


def numbers_of(cells: list[dict], name: str) -> dict[str, float]:
    """The last number of each line that a cell has printed, by the words before it."""
    (cell,) = [cell for cell in cells if cell["id"] == name]
    lines = "".join("".join(out.get("text", "")) for out in cell["outputs"]).splitlines()
    found = (re.fullmatch(r"(.*?)\s+(-?[\d.]+) dB", line) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def test_halfway_is_no_cat_in_the_middle(cells):
    told = numbers_of(cells, "between")
    halfway = told["halfway in pixels"], told["halfway in latents"]
    assert max(halfway) <= told["the meadow without a cat"]
    assert told["that page's own round trip"] > max(halfway) + 5


def test_noise_is_no_better_for_any_code(cells):
    told = {name.split()[-1]: db for name, db in numbers_of(cells, "noise-round-trip").items()}
    assert told["directions"] <= told["grey"] + 0.05
    assert told["autoencoder"] < told["grey"] - 0.3


def test_the_search_gains_most_in_its_first_half(cells):
    (cell,) = [cell for cell in cells if cell["id"] == "search"]
    rows = [
        [float(x) for x in re.findall(r"([\d.]+) dB", line)]
        for line in "".join("".join(out.get("text", "")) for out in cell["outputs"]).splitlines()
    ]
    for start, middle, end in zip(*rows, strict=True):
        assert start < middle <= end
        assert end - middle < (middle - start) / 3
