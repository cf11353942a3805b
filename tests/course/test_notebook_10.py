"""Notebook 10: its functions are the finished ones, its line is the package's, and what it says of
guided cats is true."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import sdlearn
from sdlearn.course import figures
from sdlearn.course.exercises.nb10_guidance import SmallNetwork
from sdlearn.course.figures import guidance as line
from sdlearn.course.grading.compare import Different, same
from sdlearn.text import Conditioning

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "10-guidance.ipynb"
FUNCTIONS = ("denoiser", "rescaled", "guided")
# Walks and figures of the line, which do not depend on the model; nbval runs them.
WALKS = {
    "walk-function", "sharpened-table", "sharpened-figure", "samplers", "commute-figure",
    "ways-figure", "interval-table", "interval-figure", "negative-table", "pages-table",
    "pages-figure", "world-figure", "scales-figure", "widget", "widget-drive",
}  # fmt: skip


def cells() -> list[dict]:
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    return found


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The functions as the notebook last defines them, with a piece of their text replaced."""
    names = {"torch": torch, "Conditioning": Conditioning}
    last = {
        node.name: ast.unparse(node)
        for cell in cells()
        if cell["cell_type"] == "code"
        for node in ast.parse(cell["source"]).body
        if getattr(node, "name", "") in FUNCTIONS
    }
    assert any(change[0] in text for text in last.values()), f"{change[0]!r} is not in them"
    for name in FUNCTIONS:
        exec(last[name].replace(*change), names)
    return names


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compared(names: dict) -> None:
    z, t = drawn(2, 4, 3, 5), torch.tensor([600, 600])
    cond, uncond = (Conditioning(drawn(2, 7, 6, seed=k)) for k in (1, 2))
    point = sdlearn.schedule.Point(600.0, *sdlearn.NoiseSchedule().at(600))
    model = SmallNetwork()

    for asked in (
        (3.0,), (0.0,), (1,), (3.0, 0.7), (7.5, 0.7, (600, 900)), (3.0, 0.0, (0, 600)),
        (3.0, 0.7, (0, 599)), (3.0, 0.0, (601, 999)),
    ):  # fmt: skip
        mine, theirs = (
            make(model, cond, None if asked[0] == 1 else uncond, *asked)
            for make in (names["guided"], sdlearn.guidance.classifier_free_guidance)
        )
        same(mine, theirs, z, t)
    for phi in (0.0, 0.7, 1.0):
        same(names["rescaled"], sdlearn.guidance.rescale_guidance, z, z.cos() + 0.1 * z, phi)
    for predicts in ("noise", "velocity"):
        mine, theirs = (
            make(lambda z, t: z.sin() * t.view(-1, 1, 1, 1).to(z), predicts)
            for make in (names["denoiser"], sdlearn.guidance.denoiser)
        )
        same(lambda z, f=mine: f(z, point), lambda z, f=theirs: f(z, point), z)


def test_its_functions_are_the_finished_ones(capsys):
    compared(built())
    assert capsys.readouterr().out.count("same: ") == 13


@pytest.mark.parametrize(
    "change",
    [
        ("[uncond, cond]", "[cond, uncond]"),
        ("lerp(without, given, scale)", "lerp(given, without, scale)"),
        ("lerp(without, given, scale)", "lerp(without, given, 1 + scale)"),
        ("rescaled(output, given, rescale)", "rescaled(output, without, rescale)"),
        ("rescaled(output, given, rescale)", "rescaled(given, output, rescale)"),
        ("if rescale else output", "if scale > 5 else output"),
        ("interval[0] <= t[0] <= interval[1]", "interval[0] < t[0] <= interval[1]"),
        ("interval[0] <= t[0] <= interval[1]", "interval[0] <= t[0] < interval[1]"),
        ("if scale == 1:\n        return lambda z, t: model(z, t, cond.context)", "pass"),
        ("return model(z, t, cond.context)\n", "return model(z, t, uncond.context)\n"),
        ("over = (1, 2, 3)", "over = (2, 3)"),
        ("over = (1, 2, 3)", "over = (0, 1, 2, 3)"),
        ("phi * ratio + 1 - phi", "phi + ratio * (1 - phi)"),
        ("cond.std(dim=over, keepdim=True) / output.std(dim=over, keepdim=True)",
         "output.std(dim=over, keepdim=True) / cond.std(dim=over, keepdim=True)"),
        ("(z - point.sigma * output) / point.alpha", "z - point.sigma * output / point.alpha"),
        ("point.alpha * z - point.sigma", "point.sigma * z - point.alpha"),
        ("(len(z),), point.t)", "(len(z),), 0.0)"),
    ],
)  # fmt: skip
def test_a_slip_in_its_functions_is_noticed(change):
    with pytest.raises((Different, AttributeError, TypeError)):
        compared(built(change))


