"""Notebook 02: its classes and losses are the finished ones, and slips in them are noticed.

nbval runs it as a whole; here the cells that define the learner's code run alone, with the
solutions in place of what the learner writes.
"""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import sdlearn
from sdlearn.course import solution
from sdlearn.recipes.vae import RECIPES
from sdlearn.vae import VAEConfig
from sdlearn.vae_losses import adversarial_weight

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "02-vae.ipynb"
# Cells, and exercises whose solution stands for what the learner writes.
DEFINING = (
    "setup",
    "02.1",
    "02.2",
    "norm",
    "02.5",
    "02.6",
    "upsample",
    "levels",
    "encoder",
    "vae",
    "vae-same",
)


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    stored = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return {one["id"]: "".join(one["source"]) for one in stored}


@pytest.fixture(scope="module")
def define(cells):
    """Run the cells that define the learner's code, changed or not; returns their names."""
    sources = {key: cells[key] if key in cells else solution(key).text for key in DEFINING}

    def define(change: tuple[str, str] = ("", "")) -> dict:
        names: dict = {}
        assert change[0] in " ".join(sources.values())
        for key, source in sources.items():
            exec(compile(source.replace(*change), key, "exec"), names)
        return names

    return define


@pytest.fixture(scope="module")
def learnt(define):
    return define()


def relative_error(mine: Tensor, theirs: Tensor) -> float:
    return ((mine - theirs).norm() / theirs.norm()).item()


CONFIGS = (
    VAEConfig(block_out_channels=(8, 12, 16), layers_per_block=1, norm_num_groups=4),
    VAEConfig(block_out_channels=(4, 8), layers_per_block=2, norm_num_groups=2, latent_channels=3),
)


def disagreement(names: dict, config: VAEConfig) -> float:
    torch.manual_seed(0)
    theirs, mine = sdlearn.VAE(config).double(), names["VAE"](config).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    with torch.no_grad():
        noise = torch.randn_like(theirs.to_latent(x))
        pairs = [
            *zip(mine.encode(x), theirs.encode(x), strict=True),
            (mine.decode(noise), theirs.decode(noise)),
            (mine.to_latent(x), theirs.to_latent(x)),
            (mine.to_latent(x, noise), theirs.to_latent(x, noise)),
            (mine.to_image(noise / 9), theirs.to_image(noise / 9)),
        ]
    return max(relative_error(a, b) for a, b in pairs)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_its_autoencoder_is_the_finished_one(learnt, config):
    assert disagreement(learnt, config) <= 1e-12


@pytest.mark.parametrize(
    "change",
    [
        ("F.pad(x, (0, 1, 0, 1))", "F.pad(x, (1, 0, 1, 0))"),
        ("F.pad(x, (0, 1, 0, 1))", "F.pad(x, (1, 1, 1, 1))"),
        ("eps=1e-6", "eps=1e-5"),
        ("config.layers_per_block + 1", "config.layers_per_block"),
        ("* self.config.scaling_factor", "/ self.config.scaling_factor"),
        ("torch.exp(0.5 * logvar) * noise", "torch.exp(logvar) * noise"),
        ("F.silu(self.norm2(h))", "F.relu(self.norm2(h))"),
        ('mode="nearest"', 'mode="bilinear"'),
        (".clamp(-1.0, 1.0)", ""),
        ("config.block_out_channels[::-1]", "config.block_out_channels"),
        (
            "nn.SiLU()\n        self.conv_out = nn.Conv2d(widths[-1], 2",
            "nn.ReLU()\n        self.conv_out = nn.Conv2d(widths[-1], 2",
        ),
        (
            "nn.SiLU()\n        self.conv_out = nn.Conv2d(widths[-1], config",
            "nn.ReLU()\n        self.conv_out = nn.Conv2d(widths[-1], config",
        ),
        ("self.silu = nn.SiLU()", ""),
        ("(widths[0], *widths[:-1])", "widths"),
        ("i == last", "i == 0"),
        ("if not last:", "if last:"),
        ("[c_in] + [c_out] * (layers - 1)", "[c_in] * layers"),
        (
            "self.resnets[1](self.attentions(self.resnets[0](x)))",
            "self.attentions(self.resnets(x))",
        ),
        ("mean, logvar = self.quant_conv", "logvar, mean = self.quant_conv"),
        ("self.decoder(self.post_quant_conv(z))", "self.decoder(z)"),
    ],
    ids=lambda change: change[1],
)
def test_its_own_comparison_notices_a_wrong_class(define, change):
    with pytest.raises((AssertionError, RuntimeError)):
        define(change)


