"""Editing: inversion and back, attention under a control, prompt-to-prompt, interpolation."""

import copy

import pytest
import torch

from sdlearn import editing
from sdlearn.attention import Attention
from sdlearn.editing import (
    align,
    attend,
    attention_control,
    inject,
    invert,
    noise_of,
    prompt_to_prompt,
    slerp,
)
from sdlearn.samplers import ddim
from sdlearn.schedule import NoiseSchedule

SOURCE, SWAPPED = "a red cat on the sand", "a blue cat on the sand"
PATH = NoiseSchedule().path(20)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def last(states):
    *_, state = states
    return state.z


# ------------------------------------------------------------------------------------ inversion


def gaussian(variance):
    """The ideal denoiser of latents with this variance in each channel, (c,)."""

    def denoise(z, point):
        gain = point.alpha * variance / (point.alpha**2 * variance + point.sigma**2)
        return gain[:, None, None] * z

    return denoise


@pytest.mark.parametrize("final_sigma", ["min", "zero"])
def test_inversion_and_ddim_undo_each_other(final_sigma):
    path = NoiseSchedule().path(20, final_sigma=final_sigma)
    denoise = gaussian(torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64))
    z = normal(2, 4, 3, 5)
    noise = last(invert(denoise, z, path, iterations=60))
    assert (last(ddim(denoise, noise, path)) - z).abs().max() < 1e-9
    assert (noise - z).abs().max() > 0.1


def test_the_error_falls_with_each_iteration():
    denoise = gaussian(torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64))
    z = normal(2, 4, 3, 5)
    errors = [
        (last(ddim(denoise, last(invert(denoise, z, PATH, k)), PATH)) - z).abs().max().item()
        for k in (1, 2, 3, 5, 9)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.05
    assert errors[-1] < errors[0] / 100


def test_it_visits_the_path_backwards_and_yields_what_ddim_will_pass():
    denoise = gaussian(torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64))
    there = [*invert(denoise, normal(1, 4, 2, 2), PATH, iterations=60)]
    back = [*ddim(denoise, there[-1].z, PATH)]
    assert [state.point for state in there] == PATH[::-1]
    assert [state.step for state in there] == [*range(21)]
    for one, other in zip(there, reversed(back), strict=True):
        assert (one.z - other.z).abs().max() < 1e-9


@pytest.mark.parametrize(("iterations", "calls"), [(1, 20), (3, 60)])
def test_the_denoiser_is_called_that_often(iterations, calls):
    seen = []
    last(invert(lambda z, p: seen.append(p) or 0 * z, normal(1, 4, 2, 2), PATH, iterations))
    assert len(seen) == calls
    assert PATH[-1] not in seen


@pytest.mark.parametrize("iterations", [0, -1, 1.5, None])
def test_iterations_are_checked(iterations):
    with pytest.raises(ValueError, match="iterations is"):
        next(invert(lambda z, p: z, normal(1, 4, 2, 2), PATH, iterations))


