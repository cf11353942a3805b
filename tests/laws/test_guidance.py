"""What classifier-free guidance, and the denoiser that is made of a network, must satisfy whatever
library one compares them with."""

from dataclasses import replace

import pytest
import torch

from sdlearn.guidance import classifier_free_guidance, denoiser, rescale_guidance
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning
from sdlearn.versions import SPECS, ModelSpec

PUBLISHED = {"epsilon": "noise", "v_prediction": "velocity"}  # names of predictions in the files


def normal(*shape, seed=0):
    """Standard normal elements, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def conditioning(seed):
    return Conditioning(normal(2, 7, 5, seed=seed))


def model(z, t, context):
    """A stand-in network in which everything matters: the latent, the time and the text."""
    return z * t.view(-1, 1, 1, 1) / 1000 + context.mean((1, 2)).view(-1, 1, 1, 1)


def test_guidance_goes_from_the_unconditional_through_the_conditional_output():
    cond, uncond = conditioning(1), conditioning(2)
    z, t = normal(2, 4, 3, 3), torch.tensor([500.0, 20.0]).double()
    without, given = model(z, t, uncond.context), model(z, t, cond.context)
    for scale in (0.0, 0.3, 1.0, 1.5, 7.5, -2.0):
        output = classifier_free_guidance(model, cond, uncond, scale)(z, t)
        torch.testing.assert_close(output, without + scale * (given - without), atol=1e-14, rtol=0)


def test_guidance_of_one_asks_the_network_once():
    sizes = []
    spy = lambda z, t, context: sizes.append((len(z), len(context))) or z  # noqa: E731
    z, t = normal(2, 4, 3, 3), torch.ones(2)
    classifier_free_guidance(spy, conditioning(1), None, 1)(z, t)
    classifier_free_guidance(spy, conditioning(1), conditioning(2), 2)(z, t)
    assert sizes == [(2, 2), (4, 4)]
    with pytest.raises(ValueError, match="needs the unconditional"):
        classifier_free_guidance(spy, conditioning(1), None, 2)


def test_guidance_interval():
    """Within it guidance as ever, outside it the conditional output of one network half."""
    cond, uncond, z = conditioning(1), conditioning(2), normal(2, 4, 3, 3)
    asked = []
    spy = lambda z, t, context: asked.append(len(z)) or model(z, t, context)  # noqa: E731
    within = classifier_free_guidance(spy, cond, uncond, 7.5, rescale=0.7, interval=(200, 600))
    always = classifier_free_guidance(model, cond, uncond, 7.5, rescale=0.7)
    for time, guides in [(999, 0), (601, 0), (600, 1), (400, 1), (200, 1), (199, 0), (50, 0)]:
        t = torch.full((2,), float(time), dtype=torch.float64)
        expected = always(z, t) if guides else model(z, t, cond.context)
        assert (always(z, t) - model(z, t, cond.context)).norm() > 0.1
        assert torch.equal(within(z, t), expected)
    assert asked == [2, 2, 4, 4, 4, 2, 2]
    one = classifier_free_guidance(spy, cond, None, 1, interval=(200, 600))
    assert torch.equal(one(z, t), model(z, t, cond.context))


def test_rescaling_restores_the_spread_of_each_picture():
    output, cond = 5 * normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    torch.testing.assert_close(rescale_guidance(output, cond, 0.0), output)
    full = rescale_guidance(output, cond, 1.0)
    torch.testing.assert_close(full.flatten(1).std(1), cond.flatten(1).std(1))
    torch.testing.assert_close(rescale_guidance(output, cond, 0.7), 0.7 * full + 0.3 * output)
    torch.testing.assert_close(rescale_guidance(cond, cond, 0.7), cond)
    z, t = normal(2, 4, 3, 3), torch.tensor([500.0, 20.0]).double()
    texts = conditioning(1), conditioning(2)
    expected = rescale_guidance(
        classifier_free_guidance(model, *texts, 7.5)(z, t), model(z, t, texts[0].context), 0.7
    )
    torch.testing.assert_close(
        classifier_free_guidance(model, *texts, 7.5, rescale=0.7)(z, t), expected
    )


@pytest.mark.parametrize("t", [0, 500, 999])
def test_noise_and_velocity_are_two_ways_to_say_z_0(t):
    alpha, sigma = NoiseSchedule().at(t)
    point = Point(float(t), alpha, sigma)
    z_0, eps = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    z = alpha * z_0 + sigma * eps
    shown = []
    answers = {"noise": eps, "velocity": alpha * eps - sigma * z_0}
    for predicts, answer in answers.items():
        network = lambda z, t, answer=answer: shown.append(t) or answer  # noqa: E731
        estimate = denoiser(network, predicts)(z, point)
        torch.testing.assert_close(estimate, z_0, atol=1e-12, rtol=0)
    assert all(time.tolist() == [t, t] for time in shown)
    for published, name in PUBLISHED.items():
        network = lambda z, t, name=name: answers[name]  # noqa: E731
        same = denoiser(network, published)(z, point)
        assert torch.equal(same, denoiser(network, name)(z, point))


@pytest.mark.parametrize("predicts", ["sample", "Noise", "", None, ["noise"]])
def test_another_prediction_is_refused_before_the_network_is_called(predicts):
    asked = []
    network = lambda z, t: asked.append(t) or z  # noqa: E731
    for refused in (
        lambda: denoiser(network, predicts),
        lambda: ModelSpec("mine", predicts=predicts),
        lambda: replace(SPECS["sd2.1"], predicts=predicts),
    ):
        with pytest.raises(ValueError, match="predicts is") as caught:
            refused()
        assert str(caught.value) == (
            f"predicts is {predicts!r}; it must be 'noise' or 'velocity', which published files "
            "call 'epsilon' and 'v_prediction'"
        )
    assert not asked


def test_a_specification_takes_the_published_names():
    """And is then the same value, so that nothing further on has to know them."""
    for published, name in PUBLISHED.items():
        assert ModelSpec("mine", predicts=published) == ModelSpec("mine", predicts=name)
        assert replace(SPECS["sd2.1"], predicts=published).predicts == name
