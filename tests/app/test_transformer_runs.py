"""Training a diffusion transformer: what is its own in a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlearn import DiffusionTransformer, StableDiffusion, flow
from sdlearn.cli.main import main
from sdlearn.recipes import transformer
from sdlearn.recipes.captioned_latents import CaptionedLatents, FrozenParts
from sdlearn.recipes.noise import draw_noise
from sdlearn.training import step_generator

CPU = torch.device("cpu")
TINY = ["--recipe", "small", "--steps", "3", "--batch", "2", "--scenes", "12", "--device", "cpu"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion.storybook(device="cpu")


def recipe(**changes: object) -> transformer.TransformerRecipe:
    small = replace(transformer.RECIPES["small"], steps=3, batch=8, scenes=12)
    return replace(small, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_loss_is_that_of_the_straight_lines_of_the_batch(shift: float, cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    """A fresh network predicts zero, so its loss is the mean square of eps - x_0."""
    chosen = recipe(shift=shift, dropout=0.5)
    job = transformer.make_job(chosen, cache, CPU)
    network = job.networks["transformer"]
    assert isinstance(network, DiffusionTransformer)
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args))
    found = job.step(0)["loss"].item()
    data = CaptionedLatents(chosen, FrozenParts.load("", "", cache, CPU), 1000, cache, CPU)
    batch = data.batch(0)
    eps = draw_noise(batch.z_0.shape, chosen.seed, 0, CPU, stream=2)
    assert found == pytest.approx(float((eps - batch.z_0).square().mean()), rel=1e-5)

    ((x, t, context, pooled),) = seen
    logits = torch.randn(8, generator=step_generator(chosen.seed, 0, stream=3))
    times = shift * logits.exp() / (1 + shift * logits.exp())
    torch.testing.assert_close(t, 1000 * times)
    torch.testing.assert_close(x, flow.interpolate(batch.z_0, eps, times))
    captions = data.captions_of(batch)
    assert 0 < captions.count("") < 8, "the test has captions and empty ones"
    wanted = flow.transformer_text(sd.text, captions)
    torch.testing.assert_close(context, wanted.context, rtol=0, atol=5e-3)  # stored in halves
    torch.testing.assert_close(pooled, wanted.pooled, rtol=0, atol=5e-3)


def test_an_exported_transformer_draws(tmp_path: Path, sd) -> None:  # type: ignore[no-untyped-def]
    assert main(["train", "transformer", *TINY, "--out", str(tmp_path / "run")]) == 0
    network = DiffusionTransformer.from_pretrained(tmp_path / "run" / "export")
    assert (network.config.sample_size, network.config.in_channels) == (4, 4)
    cond, empty = (
        flow.transformer_text(sd.text, ["a red cat"]),
        flow.transformer_text(sd.text, [""]),
    )
    eps = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    velocity = flow.transformer_velocity(network, cond, empty, 3.0)
    with torch.inference_mode():
        *_, last = flow.euler(velocity, eps, flow.path(3))
    assert last.x.isfinite().all()
    assert (tmp_path / "run" / "samples" / "step-00000003.png").stat().st_size > 1000


def test_a_new_run_starts_from_the_averages_of_another(tmp_path: Path) -> None:
    assert main(["train", "transformer", *TINY, "--out", str(tmp_path / "one")]) == 0
    for place in (tmp_path / "one", tmp_path / "one" / "export"):
        job = transformer.make_job(recipe(init=str(place)), tmp_path / "cache", CPU)
        exported = DiffusionTransformer.from_pretrained(tmp_path / "one" / "export").state_dict()
        for key, value in job.networks["transformer"].state_dict().items():
            assert (value - exported[key]).abs().max() <= 1e-3


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--set", "min_snr=5"], "min_snr is 5.0; accepted: 0.0, because the velocity's errors"),
        (["--set", "weight_decay=0.1"], "weight_decay is 0.1; accepted: 0.0, because Muon has"),
        (["--shard"], "shard is True; accepted: False, because Muon needs whole matrices"),
        (["--set", "activation_checkpointing=True"], "accepted: False, because it supports only"),
        (["--set", "head_dim=6"], "head_dim is 6; accepted: multiples of 4, for sines and cos"),
        (["--set", "patch_size=3"], "size is 32; accepted: multiples of 24, for whole patches"),
        (["--set", "num_layers=0"], "num_layers is 0; accepted: a whole number from 1 to 64"),
        (["--model", "x"], "the recipe has no setting 'model'; accepted: accumulate,"),
        (["--vae", "nowhere"], "there is no trained vae in nowhere; accepted: a published folder"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    extra: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "transformer", *TINY, "--out", str(out), *extra]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in message
    assert not (out / "checkpoints").exists()


def test_the_end_of_text_of_each_caption_is_its_own(cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    prompts = ["a cat", "a red cat to the left of a blue house", ""]
    ends = flow.end_of_text(sd.text, prompts)
    lengths = [len(ids) for ids in sd.text.tokenizers[0](prompts).input_ids]
    assert ends.tolist() == [n - 1 for n in lengths]
    assert ends.tolist()[2] == 1
    context = sd.text(prompts).context
    found = flow.transformer_text(sd.text, prompts)
    assert torch.equal(found.context, context[:, :40])
    assert found.pooled is not None
    assert np.array_equal(found.pooled, context[torch.arange(3), ends])
