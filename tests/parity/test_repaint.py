"""RePaint's order of points is that of diffusers' scheduler."""

import pytest
from diffusers import RePaintScheduler

from sdlearn.inpainting import repaint_visits


@pytest.mark.parametrize(
    ("steps", "jump", "repeats"), [(250, 10, 10), (250, 1, 2), (20, 5, 5), (7, 3, 1), (9, 4, 3)]
)
def test_the_visits_are_those_of_diffusers(steps, jump, repeats):
    scheduler = RePaintScheduler(num_train_timesteps=steps)
    scheduler.set_timesteps(steps, jump, repeats)
    *times, end = (steps - 1 - i for i in repaint_visits(steps, jump, repeats))
    assert times == scheduler.timesteps.tolist()
    assert end == -1