def test_an_image_is_generated_again_from_its_noise(tiny_storybook):
    sd = double(tiny_storybook)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    z_0 = sd.vae.to_latent(2 * image.double() - 1)
    errors = []
    for iterations in (1, 10):
        noise = noise_of(sd, image, SOURCE, iterations=iterations, steps=100)
        again = sd.text_to_image(
            SOURCE, noise=noise, steps=100, guidance_scale=1, output="latent", progress=False
        )
        errors.append((again - z_0).abs().max().item())
    assert errors[1] < 1e-3 < errors[0] / 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "heun"}, "sampler is 'heun' with eta 0; inversion needs 'ddim'"),
        ({"eta": 0.5}, "sampler is 'ddim' with eta 0.5; inversion"),
        ({"prompt": ["a", "b"]}, "images: 1, prompts: 2; give one image for each prompt"),
        ({"n": 2}, "^n is 2; noise_of finds one noise for each image: give 1$"),
        ({"n": 2, "prompt": ["a", "b"]}, "^n is 2; noise_of finds one noise for each image"),
        ({"iterations": 0}, "iterations is 0; it must be 1 or more"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_bad_input_of_noise_of(tiny_storybook, options, message):
    with pytest.raises(ValueError, match=message):
        noise_of(tiny_storybook, torch.zeros(1, 3, 64, 64), **options)


# ----------------------------------------------------------------------------- attention control


def double(sd):
    """A copy in float64."""
    sd = copy.copy(sd)
    sd.unet, sd.vae, sd.text = (copy.deepcopy(part).double() for part in (sd.unet, sd.vae, sd.text))
    return sd


def inputs(sd, b=2):
    context = sd.text.pair(["a red cat"] * b, None, 1.0, None, 0)[0].unet_inputs[0]
    return normal(b, 4, 8, 8, dtype=torch.float32), torch.full((b,), 500.0), context


def test_the_identity_leaves_every_bit(tiny_storybook):
    unet, args = tiny_storybook.unet, inputs(tiny_storybook)
    expected = unet(*args)
    names = []
    with attention_control(unet, lambda name, weights: names.append(name) or weights):
        assert torch.equal(unet(*args), expected)
    layers = [name for name, m in unet.named_modules() if isinstance(m, Attention)]
    assert sorted(names) == sorted(layers)
    assert {name.rpartition(".")[2] for name in names} == {"attn1", "attn2"}


def test_rows_that_are_not_changed_keep_every_bit(tiny_storybook):
    unet, args = tiny_storybook.unet, inputs(tiny_storybook)
    expected = unet(*args)

    def control(name, weights):
        return torch.cat([weights[:1], weights[1:].roll(1, dims=-1)])

    with attention_control(unet, control):
        changed = unet(*args)
    assert torch.equal(changed[0], expected[0])
    assert (changed[1] - expected[1]).abs().max() > 1e-4


def test_the_layer_s_own_forward_is_back_afterwards(tiny_storybook):
    unet, args = tiny_storybook.unet, inputs(tiny_storybook)
    expected = unet(*args)
    with (
        pytest.raises(ZeroDivisionError),
        attention_control(unet, lambda name, weights: 1 / 0),
    ):
        unet(*args)
    assert not any("forward" in vars(module) for module in unet.modules())
    assert torch.equal(unet(*args), expected)


@pytest.mark.parametrize(("context_dim", "m"), [(None, 6), (12, 5)])
@pytest.mark.parametrize("upcast", [False, True])
def test_changed_weights_weigh_the_values(context_dim, m, upcast):
    torch.manual_seed(0)
    layer = Attention(8, heads=2, context_dim=context_dim, upcast=upcast).double()
    x = normal(3, 6, 8)
    context = None if context_dim is None else normal(3, m, context_dim, seed=1)
    chosen = normal(3, 2, 6, m, seed=2)
    seen = []
    out = attend(layer, lambda weights: seen.append(weights) or chosen, x, context)
    source = x if context is None else context
    q, k, v = (f(y).unflatten(-1, (2, 4)) for f, y in zip(
        (layer.to_q, layer.to_k, layer.to_v), (x, source, source), strict=True))  # fmt: skip
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / 2
    assert (seen[0] - scores.softmax(-1)).abs().max() < 1e-12
    expected = layer.to_out[0](torch.einsum("bhnm,bmhd->bnhd", chosen, v).flatten(2))
    assert (out - expected).abs().max() < 1e-12


# ------------------------------------------------------------------------------ prompt-to-prompt


@pytest.mark.parametrize(
    ("edited", "before", "removed", "added"),
    [
        (SOURCE, "a", "", ""),
        ("a tan cat on the sand", "a", "red", "tan"),
        ("a red striped cat on the sand", "a red", "", "striped"),
        ("a cat on the sand", "a", "red", ""),
        ("a red dog in mud on the sand", "a red", "cat", "dog in mud"),
    ],
)
def test_tokens_correspond_by_the_words_that_were_kept(
    tiny_storybook, edited, before, removed, added
):
    tokenizer = tiny_storybook.text.tokenizers[0]

    def tokens(text):
        return len(tokenizer(text).input_ids) - 2

    start, gone, new = 1 + tokens(before), tokens(removed), tokens(added)
    middle = range(start, start + new) if gone == new else [-1] * new
    rest = (min(k, 76) for k in range(start + gone, 77 + gone))
    expected = [*range(start), *middle, *rest][:77]
    assert align(tiny_storybook, SOURCE, edited).tolist() == expected


def test_injection_takes_columns():
    edited, source = normal(2, 3, 4), normal(2, 3, 4, seed=1)
    out = inject(edited, source, torch.tensor([0, -1, 1, 3]))
    for j, k in enumerate([0, None, 1, 3]):
        expected = edited[..., j] if k is None else source[..., k]
        assert torch.equal(out[..., j], expected)


def test_without_injection_the_edited_prompt_is_generated_as_always(tiny_storybook):
    pair = prompt_to_prompt(
        tiny_storybook, SOURCE, SWAPPED, cross_attention=0, self_attention=0, seed=3
    )
    alone = [
        tiny_storybook.text_to_image(prompt, seed=3, progress=False)[0]
        for prompt in (SOURCE, SWAPPED)
    ]
    for one, other in zip(pair, alone, strict=True):
        assert difference(one, other) <= 1


def test_injection_changes_the_second_image_alone(tiny_storybook):
    plain = prompt_to_prompt(
        tiny_storybook, SOURCE, SWAPPED, cross_attention=0, self_attention=0, seed=3
    )
    injected = prompt_to_prompt(
        tiny_storybook, SOURCE, SWAPPED, cross_attention=1, self_attention=1, seed=3
    )
    assert difference(plain[0], injected[0]) <= 1
    assert plain[1].tobytes() != injected[1].tobytes()


def test_it_is_taken_over_in_the_first_steps(tiny_storybook, monkeypatch):
    calls = []
    monkeypatch.setattr(editing, "inject", lambda edited, *rest: calls.append(rest) or edited)
    layers = sum(name.endswith("attn2") for name, _ in tiny_storybook.unet.named_modules())
    for cross, steps in ((0, 0), (0.5, 3), (0.34, 3), (1, 6)):  # of the six
        calls.clear()
        prompt_to_prompt(tiny_storybook, SOURCE, SWAPPED, cross_attention=cross, self_attention=0)
        assert len(calls) == steps * layers


def difference(one, other):
    arrays = [torch.tensor([*image.tobytes()], dtype=torch.int) for image in (one, other)]
    return (arrays[0] - arrays[1]).abs().max().item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": [SOURCE]}, "source is a list; it must be one prompt"),
        ({"edited": None}, "edited is a NoneType; it must be one prompt"),
        ({"cross_attention": 1.5}, "cross_attention is 1.5; it must lie in 0 … 1"),
        ({"self_attention": -0.1}, "self_attention is -0.1; it must lie in 0 … 1"),
        ({"n": 2}, "n is 2; prompt_to_prompt generates one pair: give 1"),
    ],
)
def test_bad_input_of_prompt_to_prompt(tiny_storybook, arguments, message):
    with pytest.raises(ValueError, match=message):
        prompt_to_prompt(tiny_storybook, **({"source": SOURCE, "edited": SWAPPED} | arguments))


# -------------------------------------------------------------------------------- interpolation


def test_the_arc_keeps_the_length_and_divides_the_angle():
    a, b = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    b = b * a.norm() / b.norm()
    assert torch.equal(slerp(a, b, 0), a)
    assert (slerp(a, b, 1) - b).abs().max() < 1e-12
    for w in (0.25, 0.5, 0.9):
        mid = slerp(a, b, w)
        assert mid.norm() == pytest.approx(a.norm().item(), rel=1e-12)
        angles = [torch.acos((x * mid).sum() / a.norm() ** 2) for x in (a, b)]
        assert (angles[0] / (angles[0] + angles[1])).item() == pytest.approx(w, rel=1e-9)
    assert (torch.lerp(a, b, 0.5)).norm() < 0.8 * a.norm()


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_one_direction_is_interpolated_linearly(factor):
    a = normal(1, 4, 2, 2)
    assert (slerp(a, factor * a, 0.25) - (0.75 + 0.25 * factor) * a).abs().max() < 1e-9