def test_guidance_takes_one_call_of_twice_the_rows():
    for asked, expected in (((3.0,), [4]), ((1,), [2]), ((3.0, 0.0, (0, 500)), [2])):
        rows = []

        def model(z, t, context, rows=rows):
            rows.append((len(z), len(t), len(context)))
            return z

        conditions = Conditioning(drawn(2, 3, 4)), Conditioning(drawn(2, 3, 4, seed=1))
        built()["guided"](model, *conditions, *asked)(drawn(2, 1, 2, 2), torch.tensor([600, 600]))
        assert rows == [(n, n, n) for n in expected]


# --------------------------------------------------------------------------- what it says is true


@pytest.fixture
def run(tiny_storybook, monkeypatch, tmp_path):
    """Run the code cells up to the one of this id, with random weights for the model's."""
    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", lambda **_: tiny_storybook)
    monkeypatch.chdir(tmp_path)

    def run(last: str, change: tuple[str, str] = ("", "")) -> dict:
        names: dict = {}
        for cell in cells():
            if cell["cell_type"] == "code" and cell["id"] not in WALKS:
                exec(compile(cell["source"].replace(*change), cell["id"], "exec"), names)
            if cell["id"] == last:
                return names
        raise AssertionError(f"the notebook has no cell {last!r}")

    return run


def test_its_line_is_that_of_the_package(run):
    names = run("network")
    assert torch.equal(names["middles"], line.MEANS)
    assert torch.equal(names["spreads"], line.STDS)
    assert torch.equal(names["line"], line.GRID)
    assert names["schedule"] == line.SCHEDULE
    z, t = drawn(3, 2, 4, 5), torch.tensor([3, 500, 990])
    for prompt, shares in names["shares"].items():
        assert torch.equal(shares, line.mixture_weights(prompt))
        told = names["told"](prompt, 3).context
        same(
            lambda z, c=told: names["animals"](z, t, c),
            lambda z, c=told: line.exact_noise(z, t, c),
            z,
        )
        for level in ((1.0, 0.0), (0.6, 0.8)):
            found = names["log_density"](z, shares, *level)
            assert torch.equal(found, line.log_density(z, shares, *level))


def printed(name: str) -> str:
    (cell,) = [cell for cell in cells() if cell["id"] == name]
    return "".join("".join(out.get("text", "")) for out in cell["outputs"])


def test_its_table_tells_the_story_and_the_truth():
    rows = re.findall(r"(-?\d\.\d\d) +(\d\.\d\d) +(\d+)%", printed("sharpened-table"))
    found = [(float(mean), float(spread), int(part)) for mean, spread, part in rows]
    assert len(found) == 8
    for k, s in enumerate((1.0, 2.0, 3.0, 5.0)):
        ends = line.guided_samples(s, steps=400)
        truth = float(ends.mean()), float(ends.std()), float((ends > -1).double().mean())
        for row, expected in zip(
            found[2 * k : 2 * k + 2],
            (line.moments(line.sharpened_density("", s)), truth),
            strict=True,
        ):
            assert row[:2] == pytest.approx(expected[:2], abs=0.0061)
            assert row[2] == pytest.approx(100 * expected[2], abs=0.51)
    (story, truth) = found[4:6]
    assert truth[2] < 5 < 40 < story[2]


def test_its_negative_prompt_leads_below_all_kittens():
    rows = re.findall(r"away from (\w+) +(-?\d\.\d\d)", printed("negative-table"))
    means = {}
    for away, mean in rows:
        means.setdefault(away, []).append(float(mean))
    assert means["nothing"][0] == means["dog"][0] == -1.0
    assert means["dog"][2] == pytest.approx(
        float(line.guided_samples(3.0, "dog", steps=400).mean()), abs=0.01
    )
    assert means["dog"][2] < -1.8 - 5 * 0.3 < means["nothing"][2]


def test_the_push_away_from_dogs_is_large_far_beyond_the_kittens_and_ends_at_no_animal():
    text = printed("negative-table")
    row = re.search(r"away from dog +\[(.*)\]", text)
    at_1, at_2, at_4, _ = (float(x.strip("' ")) for x in row[1].split(","))
    assert min(at_1, at_2, at_4) > 2
    end = float(re.search(r"zero at z = (\S+)", text)[1])
    z = torch.tensor(end, dtype=torch.float64)
    pull = (z - line.MEANS) / line.STDS**2
    assert float(pull[0]) == pytest.approx(float(pull[2]), rel=1e-9)
    assert end < -1.8 - 10 * 0.3


