"""Notebook 02: its classes and losses are the finished ones, and slips in them are noticed.

nbval runs it as a whole; here the cells that define the learner's code run alone.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdlearn
from sdlearn.vae import VAEConfig

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02-vae.ipynb"
DEFINING = (
    "setup", "kl", "perceptual-class", "critic-class", "hinge", "resblock", "downup", "levels",
    "encoder", "vae", "vae-same",
)  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for one in cells:
        one["source"] = "".join(one["source"])
    return cells


@pytest.fixture(scope="module")
def define(cells):
    """Run the cells that define the learner's code, changed or not; returns their names."""

    def define(change: tuple[str, str] = ("", ""), until: str = "vae-same") -> dict:
        names: dict = {}
        sources = {one["id"]: one["source"] for one in cells}
        assert change[0] in " ".join(sources.values())
        for key in DEFINING[: DEFINING.index(until) + 1]:
            exec(compile(sources[key].replace(*change), key, "exec"), names)
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


def test_its_losses_are_the_finished_ones(learnt):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5, 6, generator=rng, dtype=torch.float64)
    for name in ("kl_divergence", "discriminator_loss"):
        mine, theirs = learnt[name](a, b), getattr(sdlearn.vae_losses, name)(a, b)
        assert relative_error(mine, theirs) <= 1e-12
    assert torch.equal(learnt["generator_loss"](a), sdlearn.vae_losses.generator_loss(a))
    torch.manual_seed(0)
    mine, theirs = (
        where(3, 8, 2).double()
        for where in (learnt["PatchDiscriminator"], sdlearn.vae_losses.PatchDiscriminator)
    )
    mine.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 24, 40, generator=rng, dtype=torch.float64)
    assert relative_error(mine(x), theirs(x)) <= 1e-12


def test_its_perceptual_loss_is_the_finished_one(learnt):
    torch.manual_seed(0)
    stages = nn.ModuleList([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, stride=2)]).double()

    def features(x):
        first = stages[0](x)
        return [first, stages[1](first)]

    x, y = torch.randn(2, 2, 3, 12, 10, dtype=torch.float64)
    found = []
    for where in (learnt, vars(sdlearn.vae_losses)):
        near = x.clone().requires_grad_()
        loss = where["PerceptualLoss"](features, [0.3, 0.7])(near, y)
        (gradient,) = torch.autograd.grad(loss, near)
        found.append((loss.detach(), gradient))
    for mine, theirs in zip(*found, strict=True):
        assert relative_error(mine, theirs) <= 1e-12


@pytest.mark.parametrize(
    ("change", "until"),
    [
        (("0.5 * (mean**2", "1.0 * (mean**2"), "kl"),
        ((".flatten(1).sum(1).mean()", ".mean()"), "kl"),
        (("- 1.0 - logvar)", "- 1.0 + logvar)"), "kl"),
        (("F.relu(1.0 + fake_logits)", "F.relu(1.0 - fake_logits)"), "hinge"),
        (("return -fake_logits.mean()", "return fake_logits.mean()"), "hinge"),
        (("wanted.norm() / (given.norm() + 1e-4)", "given.norm() / wanted.norm()"), "hinge"),
    ],
    ids=lambda change: str(change)[:40],
)
def test_its_own_comparison_notices_a_wrong_loss(define, change, until):
    with pytest.raises(AssertionError):
        define(change, until)


def test_the_numbers_of_the_paper_are_those_of_its_table_8(cells):
    (source,) = [one["source"] for one in cells if one["id"] == "ldm"]
    names: dict = {}
    exec(source, names)
    assert names["table_8"][8] == (4, 0.90, 24.19)
    assert names["table_8"][4] == (3, 0.27, 27.53)
    assert np.all(np.diff([row[2] for row in names["table_8"].values()]) < 0)
