"""Training with rectified flow, and few-step distillation: what is their own in a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlearn import StableDiffusion, flow
from sdlearn.cli.main import main
from sdlearn.guidance import classifier_free_guidance
from sdlearn.recipes import distill
from sdlearn.recipes import flow as flow_training
from sdlearn.recipes.base_model import load_base
from sdlearn.recipes.noise import draw_noise
from sdlearn.training import TrainingJob, step_generator
from tests.tiny_model import tiny_sd2

CPU = torch.device("cpu")
TINY = ["--recipe", "small", "--steps", "3", "--batch", "2", "--scenes", "12", "--device", "cpu"]
PARTS = ("flow", "distill")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion.storybook(device="cpu")


def flow_recipe() -> flow_training.FlowRecipe:
    return replace(flow_training.RECIPES["small"], steps=3, batch=4, scenes=12)


def distill_recipe() -> distill.DistillRecipe:
    return replace(distill.RECIPES["small"], steps=3, batch=4, scenes=12)


def unchanged(job: TrainingJob, sd: StableDiffusion) -> bool:
    """Whether the network and its average are still the shipped U-Net, to the bit."""
    return all(
        torch.equal(value, job.networks[name].state_dict()[key])
        for name in ("unet", "ema")
        for key, value in sd.unet.state_dict().items()
    )


# ------------------------------------------------------------------------------------------- flow


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_starts_with_the_velocities_of_the_model(shift: float, cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    recipe = replace(flow_recipe(), shift=shift)
    job = flow_training.make_job(recipe, cache, CPU)
    assert unchanged(job, sd)
    base = load_base("", recipe, CPU)
    data = flow_training.CaptionedLatents(recipe, base.parts(), 1000, cache, CPU)
    batch = data.batch(0)
    x_0, context = batch.z_0, batch.context
    eps = draw_noise(x_0.shape, recipe.seed, 0, CPU, stream=2)
    logits = torch.randn(4, generator=step_generator(recipe.seed, 0, stream=3))
    t = shift * logits.exp() / (1 + shift * logits.exp())
    t = t.clamp(max=flow.last_time(sd.schedule))
    errors = []
    for k, time in enumerate(t.tolist()):
        x = flow.interpolate(x_0[[k]], eps[[k]], time)
        network = lambda z, t, k=k: sd.unet(z, t, context[[k]])  # noqa: E731
        u = flow.velocity_model(network, sd.schedule)(x, time)
        errors.append(float((u - (eps - x_0)[[k]]).square().mean()))
    assert job.step(0)["loss"].item() == pytest.approx(np.mean(errors), rel=1e-4)
    assert not unchanged(job, sd)


def test_the_times_of_noisier_than_the_table_are_its_last(cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    recipe = replace(flow_recipe(), t_mean=8.0, t_std=0.1)  # t is 0.9997
    assert flow_training.make_job(recipe, cache, CPU).step(0)["loss"].isfinite()


def test_an_exported_flow_model_predicts_noise_and_says_so(tmp_path: Path) -> None:
    assert main(["train", "flow", *TINY, "--out", str(tmp_path / "run")]) == 0
    export = tmp_path / "run" / "export"
    tuned = StableDiffusion.from_pretrained(export, device="cpu")
    assert (tuned.spec.predicts, tuned.spec.sampler, tuned.spec.steps) == ("noise", "ddim", 30)
    config = json.loads((export / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    assert (config["_class_name"], config["prediction_type"]) == ("DDIMScheduler", "epsilon")
    cond = tuned.text(["a red cat"])
    velocity = flow.velocity_model(
        classifier_free_guidance(tuned.unet, cond, None, 1), tuned.schedule
    )
    times = flow.path(3, flow.last_time(tuned.schedule))
    eps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        *_, last = flow.euler(velocity, flow.from_latent(eps, times[0]), times)
    assert last.x.isfinite().all()
    assert 0.2 < float(last.x.std()) < 2
    assert (tmp_path / "run" / "samples" / "step-00000003.png").stat().st_size > 1000


# ---------------------------------------------------------------------------------------- distill


def test_the_student_learns_the_lines_of_the_teacher(cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    recipe = distill_recipe()
    base = load_base("", recipe, CPU)
    texts, states, ends = distill.trajectories(recipe, base, cache)
    assert ends.shape == (12, 5, 4, 8, 8)
    noise = torch.from_numpy(np.array(ends[:, 0])).float()
    drawn = sd.text_to_image(  # the same solver with the same steps, from the pipeline
        texts, noise=noise, steps=8, sampler="dpm_pp_2m", sigmas="table", guidance_scale=3.0,
        output="latent", progress=False,
    )  # fmt: skip
    assert drawn.shape == (12, 4, 8, 8)  # its "leading" path is another, so only near
    last = torch.from_numpy(np.array(ends[:, -1])).float()
    assert (drawn - last).square().mean() < 0.2 * last.square().mean()

    points = distill.window_points(recipe, sd.schedule)
    _, lines = distill.training_lines(recipe, base, cache, CPU)
    rows = np.random.default_rng([recipe.seed, 5]).integers(12, size=4)
    batch = lines(5)
    times = [flow.time_of(point) for point in points]
    for k, row in enumerate(rows):
        first = int(np.argmin(np.abs(np.array(times) - float(batch.t[k]))))
        assert float(batch.t[k]) == pytest.approx(times[first], abs=1e-12)
        z, end = (torch.from_numpy(np.array(ends[row, j])).float() for j in (first, first + 1))
        assert (flow.to_latent(batch.x[[k]], times[first]) - z).abs().max() < 1e-5
        x = batch.x[[k]] + (times[first + 1] - times[first]) * batch.target[[k]]
        assert (flow.to_latent(x, times[first + 1]) - end).abs().max() < 1e-5
        assert np.array_equal(batch.context[k].numpy(), states[row].astype(np.float32))


def test_points_inside_a_window_are_on_its_line(cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    recipe = replace(distill_recipe(), batch=64)
    base = load_base("", recipe, CPU)
    _, starts = distill.training_lines(recipe, base, cache, CPU)
    _, inside = distill.training_lines(replace(recipe, inside=1.0), base, cache, CPU)
    a, b = starts(0), inside(0)
    assert torch.equal(a.target, b.target)
    moved = (b.t - a.t).float().view(-1, 1, 1, 1)
    assert (a.x + moved * a.target - b.x).abs().max() < 1e-5
    times = torch.tensor([flow.time_of(p) for p in distill.window_points(recipe, sd.schedule)])
    windows = (a.t[:, None] - times[None, :-1]).abs().argmin(dim=1)
    share = (a.t - b.t) / (times[:-1] - times[1:])[windows]
    assert 0 <= float(share.min()) < 0.1 < 0.9 < float(share.max()) <= 1
    assert set(windows.tolist()) == {0, 1, 2, 3}


def test_the_student_starts_as_the_teacher_without_guidance(cache: Path, sd) -> None:  # type: ignore[no-untyped-def]
    recipe = distill_recipe()
    job = distill.make_job(recipe, cache, CPU)
    assert unchanged(job, sd)
    _, lines = distill.training_lines(recipe, load_base("", recipe, CPU), cache, CPU)
    batch = lines(0)
    z = flow.to_latent(batch.x, batch.t)
    timesteps = torch.tensor([p.t for p in flow.points_at(batch.t, sd.schedule)])
    assert {*timesteps.tolist()} <= {999.0, 749.0, 499.0, 249.0}
    with torch.no_grad():
        eps = sd.unet(z, timesteps, batch.context)
    u = flow.velocity_from_noise(eps, batch.x, batch.t)
    expected = float((u - batch.target).square().mean())
    assert job.step(0)["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert not unchanged(job, sd)


@pytest.mark.parametrize("windows", [4, 2])
def test_an_exported_student_knows_its_steps_and_its_guidance(windows: int, tmp_path: Path) -> None:
    args = ["train", "distill", *TINY, "--set", f"windows={windows}", "--set", "substeps=1"]
    assert main([*args, "--out", str(tmp_path / "run")]) == 0
    student = StableDiffusion.from_pretrained(tmp_path / "run" / "export", device="cpu")
    spec = student.spec
    assert (spec.name, spec.steps, spec.guidance_scale) == ("storybook-few-steps", windows, 1.0)
    assert (spec.spacing, spec.final_sigma, spec.sampler) == ("trailing", "zero", "ddim")
    calls = []
    student.unet.register_forward_pre_hook(lambda _, args: calls.append((len(args[0]), args[1])))
    student.text_to_image("a red cat", progress=False)
    assert [n for n, _ in calls] == [1] * windows  # no second half, for guidance
    assert [int(t[0]) for _, t in calls] == {4: [999, 749, 499, 249], 2: [999, 499]}[windows]


def test_a_student_of_another_model_knows_them_too(tmp_path: Path) -> None:
    sd = StableDiffusion.storybook(device="cpu")
    StableDiffusion(sd.unet, sd.vae, sd.text, replace(sd.spec, name="mine")).save_pretrained(
        tmp_path / "mine"
    )
    args = ["train", "distill", *TINY, "--model", str(tmp_path / "mine"), "--set", "substeps=1"]
    assert main([*args, "--out", str(tmp_path / "run")]) == 0
    spec = StableDiffusion.from_pretrained(tmp_path / "run" / "export", device="cpu").spec
    assert (spec.name, spec.steps, spec.guidance_scale) == ("mine-few-steps", 4, 1.0)
    index = tmp_path / "run" / "export" / "model_index.json"
    index.write_text(index.read_text("utf-8").replace('"_steps": 4', '"_steps": 0'), "utf-8")
    with pytest.raises(ValueError, match="_steps is 0; it must be a whole number from 1 to 1000"):
        StableDiffusion.from_pretrained(index.parent, device="cpu")


# ---------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("part", "extra", "sentence"),
    [
        ("flow", ["--model", "nowhere"], "nowhere, which holds no model; accepted: a folder"),
        ("flow", ["--set", "min_snr=5"], "min_snr is 5.0; accepted: 0, because the velocity loss"),
        ("flow", ["--set", "shift=0"], "shift is 0.0; accepted: "),
        ("flow", ["--hint", "edges"], "the recipe has no setting 'hint'; accepted: accumulate,"),
        ("flow", ["--set", "size=40"], "size is 40; accepted: multiples of 16 for this model"),
        ("distill", ["--vae", "x"], "the recipe has no setting 'vae'; accepted: accumulate,"),
        ("distill", ["--set", "dropout=0.1"], "dropout is 0.1; accepted: 0, because the student"),
        ("distill", ["--set", "min_snr=5"], "min_snr is 5.0; accepted: 0, because all windows"),
        ("distill", ["--set", "t_std=1"], "t_std is 1.0; accepted: 0, because the times are"),
        ("distill", ["--set", "t_mean=1"], "t_mean is 1.0; accepted: 0, because the times are"),
        ("distill", ["--set", "windows=0"], "windows is 0; accepted: "),
        ("distill", ["--set", "windows=64", "--set", "substeps=64"],
         "windows is 64 and substeps is 64; accepted: at most 500 steps of the teacher"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_sentence(
    part: str, extra: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", part, *TINY, "--out", str(out), *extra]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in message
    assert not out.exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_model_that_predicts_velocity_is_refused(part: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    tiny_sd2().save_pretrained(tmp_path / "sd2")
    model = ["--model", str(tmp_path / "sd2"), "--set", "size=32"]
    assert main(["train", part, "--out", str(tmp_path / "run"), *TINY, *model]) == 2
    said = capsys.readouterr().err
    assert f"model is {tmp_path / 'sd2'}, whose U-Net predicts velocity; accepted: one that" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", PARTS)
def test_neither_goes_on_with_another_model(part: str, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    StableDiffusion.storybook(device="cpu").save_pretrained(tmp_path / "model")
    args = [
        "train",
        part,
        *TINY,
        "--model",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*args, "--minutes", "0.0001"]) == 0
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: value * 1.01 for key, value in load_file(file).items()}, file)
    capsys.readouterr()
    assert main([*args, "--resume"]) == 2
    assert "started with another version of its model; restore it" in capsys.readouterr().err


def test_a_dry_run_counts_the_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    for part in PARTS:
        assert main(["train", part, "--recipe", "small", "--dry-run"]) == 0
        assert "11,015,620" in capsys.readouterr().out


def test_few_steps_and_inpainting_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="inpaint and few_steps are both true; only one of them"):
        StableDiffusion.storybook(device="cpu", inpaint=True, few_steps=True)