def test_the_clean_end_of_an_interval_changes_nothing_but_the_bill():
    rows = re.findall(r"t from +(\d+) to (\d+) (.*%) +(\d+)", printed("interval-table"))
    whole, middle = (row for row in rows if row[1] == "600")
    assert (whole[0], middle[0]) == ("0", "200")
    assert whole[2] == middle[2]
    assert int(middle[3]) < int(whole[3])


def test_away_from_dogs_the_formula_drops_the_grown_cats_that_the_walkers_keep():
    ends, story = (
        line.guided_samples(1.25, "dog"),
        line.moments(line.sharpened_density("dog", 1.25)),
    )
    assert story[2] < 0.01 < 0.2 < float((ends > line.THRESHOLD).double().mean())
    text = printed("widget-drive")
    assert "25% are grown" in text
    found = re.search(r"larger than -1\n +(\S+) +(\S+) +(\d+)%", text)
    assert [float(x) for x in found.groups()] == pytest.approx(
        [story[0], story[1], 100 * story[2]], abs=0.51
    )


def test_its_blur_follows_the_formula_and_rescaled_noise_has_more_contrast():
    rows = re.findall(r"s = (\d)" + r" +(\d\.\d+)" * 6, printed("pages-table"))
    assert [int(row[0]) for row in rows] == [1, 2, 3, 5, 8]
    for row in rows:
        s, story, formula, measured, plain, noise, velocity = map(float, row)
        assert story == pytest.approx((s / 0.49 + 1 - s) ** -0.5, abs=0.00051)
        assert formula == pytest.approx(0.7**s, abs=0.00051)
        assert measured == pytest.approx(formula, rel=0.1)
        if s > 1:
            assert noise > plain + 0.01 > 1.1
            assert velocity < plain - 0.1


def test_it_counts_the_calls_of_the_published_systems():
    rows = {
        name: re.split(r" {2,}| (?=\d)", rest.strip())
        for name, rest in re.findall(r"^(s[\w.-]+) +(.*)$", printed("real-table"), flags=re.M)
    }
    assert set(rows) == {"sd1.4", "sd1.5", "sd2.1-base", "sd2.1", "sdxl", "storybook"}
    text = printed("real-table")
    assert re.search(r"sd1\.5 +7\.5 +noise +empty text +plms +51 +102 +41 thousand billion", text)
    assert re.search(r"sd2\.1 +7\.5 +velocity +empty text +ddim +50 +100 +107 thousand", text)
    assert re.search(r"sdxl +5\.0 +noise +zeros +euler +50 +100 +338 thousand billion", text)


def test_all_of_it_runs_with_any_weights_and_leaves_nothing_behind(run, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
    names = run("real-scales")
    assert set(names["found"]) == {0, 1, 2, 3, 5, 8, 12}
    # How variety is counted, and what so few cars reach without a preference.
    four, one = list("abcd") * 5, ["a"] * 20
    assert names["varied"](four) == pytest.approx(4)
    assert (names["varied"](one), names["varied"]([])) == (1, 1)
    assert 5.5 < names["no_preference"](12) < names["no_preference"](16) < 6.5
    assert names["by_chance"](four, one).startswith("0 of 1000")
    assert int(names["by_chance"](four, four[::-1]).split()[0]) > 300
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "last"),
    [
        (("(1 + w) * given - w * without", "(1 - w) * given + w * without"), "scales"),
        (("sigma[..., 0] * (comes_from", "(comes_from"), "bayes"),
        (("[uncond, cond]", "[cond, uncond]"), "guided-plain"),
        (("+ sigma * slope).abs", "- sigma * slope).abs"), "bayes"),
    ],
)
def test_its_own_comparisons_notice_a_mistake(run, monkeypatch, change, last):
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        run(last, change)


# ----------------------------------------------------------------------------------------- its form


def test_it_opens_with_the_card_and_the_question():
    assert cells()[0]["source"].startswith("# 10 · Classifier-free guidance")
    assert "?**" in cells()[1]["source"]


def test_the_opening_question_is_answered_in_so_many_words():
    text = " ".join(" ".join(cell["source"].split()) for cell in cells()[2:])
    assert text.count("You were asked") == 2
