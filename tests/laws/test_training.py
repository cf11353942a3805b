"""The pieces of a training step against numbers worked out by hand, and the laws batches obey."""

import math
import random
from collections import Counter
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._functorch import config as functorch

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.recipes import vae
from sdlearn.recipes.captioned_latents import draw_times
from sdlearn.recipes.clip import accuracies, token_batch
from sdlearn.recipes.data import Batches, scene, to_pixels, to_tensor
from sdlearn.recipes.hard_negatives import hard_negative, hard_negative_captions
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.perceptual import (
    PAIRS,
    PATTERNS,
    PerceptualNetwork,
    head_sizes,
    load_features,
    load_perceptual,
    scene_labels,
)
from sdlearn.recipes.recipe import override
from sdlearn.recipes.tokenizer import train_tokenizer
from sdlearn.recipes.vae import RECIPES, latent_std, make_job, new_vae, psnr
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook import WORDS, caption, render, sample_scene, split_of
from sdlearn.storybook.scenes import SCALE
from sdlearn.training import (
    EMA,
    diffusion_loss,
    learning_rate,
    min_snr_weight,
    step_generator,
    update,
)
from sdlearn.utils.resources import data_folder
from sdlearn.vae_losses import PatchDiscriminator, adversarial_weight

CPU = torch.device("cpu")


def test_ema_follows_its_formula_and_forgets_the_start() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 8.0)
    average = EMA(network, decay=0.5)
    nn.init.constant_(network.weight, 4.0)
    average.update(network, 0)  # decay min(0.5, 1/10): 0.1 * 8 + 0.9 * 4
    assert average.module.weight.item() == pytest.approx(4.4)
    nn.init.constant_(network.weight, 0.0)
    average.update(network, 1)  # decay 2/11
    assert average.module.weight.item() == pytest.approx(4.4 * 2 / 11)
    average.update(network, 1000)  # decay 0.5 from now on
    assert average.module.weight.item() == pytest.approx(4.4 / 11)
    assert not average.module.weight.requires_grad
    assert network.weight.item() == 0


