"""The measures of inpainting and of control, on images whose scores are known."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.evaluation import control, inpainting, load_judge
from sdlearn.evaluation.image_metrics import as_tensor, psnr
from sdlearn.evaluation.silhouettes import iou, silhouette
from sdlearn.storybook import POSES, masks, render


def test_the_psnr_in_the_hole_counts_the_hole_alone() -> None:
    truth = torch.zeros(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:4, 2:6] = 1
    images = truth + 0.5 * (1 - mask)  # wrong outside only
    images[:, :, 2:4, 2:6] = torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)
    assert inpainting.hole_psnr(images, truth, mask).tolist() == pytest.approx([20, 40], abs=1e-5)
    everywhere = inpainting.hole_psnr(images, truth, torch.ones_like(mask))
    assert everywhere.tolist() == pytest.approx(psnr(images, truth).tolist())


def test_the_step_across_the_border_is_in_grey_levels() -> None:
    mask = torch.zeros(3, 1, 8, 8)
    mask[:2, :, 2:4, 2:6] = 1
    images = mask.expand(-1, 3, -1, -1) * torch.tensor([2, 0.2, 1]).view(3, 1, 1, 1) - 1
    assert inpainting.border_step(images, mask).tolist() == pytest.approx([255, 25.5, 0])
    ramp = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)  # steps of 2/7 to the right, none down
    step = inpainting.border_step(ramp, mask[:1])
    assert step.tolist() == pytest.approx([127.5 * 2 / 7 * 4 / 12])  # 4 of the 12 border pairs


@pytest.mark.parametrize("make", [inpainting.hidden_half_cases, inpainting.new_thing_cases])
def test_cases_hide_a_thing_and_are_always_the_same(make) -> None:  # type: ignore[no-untyped-def]
    cases, again = make(20), make(30)[:20]
    for case, other in zip(cases, again, strict=True):
        assert (case.page, case.caption, case.thing) == (other.page, other.caption, other.thing)
        assert torch.equal(case.mask, other.mask)
        inside = torch.from_numpy(np.asarray(masks(case.page, 64)[case.thing]) > 127)
        hidden = (inside & (case.mask[0] > 0)).sum() / max(1, inside.sum())
        whole = make is inpainting.new_thing_cases
        assert hidden > (0.98 if whole else 0.2)
        assert hidden < (1.01 if whole else 0.8)
        kinds = [thing.kind for thing in case.wanted.things]
        assert (kinds != [thing.kind for thing in case.page.things]) is whole


def test_a_true_page_has_the_best_scores_and_an_empty_one_the_worst() -> None:
    judge = load_judge()
    for people in (False, True):
        cases = control.control_cases(12, people)
        truth = [render(case.scene, 64) for case in cases]
        best = control.score(cases, truth, judge)
        assert (best.iou, best.right) == (1, 1)
        assert best.offset < 1
        assert (best.pose == 1) if people else math.isnan(best.pose)
        blank = [Image.fromarray(np.asarray(image)[::-1].copy()) for image in truth]
        worst = control.score(cases, blank, judge)
        assert worst.iou < 0.6
        assert worst.right < 0.6


def test_each_pose_is_told_from_the_others() -> None:
    for case in control.control_cases(12, people=True):
        i = next(i for i, thing in enumerate(case.scene.things) if thing.pose)
        for pose in POSES:
            image = render(control.with_pose(case.scene, i, pose), 64)
            assert control.is_best_pose(case.scene, image) is (pose == case.scene.things[i].pose)


def test_silhouettes_are_the_masks_of_the_things() -> None:
    for case in control.control_cases(10):
        found = silhouette(render(case.scene, 64), case.scene)
        drawn = np.max([np.asarray(mask) for mask in masks(case.scene, 64)], axis=0) > 127
        assert (found & drawn).sum() > 0.85 * drawn.sum()  # but for pixels like the background
    empty = np.zeros((4, 4), bool)
    assert iou(empty, empty) == 1
    one, two = empty.copy(), empty.copy()
    one[0, :2], two[0, 1:4] = True, True
    assert iou(one, two) == 0.25
    assert as_tensor([Image.new("RGB", (2, 2))]).shape == (1, 3, 2, 2)
