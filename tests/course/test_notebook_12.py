"""Notebook 12: what the learner writes is what the library does, and a slip is noticed."""

import contextlib
import io
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdlearn import editing
from sdlearn.course import check
from sdlearn.course.figures import editing as drawn
from sdlearn.course.grading.compare import Different
from sdlearn.samplers import ddpm, num_steps, posterior_std
from sdlearn.schedule import NoiseSchedule
from tests.notebook_parts import folded_assertions, learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "12-editing.ipynb"
NUMBERS = ("12.1", "12.2", "12.3", "12.4", "12.5")
PATH = NoiseSchedule().path(12)


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's five functions, with a piece of their text replaced."""
    imports = ["import torch", "import torch.nn.functional as F", "from torch import Tensor, nn"]
    imports += ["from itertools import pairwise"]
    return learnt(NOTEBOOK, NUMBERS, imports, change=change)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoise(z, point):
    """Near the ideal denoiser of latents with variance 1/2."""
    return point.alpha * z / 2 / (point.alpha**2 / 2 + point.sigma**2) + torch.tanh(z) / 20


def last(states):
    *_, state = states
    return state.z


def compared(names: dict) -> None:
    z, eps = normal(2, 4, 3, 5), normal(2, 4, 3, 5, seed=1)

    def inverted(z):
        for there, here in pairwise(PATH[::-1]):
            z = names["invert_step"](denoise, z, there, here, 3)
        return z

    check.same(inverted, lambda z: last(editing.invert(denoise, z, PATH, 3)), z)
    for strength in (0.0, 0.3, 0.77, 1.0):
        left = num_steps(len(PATH) - 1, strength)
        point = PATH[len(PATH) - 1 - left]

        def begun(z, eps, strength=strength):
            return names["begin"](z, eps, PATH, strength)

        def expected(z, eps, point=point, left=left):
            return point.alpha * z + point.sigma * eps, left

        check.same(begun, expected, z, eps)
    for final_sigma in ("min", "zero"):
        path = NoiseSchedule().path(12, final_sigma=final_sigma)
        stored = names["stored_noises"](mean, posterior_std, z, normal(12, *z.shape, seed=2), path)
        # On a path that ends without noise, the last step returns the mean.
        steps = 12 if final_sigma == "min" else 11
        check.same(lambda *stored, n=steps, path=path: visited(*stored, path)[: n + 1],
                   lambda latents, noises, n=steps: latents[: n + 1], *stored)  # fmt: skip
        assert torch.equal(stored[0][-1], z)
        assert stored[1].isfinite().all()


def mean(z, here, there):
    return last(ddpm(denoise, z, [here, there], lambda: torch.zeros_like(z)))


def visited(latents, noises, path):
    """The latents that DDPM visits with these noises."""
    return torch.stack([s.z for s in ddpm(denoise, latents[0], path, iter(noises).__next__)])


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 7


@pytest.mark.parametrize(
    "change",
    [
        ("len(path) - 1", "len(path) - 2"),
        ("int(total * strength)", "round(total * strength)"),
        ("start.alpha * z_0", "z_0"),
        ("z_here = z\n", "z_here = 1.01 * z\n"),
        ("range(iterations)", "range(iterations - 1)"),
        ("denoise(z_here, here)", "denoise(z_here, there)"),
        ("(z - there.sigma * eps)", "(z_here - there.sigma * eps)"),
        ("here.alpha * clean", "there.alpha * clean"),
        ("points), z_0]", "points), 1.01 * z_0]"),
        ("mean(latents[k], here", "mean(latents[k + 1], here"),
        ("here, there)) / scale", "here, there))"),
        ("if scale > 0", "if scale >= 0"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(change):
    with pytest.raises((Different, AssertionError, IndexError)):
        compared(built(change))


def test_a_reweighted_word_changes_nothing_else():
    weights = normal(4, 2, 3, 5).softmax(dim=-1)
    out = built()["reweight"](weights, [1, 3], 2.0)
    assert torch.equal(out[:2], weights[:2])
    assert torch.equal(out[2:, :, :, [0, 2, 4]], weights[2:, :, :, [0, 2, 4]])
    assert torch.equal(out[2:, :, :, [1, 3]], 2 * weights[2:, :, :, [1, 3]])


def test_its_claims_are_asserted():
    assert folded_assertions(NOTEBOOK) >= 8


def test_its_figures_say_what_they_show():
    shares = {"image: objects": [0.5, 0.0], "prompt: objects": [0.25, 1.0]}
    figure = drawn.given_and_asked([0.2, 1.0], shares)
    assert "image: objects: 50%, 0%; prompt: objects: 25%, 100%" in figure.words
    names = [text.get_text() for text in figure.figure.axes[0].texts]
    assert sorted(names) == sorted(shares)

    figure = drawn.signal_left([0.2, 1.0], {"8 × 8": [4.0, 0.1], "64 × 64": [100.0, 2.0]})
    assert "8 × 8: 4, 0.1; 64 × 64: 100, 2" in figure.words
    assert figure.figure.axes[0].get_yscale() == "log"

    ramp = torch.arange(4.0).view(2, 2)
    figure = drawn.layouts({"small": [ramp, -ramp], "large": [ramp, ramp]}, ["a", "b"], "Title")
    assert "columns a; b and rows small; large" in figure.words
    assert figure.words.endswith("small: -1.00; large: 1.00.")

    figure = drawn.map_quality([1, 900], {"own word": [0.9, 0.8]}, {"chance": 0.5})
    assert "own word: 0.90, 0.80" in figure.words
    assert "chance: 0.50" in figure.words

    figure = drawn.right_after({"early": 4, "U-Net": 9}, 10, "Title")
    assert figure.words == "Bars: the number of right images out of 10. early: 4; U-Net: 9."
    assert "early: 4" in [text.get_text().strip() for text in figure.figure.axes[0].texts]


def test_names_of_lines_that_end_together_do_not_overlap():
    shares = {"image: objects": [0.5, 0.0], "image: sky, ground": [0.6, 0.01]}
    figure = drawn.given_and_asked([0.2, 1.0], shares)
    low, high = sorted(text.xy[1] for text in figure.figure.axes[0].texts)
    assert high - low >= 8


def test_its_grids_of_images_have_names_and_words():
    image = Image.new("RGB", (8, 8), "white")
    figure = drawn.image_rows({"a": [image, image]}, ["one", "two"], "Title", "Both are white.")
    assert figure.words == "Images in columns one; two and rows a. Both are white."
    wide = drawn.image_rows({"": [image] * 8}, list("abcdefgh"), "Title", "All are white.", scale=9)
    assert wide.figure.height == 6 + 2 * (16 + 7) + 9 * 8 + 6  # letters of 16 for 576 pixels
    named = drawn.image_rows({"": [image]}, ["one"], "Title", "It is white.")
    assert named.words == "Images in columns one. It is white."

    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    maps = {"own": [mask], "other": [1 - mask]}
    figure = drawn.maps_beside_masks([image], [mask], maps, ["cat"], "Title")
    assert figure.words.endswith("inside the mask: cat: own.")