def test_learning_rate_warms_up_in_a_line_and_ends_at_one_hundredth() -> None:
    rates = [learning_rate(k, 110, peak=2.0, warmup=10) for k in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(2 * (0.01 + 0.99 / 2))  # half way down the cosine
    assert rates[110] == pytest.approx(0.02)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert learning_rate(500, 110, 2.0, 10) == pytest.approx(0.02)
    assert learning_rate(0, 110, 2.0, warmup=0) == 2.0


def test_min_snr_weights() -> None:
    snr = torch.tensor([1.0, 5.0, 20.0])
    noise, velocity = (min_snr_weight(snr, 5.0, predicts) for predicts in ("noise", "velocity"))
    torch.testing.assert_close(noise, torch.tensor([1.0, 1.0, 0.25]))
    torch.testing.assert_close(velocity, torch.tensor([1 / 2, 5 / 6, 5 / 21]))


UNKNOWN = (
    "predicts is {!r}; it must be 'noise' or 'velocity', which published files call 'epsilon' and "
    "'v_prediction'"
)


def test_the_loss_knows_the_published_names_of_the_predictions() -> None:
    z_0, eps = torch.randn(2, 4, 3, 4, 4, generator=step_generator(0, 0)).unbind()
    t, snr = torch.tensor([0, 5, 500, 999]), torch.tensor([1.0, 5.0, 20.0])

    def loss(predicts: str, min_snr: float | None) -> float:
        inputs = z_0, t, eps, torch.zeros(4, 1, 1), NoiseSchedule()
        return diffusion_loss(lambda z, t, c: 0.5 * z, *inputs, predicts, min_snr).item()

    for min_snr in (None, 5.0):
        assert loss("epsilon", min_snr) == loss("noise", min_snr)
        assert loss("v_prediction", min_snr) == loss("velocity", min_snr)
        assert abs(loss("noise", min_snr) - loss("velocity", min_snr)) > 0.05
    for published, name in (("epsilon", "noise"), ("v_prediction", "velocity")):
        assert torch.equal(min_snr_weight(snr, 5.0, published), min_snr_weight(snr, 5.0, name))


@pytest.mark.parametrize("predicts", ["sample", "Noise", "", None, ["noise"]])
def test_the_loss_refuses_another_prediction_before_the_network_is_called(predicts: str) -> None:
    called: list[int] = []

    def model(z: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        called.append(len(z))
        return z

    z_0, t = torch.zeros(2, 4, 3, 3), torch.tensor([3, 4])
    for refused in (
        lambda: diffusion_loss(model, z_0, t, z_0, z_0, NoiseSchedule(), predicts),
        lambda: min_snr_weight(torch.ones(3), 5.0, predicts),
    ):
        with pytest.raises(ValueError, match="predicts is") as caught:
            refused()
        assert str(caught.value) == UNKNOWN.format(predicts)
    assert not called


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_diffusion_loss_is_the_hand_computed_one(predicts: str, gamma: float | None) -> None:
    schedule = NoiseSchedule()
    t = torch.tensor([10, 700])
    z_0 = torch.tensor([2.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 1, 1, 2)
    eps = torch.tensor([[0.5, -0.5], [3.0, 1.0]], dtype=torch.float64).view(2, 1, 1, 2)
    context = torch.tensor([0.25, -2.0], dtype=torch.float64).view(2, 1, 1)
    seen: list[torch.Tensor] = []

    def model(z: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        seen.extend([z, t])
        return 0.5 * z + context[:, :, None]

    loss = diffusion_loss(model, z_0, t, eps, context, schedule, predicts, gamma)

    expected = 0.0
    for i in range(2):
        bar = schedule.alphas_cumprod[t[i]].item()
        a, s = math.sqrt(bar), math.sqrt(1 - bar)
        errors = []
        for j in range(2):
            e, z = eps[i, 0, 0, j].item(), z_0[i, 0, 0, j].item()
            target = e if predicts == "noise" else a * e - s * z
            z_t = a * z + s * e
            assert seen[0][i, 0, 0, j].item() == pytest.approx(z_t, rel=1e-12)
            errors.append((0.5 * z_t + context[i].item() - target) ** 2)
        snr = bar / (1 - bar)
        weight = 1.0
        if gamma is not None:
            weight = min(snr, gamma) / (snr if predicts == "noise" else snr + 1)
        expected += weight * sum(errors) / 2 / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(seen[1], t)


def test_a_network_that_knows_the_noise_has_no_loss() -> None:
    z_0, eps = torch.randn(2, 4, 3, 4, 4, generator=step_generator(0, 0)).unbind()
    context = torch.zeros(4, 1, 1)
    t = torch.tensor([0, 5, 500, 999])
    schedule = NoiseSchedule()
    for predicts in ("noise", "velocity"):
        alpha, sigma = (x.float().view(-1, 1, 1, 1) for x in schedule.at(t))
        answer = eps if predicts == "noise" else alpha * eps - sigma * z_0
        loss = diffusion_loss(
            lambda z, t, c, answer=answer: answer, z_0, t, eps, context, schedule, predicts
        )
        assert loss.item() < 1e-12


def test_update_clips_the_gradient_and_returns_its_norm() -> None:
    weight = nn.Parameter(torch.tensor([0.0, 0.0]))
    optimizer = torch.optim.SGD([weight], lr=99.0)
    norm = update((weight * torch.tensor([3.0, 4.0])).sum(), optimizer, lr=0.5, clip=1.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(weight.data, torch.tensor([-0.3, -0.4]))  # 0.5 * unit gradient


def test_random_numbers_are_a_function_of_seed_step_and_stream() -> None:
    draws = {
        (seed, step, stream): draw_noise((3,), seed, step, CPU, stream).tolist()
        for seed in (0, 1)
        for step in (0, 1)
        for stream in (0, 1)
    }
    assert len({tuple(values) for values in draws.values()}) == 8
    assert draw_noise((3,), 1, 0, CPU, 1).tolist() == draws[1, 0, 1]
    state = torch.random.get_rng_state()
    draw_noise((3,), 0, 0, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_repeat_and_cover() -> None:
    array = np.arange(40, dtype=np.uint8).reshape(40, 1)
    batches = Batches(array, seed=3, batch=8, device=CPU)
    assert batches(5).flatten().tolist() == batches.indices(5).tolist()
    assert batches(5).tolist() == Batches(array, 3, 8, CPU)(5).tolist()
    assert batches(5).tolist() != batches(6).tolist()
    assert batches(5).tolist() != Batches(array, 4, 8, CPU)(5).tolist()
    assert {x for k in range(60) for x in batches.indices(k).tolist()} == set(range(40))


def test_pixels_survive_the_way_to_a_tensor_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    x = to_tensor(pixels)
    assert x.shape == (1, 3, 16, 16)
    assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
    assert (to_pixels(x) == pixels).all()


# ------------------------------------------------------------------------------- the autoencoder


def test_the_posterior_starts_narrow_everywhere() -> None:
    torch.manual_seed(0)
    vae = new_vae(override(RECIPES["small"], {"block_out_channels": (16, 16), "logvar": -6.0}))
    _, logvar = vae.encode(torch.rand(4, 3, 16, 16) * 2 - 1)
    assert (logvar + 6).abs().max() < 0.5


def test_psnr_of_a_known_error() -> None:
    x = torch.zeros(1, 3, 4, 4)
    assert psnr(x + 0.02, x).item() == pytest.approx(40.0, abs=1e-3)  # 10 log10(4 / 0.0004)


QUICK = override(RECIPES["small"], {"scenes": 8, "batch": 4, "block_out_channels": (16, 16)})


@pytest.mark.parametrize("perceptual", [0.0, 0.1])
def test_the_squared_error_joins_the_absolute_one(perceptual: float, tmp_path: Path) -> None:
    recipe = override(QUICK, {"perceptual": perceptual, "perceptual_start": 0.0})
    plain = make_job(recipe, tmp_path, CPU).step(0)
    assert ("perceptual" in plain) == (perceptual > 0)
    both = make_job(override(recipe, {"mse": 20.0}), tmp_path, CPU).step(0)
    assert both["l1"] == plain["l1"]
    squared = 4 / 10 ** (plain["psnr"].item() / 10)
    assert squared > 0.05, "too little to see"
    difference = (both["loss"] - plain["loss"]).item()
    assert difference == pytest.approx(20 * squared, rel=0.03)  # the PSNR clips what is outside


@pytest.mark.parametrize("discriminator", [0.0, 0.1])
def test_a_seed_begins_the_weights_and_nothing_else(discriminator: float, tmp_path: Path) -> None:
    """The weights are those of torch.manual_seed, whose generator goes on as before."""
    changes = {"discriminator": discriminator, "discriminator_start": 0.0, "seed": 3}
    recipe = override(QUICK, changes)
    torch.manual_seed(3)
    wanted: list[nn.Module] = [new_vae(recipe)]
    if discriminator:
        wanted.append(PatchDiscriminator(width=32, depth=2))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    job = make_job(recipe, tmp_path, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    found = [job.networks[name] for name in ("vae", "discriminator") if name in job.networks]
    for a, b in zip(found, wanted, strict=True):
        assert all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize("part", ["perceptual", "judge"])
def test_other_trainings_leave_the_random_numbers_of_the_process_alone(
    part: str, tmp_path: Path
) -> None:
    module = import_module(f"sdlearn.recipes.{part}")
    before = torch.random.get_rng_state()
    module.make_job(override(module.RECIPES["small"], {"scenes": 8, "batch": 4}), tmp_path, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_compiled_training_leaves_torch_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adversarial weight needs buffers kept during a step; other programs have them freed."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(vae, "need_compiler", lambda device: None)
    during = []

    def noting(*given: torch.Tensor) -> torch.Tensor:
        during.append(functorch.donated_buffer)
        return adversarial_weight(*given)

    monkeypatch.setattr(vae, "adversarial_weight", noting)
    changes = {
        "compile": True,
        "discriminator": 0.1,
        "discriminator_start": 0.0,
        "discriminator_warmup": 0,
    }
    with functorch.patch(donated_buffer=True):
        job = make_job(override(QUICK, changes), tmp_path, CPU)
        assert functorch.donated_buffer is True
        job.step(0)
        assert during == [False]
        assert functorch.donated_buffer is True


def test_a_frozen_encoder_gives_the_same_latents_and_the_decoder_learns(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for decoder_only in (False, True):
        job = make_job(override(QUICK, {"decoder_only": decoder_only}), tmp_path, CPU)
        vae = job.networks["vae"]
        z, y = vae.encode(x), vae.decode(torch.ones(1, 4, 4, 4))
        job.step(0)
        same = all(map(torch.equal, vae.encode(x), z))
        assert same == decoder_only
        assert not torch.equal(vae.decode(torch.ones(1, 4, 4, 4)), y)


def test_latent_std_is_that_of_samples() -> None:
    class Known:
        """A posterior with mean 1 or -1 by picture and standard deviation 0.5."""

        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean = x.mean((1, 2, 3)).sign().view(-1, 1, 1, 1).expand(-1, 4, 8, 8)
            return mean, torch.full_like(mean, 2 * math.log(0.5))

        def parameters(self):  # type: ignore[no-untyped-def]
            return iter([torch.zeros(1)])

    pages = np.zeros((2, 8, 8, 3), np.uint8)
    pages[1] = 255
    std = latent_std(Known(), Batches(pages, 0, 64, CPU))  # type: ignore[arg-type]
    assert std == pytest.approx(math.sqrt(1 + 0.25), rel=0.01)


# ------------------------------------------------------------------------------- the text encoder


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    captions = [caption(scene(k), random.Random(k)) for k in range(500)]
    return train_tokenizer([*captions, *sorted(WORDS)])


def test_every_word_of_the_storybook_is_one_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert tokenizer.model_max_length == 77
    size = len(tokenizer)
    assert tokenizer.bos_token_id == size - 2
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == size - 1
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    for word in WORDS:
        pieces = tokenizer.tokenize(word)
        assert len(pieces) == (3 if word == "hot-air" else 1), pieces


def test_unknown_words_are_spelled_and_come_back(tokenizer) -> None:  # type: ignore[no-untyped-def]
    text = "a zebra überquert 7 roads 猫"
    ids = tokenizer(text).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.eos_token_id not in ids[:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("A  Red CAT").input_ids == tokenizer("a red cat").input_ids


def test_cropped_captions_have_the_states_of_full_ones(tokenizer) -> None:  # type: ignore[no-untyped-def]
    captions = ["a red cat", "a blue house to the left of a green tree on the sand at night"]
    ids = token_batch(tokenizer, captions)
    full = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    assert ids.shape[1] < full.shape[1] == 77
    torch.manual_seed(0)
    encoder = CLIPTextEncoder(
        CLIPTextConfig(len(tokenizer), 16, 2, 2, 32, eos_token_id=tokenizer.eos_token_id)
    ).double()
    short, long = encoder(ids), encoder(full)
    torch.testing.assert_close(short.pooled, long.pooled, rtol=0, atol=1e-12)
    torch.testing.assert_close(short.last, long.last[:, : ids.shape[1]], rtol=0, atol=1e-12)


def test_twins_differ_in_one_attribute_and_stay_in_their_split() -> None:
    told_apart, seen = 0, Counter[str]()
    for k in range(150):
        a, b = scene(k), hard_negative(k)
        assert b == hard_negative(k)
        assert split_of(b) == "train"
        assert (a.sky, a.ground) == (b.sky, b.ground)
        changed = {
            name
            for left, right in zip(a.things, b.things, strict=True)
            for name in vars(left)
            if getattr(left, name) != getattr(right, name)
        }
        if "kind" in changed:
            assert changed <= {"kind", "y", "size", "pose"}
            old, new = next(
                pair for pair in zip(a.things, b.things, strict=True) if pair[0] != pair[1]
            )
            assert new.flies == old.flies
            stays = new.y - old.y if new.flies else new.base - old.base
            assert abs(stays) < 2e-4
            assert abs(new.size / SCALE.get(new.kind, 1) - old.size / SCALE.get(old.kind, 1)) < 2e-4
        else:
            assert len(changed) == 1, changed
            assert changed <= {"colour", "pattern", "x"}
        seen[min(changed & {"kind", "colour", "pattern", "x"})] += 1
        first, second = hard_negative_captions((a, b), random.Random(k))
        told_apart += first != second
        if changed == {"colour"} and sorted(t.colour for t in a.things) == sorted(
            t.colour for t in b.things
        ):
            assert sorted(first.replace("an ", "a ").split()) == sorted(
                second.replace("an ", "a ").split()
            ), "colours exchanged: the same words in another order"
    assert told_apart > 130
    assert min(seen[name] for name in ("kind", "colour", "pattern", "x")) > 10, seen


def test_times_of_training_crowd_where_they_should() -> None:
    def times(mean: float, std: float) -> torch.Tensor:
        return draw_times(40_000, 1000, mean, std, torch.Generator().manual_seed(0))

    uniform = times(5.0, 0.0)
    assert (uniform.min(), uniform.max()) == (0, 999)
    assert abs(uniform.float().mean() - 499.5) < 5
    crowded = times(-0.3, 1.0)
    assert crowded.dtype == torch.int64
    # Quantiles of the normal distribution through the logistic function.
    for share, normal in ((0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)):
        expected = 1000 / (1 + math.exp(0.3 - normal))
        assert abs(crowded.float().quantile(share) - expected) < 8
    assert times(20.0, 1.0).max() == 999


def test_accuracies_count_what_they_say() -> None:
    seen = torch.eye(4)
    captions = ["red cat", "blue cat", "cat red", "cat blue"]
    assert accuracies(seen, torch.eye(4), captions)["accuracy"] == 1
    # Every picture finds its twin's caption instead of its own.
    swapped = accuracies(seen, torch.eye(4).roll(2, 0), captions)
    assert swapped["accuracy"] == 0
    assert swapped["swap_accuracy"] == 0
    # Where a caption is also its twin's, neither counts.
    read = torch.eye(4).roll(2, 0)
    read[1], read[3] = torch.eye(4)[1], torch.eye(4)[3]
    half = accuracies(seen, read, ["same", "blue cat", "same", "cat blue"])
    assert half["accuracy"] == 0.5
    assert half["swap_accuracy"] == 1


# ------------------------------------------------------------------------- the perceptual network


def test_content_says_what_is_on_a_page() -> None:
    page = scene(4)
    numbers = scene_labels(page)
    assert len(numbers) == 2 + head_sizes()[2]
    found = {pair for pair, there in zip(PAIRS, numbers[2:], strict=False) if there}
    assert found == {(thing.kind, thing.colour) for thing in page.things}
    patterns = {p for p, there in zip(PATTERNS, numbers[-len(PATTERNS) :], strict=True) if there}
    assert patterns == {thing.pattern for thing in page.things}


def test_perceptual_stages_halve_the_picture() -> None:
    network = PerceptualNetwork((4, 6, 8))
    x = torch.zeros(2, 3, 16, 16)
    assert [tuple(f.shape) for f in network(x)] == [(2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4)]
    assert [tuple(f.shape) for f in network.classify(x)] == [(2, n) for n in head_sizes()]


def test_the_shipped_perceptual_network_reads_pages_it_never_saw() -> None:
    features, stages = load_features("", CPU)
    network = load_perceptual(data_folder("judge"), CPU)
    pages = [sample_scene(random.Random(k), split="test") for k in range(100)]
    x = to_tensor(torch.from_numpy(np.stack([np.array(render(p, 64)) for p in pages])), CPU)
    truth = torch.tensor([scene_labels(page) for page in pages])
    with torch.inference_mode():
        assert [f.shape[-1] for f in features(x[:1])] == [64 // 2**i for i in range(stages)]
        sky, ground, things = network.classify(x)
    assert (sky.argmax(1) == truth[:, 0]).float().mean() >= 0.98
    assert (ground.argmax(1) == truth[:, 1]).float().mean() >= 0.97
    there, found = truth[:, 2 : 2 + len(PAIRS)] > 0, things[:, : len(PAIRS)] > 0
    assert (there & found).sum() / there.sum() >= 0.55  # of 128 kinds in colours, the right ones
    assert (there & found).sum() / found.sum() >= 0.7
