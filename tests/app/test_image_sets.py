"""Sets of images as `sdlearn evaluate` measures them: features, scores, a second model, folders."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdlearn.cli.main import main
from sdlearn.evaluation import card, clip_score, image_sets, paired, report, tables
from sdlearn.evaluation.accuracy import Outcome, facts, prompt_cases
from sdlearn.evaluation.clip_score import (
    HESSEL,
    PERCENT,
    clip_scores,
    judge_maps,
    pooled_states,
    train_storybook_clip,
)
from sdlearn.evaluation.features import (
    FID_FILES,
    TORCHVISION_FILE,
    FeatureNetwork,
    image_features,
    installed_inception,
)
from sdlearn.evaluation.frechet import frechet_distance, frechet_limit
from sdlearn.evaluation.judge import Judge, Reading, load_judge
from sdlearn.evaluation.kernel_distances import kid
from sdlearn.evaluation.matching import matches
from sdlearn.evaluation.own_images import feature_network
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import render
from sdlearn.utils.resources import data_folder
from tests.tiny_model import tiny_diffusers


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of random weights that draws 32 pixels, as in test_evaluation.py."""
    return save_tiny(tmp_path_factory.mktemp("tiny"), seed=0)


def save_tiny(folder: Path, seed: int) -> Path:
    tiny_diffusers(seed).save_pretrained(folder)
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"sample_size": 16}))
    return folder


# ---------------------------------------------------------------------------------------- features


def test_the_judges_features_are_what_its_head_sees(judge: Judge) -> None:
    images = [render(case.scene, 64) for case in prompt_cases("test", 3)]
    features = judge.embed(images)
    assert features.shape == (3, 96)
    assert features.dtype == torch.float64
    logits = judge(judge.prepare(images))
    page = judge.page(features.float())
    assert torch.allclose(page[:, : logits.sky.shape[1]], logits.sky, atol=1e-4)
    large = judge.embed([image.resize((128, 128), Image.Resampling.NEAREST) for image in images])
    assert torch.allclose(large, features)


def test_any_network_can_make_the_features() -> None:
    seen: list[Tensor] = []

    def mean_colour(x: Tensor) -> Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3), keepdim=True)  # (b, 3, 1, 1), as Inception gives them

    network = FeatureNetwork("mean colour", 8, mean_colour)
    colours = [(255, 0, 127), (0, 0, 0), (255, 255, 255)]
    images = [Image.new("RGB", (20 + k, 30), colour) for k, colour in enumerate(colours)]
    images.append(Image.new("RGBA", (9, 9), (0, 0, 0, 0)))  # transparent: white
    features = image_features(network, images, batch=3)
    assert [tuple(x.shape) for x in seen] == [(3, 3, 8, 8), (1, 3, 8, 8)]
    expected = [[1, -1, 127 / 127.5 - 1], [-1] * 3, [1] * 3, [1] * 3]
    assert torch.allclose(features, torch.tensor(expected).double(), atol=1e-6)
    with pytest.raises(ValueError, match=r"maps gave a tensor of the shape \(1, 3, 8, 8\)"):
        image_features(FeatureNetwork("maps", 8, lambda x: x), images[:1])
    with pytest.raises(ValueError, match="at least one image"):
        image_features(network, [])


def test_images_are_averaged_when_they_shrink() -> None:
    """A chequerboard of single pixels is grey when it is small; picking pixels would not be."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    flat = FeatureNetwork("pixels", 4, lambda x: x.flatten(1))
    assert image_features(flat, [image]).abs().max() < 0.05


def test_inception_is_found_where_a_library_stored_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d\.pth or "):
        installed_inception(tmp_path)
    network, why = feature_network("judge")
    assert "storybook" in network.name
    assert why is None

    # Stand-ins with the signatures of torch-fidelity 0.4 and torchvision 0.28, made of one layer.
    write_module(tmp_path, "torch_fidelity.feature_extractor_inceptionv3", FIDELITY)
    write_module(tmp_path, "torchvision.models", TORCHVISION)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torch_fidelity", "torchvision"):
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    image = Image.new("RGB", (50, 40), (10, 128, 250))

    torch.save(
        {"fc.weight": torch.ones(1, 1), "fc.bias": torch.ones(1)}, tmp_path / TORCHVISION_FILE
    )
    found = installed_inception(tmp_path)
    assert "not comparable" in found.name
    expected = torch.tensor([10, 128, 250]).double() / 127.5 - 1
    assert torch.allclose(image_features(found, [image])[0], expected, atol=1e-6)

    stored = tmp_path / FID_FILES[1]
    stored.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="pt_inception-2015"):
        installed_inception(tmp_path)
    torch.save({"a": torch.ones(1)}, stored)  # pytorch-fid's file, in torch-fidelity's class
    found = installed_inception(tmp_path)
    assert "published" in found.name
    assert image_features(found, [image]).tolist() == [[10, 128, 250]]
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torch_fidelity/feature_extractor_inceptionv3.py").write_text(broken)
    del sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
    with pytest.raises(ImportError, match=r"imported \(operator torchvision::nms does not"):
        installed_inception(tmp_path)
    for name in ("torch_fidelity", "torchvision"):
        for module in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)


FIDELITY = """
import torch
class FeatureExtractorInceptionV3:
    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        assert features_list == ["2048"]
        torch.load(feature_extractor_weights_path)
    def __call__(self, x):
        assert x.dtype == torch.uint8 and x.shape[1:] == (3, 299, 299)
        return (x.float().mean(dim=(2, 3)),)