def test_its_losses_are_the_finished_ones(learnt, cells):
    names = dict(learnt)
    exec(solution("02.4").text, names)
    exec(cells["hinge"], names)
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5, 6, generator=rng, dtype=torch.float64)
    for name in ("kl_divergence", "discriminator_loss"):
        mine, theirs = names[name](a, b), getattr(sdlearn.vae_losses, name)(a, b)
        assert relative_error(mine, theirs) <= 1e-12
    assert torch.equal(names["generator_loss"](a), sdlearn.vae_losses.generator_loss(a))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (("", ""), True),
        (("(rec, gen)", "(gen, rec)"), False),
        (("1e-4", "1e-1"), False),
        ((".norm()", ".abs().max()"), False),
    ],
)
def test_its_adaptive_weight_is_the_finished_one(cells, change, same):
    assert change[0] in cells["hinge"]
    names: dict = {"torch": torch, "F": F}
    exec(cells["hinge"].replace(*change), names)
    last = torch.nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    rec, gen = last.square().mean(), 0.01 * last.sin().sum()
    mine, theirs = names["adaptive_weight"](rec, gen, last), adversarial_weight(rec, gen, last)
    assert torch.isclose(mine, theirs, rtol=1e-5) == same
    assert (
        torch.isclose(
            mine * torch.autograd.grad(gen, last)[0].norm(),
            torch.autograd.grad(rec, last)[0].norm(),
            rtol=1e-2,
        )
        == same
    )


def test_a_wrong_kl_term_is_not_the_finished_one():
    right = solution("02.1").text
    a, b = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for old, new in (("0.5 * (", "("), ("- logvar)", "+ logvar)"), (".sum(1)", ".mean(1)")):
        names: dict = {"torch": torch, "Tensor": Tensor}
        exec(right.replace(old, new), names)
        assert names["kl_divergence"](a, b) != sdlearn.vae_losses.kl_divergence(a, b), old


def test_the_training_that_it_tells_of_is_the_shipped_one(cells):
    record = json.loads((ROOT / "data" / "storybook" / "training.json").read_text("utf-8"))
    runs = [run for run in record["runs"] if run["part"] == "vae"]
    steps, hours = (sum(run[key] for run in runs) for key in ("steps_done", "seconds"))
    assert f"{steps:,}" in cells["stages-figure"]
    assert f"{hours / 3600:.1f} hours" in cells["stages-figure"]
    assert all(run["settings"]["scenes"] == 40_000 for run in runs)
    # Pixel errors and the KL term alone.
    assert all(run["settings"]["perceptual"] == 0 for run in runs)
    assert all(run["settings"]["discriminator"] == 0 for run in runs)
    assert all(run["settings"]["kl"] == 1e-6 for run in runs)
    # The small network is trained with the loss of the recipe.
    recipe = RECIPES["storybook"]
    assert f"+ {recipe.mse:g} * error.square().mean()" in cells["train"]
    assert f"plus {recipe.mse:g} times the squared error" in " ".join(cells["train-text"].split())
    assert recipe.kl == 1e-6


def test_the_stages_of_the_training_get_better(cells):
    tool = (ROOT / "tools" / "vae_stages.py").read_text("utf-8")
    assert "scenes=20_000" in tool
    assert "half as many scenes, in one run of 9,300 steps" in " ".join(
        cells["shipped-read"].split()
    )
    folder = ROOT / "data" / "storybook"
    record = json.loads((folder / "autoencoder_stages.json").read_text("utf-8"))
    stages = record["stages"]
    assert [stage["minutes"] for stage in stages] == [1, 5, 20, 60]
    assert [stage["steps"] for stage in stages] == [155, 775, 3100, 9300]
    for name, least in (("psnr", 2), ("ssim", 0.03)):
        values = [stage[name] for stage in stages]
        assert all(b > a + least for a, b in pairwise(values)), name
    with Image.open(folder / "autoencoder_stages.png") as sheet:
        assert sheet.size == (64 * len(record["shown"]), 64 * len(stages))