"""
TORCHVISION = """
import torch
class Inception3(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(1, 1)
    def forward(self, x):
        assert not self.training and x.shape[1:] == (3, 299, 299)
        return self.fc(x.mean(dim=(2, 3)))
def inception_v3(*, weights, init_weights, transform_input):
    assert weights is None and transform_input is False
    return Inception3()
"""


def write_module(folder: Path, dotted: str, text: str) -> None:
    package, module = dotted.split(".")
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")
    (folder / package / f"{module}.py").write_text(text)


# ------------------------------------------------------------------------------------------ scores


def test_scores_of_a_set_are_those_of_the_measures() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(20, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    scores = image_sets.set_scores(a, b)
    assert (scores["images"], scores["dimensions"]) == (20, 4)
    assert scores["frechet"] == pytest.approx(frechet_distance(a, b), abs=1e-6)
    line = frechet_limit(a, b)
    assert scores["frechet_limit"] == pytest.approx(line.limit, abs=1e-6)
    assert scores["frechet_slope"] == pytest.approx(line.slope, abs=1e-6)
    assert scores["kid"] == pytest.approx(kid(a, b, subset_size=10).mean, abs=1e-6)
    assert scores["kid_std"] > 0
    assert set(tables.SET_SCORES) <= set(scores)
    few = image_sets.set_scores(a[:15], b[:15])
    assert "frechet_limit" not in few
    assert tables.score_text("frechet_limit", few) == "–"


def test_worse_images_are_farther_from_true_pages(judge: Judge) -> None:
    cases = prompt_cases("test", 100)
    true = [render(case.scene, 64) for case in cases]
    grey = [image.convert("L").convert("RGB") for image in true]
    one = [true[0]] * 100
    scores = image_sets.measure_sets(judge, "test", {"true": true, "grey": grey, "one": one})
    assert 0 < scores["true"]["frechet"] < scores["grey"]["frechet"] < scores["one"]["frechet"]
    assert scores["true"]["kid"] < scores["grey"]["kid"]
    assert scores["true"]["recall"] > 0.7
    assert scores["one"]["recall"] == 0
    assert scores["one"]["coverage"] < 0.1
    assert scores["true"]["images"] == 100
    pages = image_sets.reference_pages("test", 100, 64)
    assert not {page.tobytes() for page in pages} & {page.tobytes() for page in true}


# -------------------------------------------------------------------------------------- CLIP score


def test_clip_scores_by_hand_and_in_both_conventions() -> None:
    images = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    texts = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0]])
    assert clip_scores(images, texts).tolist() == pytest.approx([100, 80, 0])
    assert clip_scores(images, texts, HESSEL).tolist() == pytest.approx([2.5, 2.0, 0])
    assert PERCENT / HESSEL == 40
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(2, 2\)"):
        clip_scores(images, texts[:2])


def test_a_clip_probe_learns_which_caption_fits(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_score, "PAGES", 160)
    monkeypatch.setattr(clip_score, "STEPS", 40)
    monkeypatch.setattr(clip_score, "BATCH", 64)
    text = StableDiffusion.from_pretrained(data_folder("storybook")).text
    before = [p.clone() for p in (*judge.parameters(), *text.parameters())]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    clip = train_storybook_clip(judge, text)
    assert torch.equal(torch.get_rng_state(), state)
    after = [*judge.parameters(), *text.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    cases = prompt_cases("test", 40)  # never trained on
    captions = [case.caption for case in cases]
    images = [render(case.scene, 64) for case in cases]
    figures = image_sets.clip_figures(clip, captions, {"pictures": images + images})
    assert figures["pictures"]["low"] > figures["shuffled"]["high"]
    own = clip_scores(clip.embed_images(images), clip.embed_texts(captions)).mean().item()
    assert figures["pictures"]["value"] == pytest.approx(own, abs=1e-3)
    alone = image_sets.clip_figures(clip, captions[:1], {"pictures": images[:1]})
    assert "shuffled" not in alone  # there are no other captions


def test_pooled_states_and_maps_are_the_networks(judge: Judge) -> None:
    text = StableDiffusion.from_pretrained(data_folder("storybook")).text
    captions = ["a red cat", "two green fish in the sea by day"]
    context = text(captions).context
    pooled = pooled_states(text, captions)
    assert pooled.shape == (2, 128)
    near = (context - pooled[:, None]).abs().amax(-1).argmin(1)  # the place of the end-of-text
    assert (context[[0, 1], near] - pooled).abs().max() < 1e-5
    assert near[0] < near[1]
    images = [render(prompt_cases("test", 1)[0].scene, 64)]
    assert judge_maps(judge, images).shape == (1, 96, 8, 8)
    assert torch.allclose(judge_maps(judge, images).mean((2, 3)), judge.embed(images).float())


# ---------------------------------------------------------------------------------- second model


def test_a_second_model_is_compared_fact_by_fact() -> None:
    asked = prompt_cases("test", 12)

    def outcomes(right: range) -> list[Outcome]:
        readings = [
            Reading((), one.scene.sky if k in right else "none", "none")
            for k, one in enumerate(asked)
        ]
        blank = Image.new("RGB", (8, 8))
        return [
            Outcome(k, k, one, blank, matches(one.scene, reading))
            for k, (one, reading) in enumerate(zip(asked, readings, strict=True))
        ]

    first, second = outcomes(range(12)), outcomes(range(6))
    compared = paired.compare_outcomes(first, second)
    named = [k for k, o in enumerate(first) if facts(o.case, o.match)["sky"]]
    assert compared["sky"].first.rate == 1
    assert compared["sky"].better == sum(k >= 6 for k in named) > 0
    assert compared["sky"].worse == 0
    assert compared["kind"].paired == (0, 0, 0)
    with pytest.raises(ValueError, match="different captions or seeds"):
        paired.compare_outcomes(first, second[1:])
    assert (
        paired.points({"value": 0.05, "low": -0.01, "high": 0.12}, True) == "+5.0 (-1.0 to +12.0)"
    )


def test_evaluate_compares_two_models_and_measures_sets(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clip_score, "PAGES", 8)
    monkeypatch.setattr(clip_score, "STEPS", 2)
    other = save_tiny(tmp_path / "other", seed=1)
    out = tmp_path / "figures.json"
    command = ["evaluate", "--model", str(model), "--against", str(other), "--clip"]
    command += ["--n", "7", "--seeds", "2", "--steps", "2", "--guidance", "1.5", "--out", str(out)]
    assert main(command) == 0
    figures = json.loads(out.read_text())
    measured = figures["splits"]["test"]
    assert set(measured["sets"]) == {"renders", "round_trip", "pictures", "against"}
    assert all(scores["images"] == 7 for scores in measured["sets"].values())
    assert measured["sets"]["renders"]["frechet"] < measured["sets"]["pictures"]["frechet"]
    assert set(measured["clip"]) == {*measured["sets"], "shuffled"}
    assert figures["against"]["guidance"] == 1.5
    assert figures["against"]["folder"] == str(other)
    one = measured["against"]["page"]
    assert one["first"]["cases"] == one["second"]["cases"] == 14
    assert one["first"] == measured["pictures"]["page"]
    assert set(measured["background"]) == {"renders", "round_trip", "pictures"}
    assert measured["background"]["renders"]["page"]["rate"] > 0.5
    assert measured["background"]["pictures"]["page"]["rate"] < 0.5
    vae = measured["vae"]
    assert vae["psnr_low"] < vae["psnr"] < vae["psnr_high"]
    assert vae["ssim_low"] < vae["ssim"] < vae["ssim_high"]
    printed = capsys.readouterr().out
    assert "by the background" in printed
    assert f"({vae['psnr_low']:.2f} to {vae['psnr_high']:.2f})" in printed
    assert f"95 % interval {measured['clip']['pictures']['low']:.1f} to" in printed
    assert f"{measured['clip']['pictures']['value'] / 40:.3f}" in printed
    assert "distance to 7 other true pages" in printed
    assert "7 images do not determine the covariance of 96 features" in printed
    assert f"{measured['sets']['pictures']['frechet']:.2f}" in printed
    assert f"{measured['clip']['pictures']['value']:.1f}" in printed
    assert "McNemar's test" in printed
    assert f"against {other}" in printed


def test_a_model_against_itself_differs_in_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    command = ["evaluate", "--model", str(model), "--against", str(model), "--n", "2"]
    assert main([*command, "--steps", "1", "--out", str(out)]) == 0
    measured = json.loads(out.read_text())["splits"]["test"]
    assert "sets" not in measured
    assert "needs 6 captions or more" in capsys.readouterr().out
    for one in measured["against"].values():
        assert one["paired"] == {"value": 0, "low": 0, "high": 0}
        assert (one["better"], one["worse"], one["p"]) == (0, 0, 1)


def test_the_card_has_the_distances_that_were_measured() -> None:
    scores = {
        "images": 400,
        "dimensions": 96,
        "frechet": 1.234,
        "frechet_limit": 0.5,
        "kid": -0.002,
    }
    scores |= {"kid_std": 0.05, "precision": 0.9, "recall": 0.8, "density": 1.1, "coverage": 0.95}
    sets = {"renders": scores, "pictures": scores | {"frechet": 6.789}}
    measured = {"sets": sets, "clip": {name: {"value": 31.25} for name in sets}}
    said = card.distance_section({"splits": {"test": measured}})
    assert "| Fréchet distance | 1.23 | 6.79 |" in said
    assert "| for infinitely many, L | 0.50 | 0.50 |" in said
    assert "| KID × 1000, ± one subset | -2.0 ± 50.0 | -2.0 ± 50.0 |" in said
    assert "| CLIP score, 100 max(cos, 0) | 31.2 | 31.2 |" in said
    assert "400 images" in said
    assert card.distance_section({"splits": {"test": {"vae": {}}}}) == ""
    rate = {"rate": 0.75, "low": 0.7, "high": 0.8, "cases": 4}
    judged = {name: {"kind": rate} for name in ("renders", "round_trip", "pictures")}
    rows = card.rates_table("", judged)
    assert "| kind of object | 75.0 % | 75.0 % | 75.0 % (70.0 to 80.0) |" in rows
    assert card.rates_table("", {}) == ""


# ------------------------------------------------------------------------------------- own folders


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Eight true pages, and seven other ones in grey."""
    places = tmp_path / "mine", tmp_path / "real"
    for place, first in zip(places, (0, 8), strict=True):
        (place / "inside").mkdir(parents=True)
        for k, case in enumerate(prompt_cases("test", 16)[first : first + 8 - (first == 0)]):
            image = render(case.scene, 64).resize((80, 80))
            image = image.convert("L") if first == 0 else image
            image.save(place / ("inside" if k % 2 else ".") / f"{k}.png")
    return places


def test_two_folders_are_compared(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, real = folders
    out = tmp_path / "figures.json"
    command = ["evaluate", "--features", "judge", "--out", str(out)]
    assert main([*command, "--images", str(mine), "--real", str(real)]) == 0
    figures = json.loads(out.read_text())
    assert (figures["scores"]["images"], figures["real_images"]) == (7, 8)
    printed = capsys.readouterr().out
    assert "the judge, which knows storybook pages only (96 dimensions)" in printed
    assert f"{figures['scores']['frechet']:.2f}" in printed
    assert main([*command, "--images", str(real), "--real", str(real)]) == 0
    same = json.loads(out.read_text())["scores"]
    assert same["frechet"] == pytest.approx(0, abs=1e-5)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)


def test_bad_folders_are_one_sentence(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine, real = map(str, folders)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    pair = ["--images", mine, "--real", real]
    (tmp_path / "few").mkdir()
    for wrong, sentence in (
        (["--images", mine], "--real is missing; --images and --real are given together"),
        (["--features", "judge"], "--images is missing"),
        ([*pair, "--n", "3"], "--n is for a model"),
        ([*pair, "--card"], "--card is for a model"),
        ([*pair, "--features", "inception"], "Inception's weights are not in"),
        (["--images", mine, "--real", str(tmp_path / "gone")], "which is not a folder"),
        (["--images", str(tmp_path / "few"), "--real", real], "with 0 images; accepted: 6 or more"),
        (["--card", "--against", mine], "--against compares two models, and --card describes one"),
    ):
        assert main(["evaluate", *wrong]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.strip().splitlines()[-1].startswith("sdlearn: ")
    out = tmp_path / "figures.json"
    assert main(["evaluate", *pair, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["without_inception"].startswith("Inception's weights are no")
    assert "pip install torchmetrics[image]" in capsys.readouterr().out
    (folders[0] / "broken.png").write_bytes(b"no image")
    assert main(["evaluate", *pair, "--features", "judge"]) == 2
    assert "broken.png" in capsys.readouterr().err


def test_the_report_takes_one_image_of_each_caption() -> None:
    assert report.FEWEST == image_sets.FEWEST == 6
