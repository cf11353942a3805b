"""One value for how an image is made: the pipeline, the PNG file, the command line and the
playground all read the fields of `Sampling`, and no field is ever ignored."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, get_args, get_overloads, get_type_hints

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sdlearn import pipeline, samplers, schedule
from sdlearn.cli.generate import asked_for
from sdlearn.cli.main import main, parse
from sdlearn.course.widgets.panel import Panel
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import SAMPLERS, State, get_sampler
from sdlearn.utils import sampling
from sdlearn.utils.noise import seeded_noise
from sdlearn.utils.png_metadata import GenerationSettings, png_bytes, read_png, write_png
from sdlearn.utils.sampling import Sampling, SamplingOptions, knob, knobs
from sdlearn.utils.validation import check_unit_interval
from tests.tiny_model import tiny_diffusers

PROMPT = "a red cat on the sand"
FIELDS = [each.name for each in fields(Sampling)]

# Every field with a value that is no default.
EVERYTHING = Sampling(
    steps=7, guidance_scale=0.1 + 0.2, sampler="dpm_pp_2m", seed=2**62 + 1, height=24, width=40,
    n=3, sigmas="karras", eta=1 / 3, guidance_rescale=1e-7, guidance_interval=(0.1, 700 / 3),
    clip_skip=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd(folder) -> StableDiffusion:
    return StableDiffusion.from_pretrained(folder, device="cpu")


def picture(size: int = 16) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    return Image.fromarray(pixels)


def final(states: Iterator[State]) -> Tensor:
    """The last latent."""
    *_, last = states
    return last.z


def text(widget: widgets.HTML) -> str:
    return re.sub(r"<[^>]*>", "", widget.value)


def load(panel: Panel, content: bytes) -> str:
    """Hand a file to the panel; what it says then."""
    panel.load.value = (
        {"name": "old.png", "type": "image/png", "size": len(content),
         "content": memoryview(content), "last_modified": datetime.now(UTC)},
    )  # fmt: skip
    return text(panel.message)


# ------------------------------------------------------------------------------------ one value


def test_the_keyword_arguments_are_the_fields():
    assert get_type_hints(SamplingOptions) == get_type_hints(Sampling)
    assert list(get_type_hints(SamplingOptions)) == FIELDS
    assert SamplingOptions.__required_keys__ == frozenset()
    assert EVERYTHING.to_options() == vars(EVERYTHING)
    assert Sampling(**EVERYTHING.to_options()) == EVERYTHING
    assert all(getattr(EVERYTHING, name) != getattr(Sampling(), name) for name in FIELDS)


def test_names_that_are_written_out_are_those_of_the_modules_that_define_them():
    known = knobs(Sampling)
    assert re.split(", | or ", known["sampler"].help) == list(SAMPLERS)
    assert known["sigmas"].choices == get_args(schedule.Sigmas)
    assert re.split(", | or ", known["sigmas"].help.split(": ")[1]) == list(known["sigmas"].choices)


@dataclass(frozen=True, kw_only=True)
class WithChurn(Sampling):
    churn: float = knob(0.0, "Churn", "how much to churn", float, check_unit_interval, 0, 1, 0.1)


@pytest.fixture
def one_field_more(monkeypatch):
    """Sampling with a field more, put in place where all look it up."""
    monkeypatch.setattr(sampling, "Sampling", WithChurn)


@pytest.fixture
def requests(monkeypatch):
    """What the pipeline made of its arguments, call after call."""
    made, prepare = [], pipeline.prepare
    monkeypatch.setattr(pipeline, "prepare", lambda *args: made.append(prepare(*args)) or made[-1])
    return made


def ways(sd: StableDiffusion):
    """The four ways to make an image."""
    white = Image.new("L", (16, 16), 255)
    return {
        "trajectory": lambda **o: final(sd.trajectory(PROMPT, **o)),
        "text_to_image": lambda **o: sd.text_to_image(PROMPT, progress=False, **o),
        "image_to_image": lambda **o: sd.image_to_image(PROMPT, picture(), progress=False, **o),
        "inpaint": lambda **o: sd.inpaint(PROMPT, picture(), white, progress=False, **o),
    }


WAYS = ["trajectory", "text_to_image", "image_to_image", "inpaint"]


@pytest.mark.parametrize("way", WAYS)
def test_the_pipeline_follows_a_new_field(sd, way, one_field_more, requests):
    make = ways(sd)[way]
    make(steps=1, churn=0.5)
    make(steps=1)
    assert [request.sampling.churn for request in requests] == [0.5, 0.0]
    with pytest.raises(ValueError, match=r"^churn is 2; it must lie in 0 … 1$"):
        make(steps=1, churn=2)


@pytest.mark.parametrize("way", WAYS)
def test_the_pipeline_refuses_it_without_the_field(sd, way):
    with pytest.raises(TypeError, match="there is no option 'churn'; the options are steps, "):
        ways(sd)[way](steps=1, churn=0.5)


def test_a_png_follows_a_new_field(sd, one_field_more, requests):
    made = GenerationSettings(PROMPT, sampling=sd.resolve(WithChurn(steps=1, churn=0.3)))
    found = read_png(png_bytes(picture(), made))
    assert found == made
    assert type(found.sampling) is WithChurn
    next(found.trajectory(sd))
    assert requests[0].sampling.churn == 0.3
    assert GenerationSettings(PROMPT).sampling.churn == 0.0


def test_the_command_line_follows_a_new_field(folder, one_field_more, tmp_path, capsys):
    assert asked_for(parse(["generate", "x", "--churn", "0.5"])).churn == 0.5
    out = tmp_path / "cat.png"
    command = ["generate", PROMPT, "--model", str(folder), "--steps", "1", "--out", str(out)]
    assert main([*command, "--churn", "2"]) == 2
    assert capsys.readouterr().err == "sdlearn: --churn is 2.0; it must lie in 0 … 1\n"
    assert main([*command, "--churn", "0.25"]) == 0
    assert read_png(out).sampling.churn == 0.25
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert re.search(r"--churn N +how much to churn", capsys.readouterr().out)


def test_the_playground_follows_a_new_field(sd, one_field_more):
    panel = Panel(sd, PROMPT, "A")
    control = panel.controls["churn"]
    assert isinstance(control, widgets.FloatSlider)
    assert (control.description, control.tooltip) == ("Churn", "how much to churn")
    assert (control.min, control.max, control.step, control.value) == (0, 1, 0.1, 0)
    control.value = 0.7
    assert panel.settings().sampling.churn == 0.7
    how = sd.resolve(WithChurn(steps=2, churn=0.4))
    load(panel, png_bytes(picture(), GenerationSettings(PROMPT, sampling=how)))
    assert (control.value, panel.settings().sampling) == (0.4, how)
    shown, waiting = set(), [panel]
    while waiting:
        each = waiting.pop()
        shown.add(each)
        waiting += getattr(each, "children", ())
    assert set(panel.controls.values()) <= shown


# ------------------------------------------------------------------------------- what is stored


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_survives_in_a_png(name):
    """Exactly, and alone, so that none can stand in for another."""
    needed = Sampling(steps=5, guidance_scale=2.0, sampler="ddim")
    how = replace(needed, **{name: getattr(EVERYTHING, name)})
    found = read_png(png_bytes(picture(), GenerationSettings(PROMPT, sampling=how))).sampling
    assert found == how != needed
    kinds = [type(value) for value in vars(found).values()]
    assert kinds == [type(value) for value in vars(how).values()]


def test_all_fields_survive_together(tmp_path):
    made = GenerationSettings(PROMPT, "snow", EVERYTHING, model="tiny")
    write_png(picture(), tmp_path / "cat.png", made)
    assert read_png(tmp_path / "cat.png") == made


@pytest.mark.parametrize("name", ["steps", "guidance_scale", "sampler"])
def test_settings_that_leave_the_model_s_own_open_are_not_stored(name):
    how = replace(EVERYTHING, **{name: None})
    with pytest.raises(ValueError, match=f"{name} is None; an image is stored with the value it"):
        png_bytes(picture(), GenerationSettings(PROMPT, sampling=how))


@pytest.mark.parametrize(
    "options",
    [
        ["--size", "96"],
        ["--height", "48", "--width", "80", "--eta", "0.6", "--negative", "snow"],
        ["--size", "96", "--sampler", "euler", "--sigmas", "karras", "--guidance-rescale", "0.7"],
        ["--sampler", "dpm_pp_2m", "--guidance", "7", "--guidance-interval", "100", "900"],
    ],
    ids=["size", "eta", "karras", "interval"],
)
def test_what_generate_saves_is_made_again_from_the_file(options, tmp_path):
    """With the shipped model, to the byte, in its own size."""
    out = tmp_path / "cat.png"
    command = ["generate", PROMPT, "--steps", "4", "--seed", "3", "--out", str(out)]
    assert main([*command, *options]) == 0
    sd = StableDiffusion.storybook()
    settings = read_png(out)
    (again,) = sd.to_images(final(settings.trajectory(sd)))
    with Image.open(out) as saved:
        size = {"--size": (96, 96), "--height": (80, 48)}.get(options[0], (64, 64))
        assert saved.size == again.size == size
        assert saved.tobytes() == again.tobytes()
    assert (settings.model, settings.num_steps(sd)) == ("storybook", 4)


def test_the_seed_minus_one_of_generate_is_random_printed_and_stored(folder, tmp_path, capsys):
    out, seeds = tmp_path / "cat.png", set()
    command = ["generate", PROMPT, "--model", str(folder), "--steps", "1", "--out", str(out)]
    for _ in range(2):
        assert main([*command, "--seed", "-1"]) == 0
        found = read_png(out)
        err = capsys.readouterr().err
        assert f"sdlearn: the seed is {found.sampling.seed}\n" in err
        seeds.add(found.sampling.seed)
        with Image.open(out) as saved:
            sd = StableDiffusion.from_pretrained(folder, device="cpu")
            assert sd.to_images(final(found.trajectory(sd)))[0].tobytes() == saved.tobytes()
    assert len(seeds) == 2
    assert main([*command, "--seed", "-1", "--n", "2"]) == 0
    first, second = (read_png(tmp_path / f"cat-{k}.png").sampling.seed for k in range(2))
    assert second == first + 1


def test_another_model_is_refused_by_name(sd):
    how = sd.resolve(Sampling(steps=2))
    made = GenerationSettings(PROMPT, sampling=how, model="sd1.5")
    said = f"the image was made with the model 'sd1.5'; this is {sd.spec.name!r}, which draws"
    with pytest.raises(ValueError, match=said):
        made.trajectory(sd)
    for name in (sd.spec.name, ""):  # its own, and one that is not known
        expected = final(sd.trajectory(PROMPT, steps=2))
        assert torch.equal(final(replace(made, model=name).trajectory(sd)), expected)
    panel = Panel(sd, "a blue house", "A")
    assert load(panel, png_bytes(picture(), made)) == (
        f"These are the settings of old.png. But {said} something else. Press Draw."
    ).replace("'", "&#x27;")
    assert (panel.prompt.value, panel.settings().model) == (PROMPT, sd.spec.name)
    own = png_bytes(picture(), replace(made, model=sd.spec.name))
    assert load(panel, own) == "These are the settings of old.png. Press Draw."


# ---------------------------------------------------------------------------- nothing is ignored

STEPS = 4
CHANGES = {
    "steps": 5,
    "guidance_scale": 2.0,
    "sampler": None,  # each of the others
    "seed": 1,
    "height": 24,
    "width": 24,
    "n": 2,
    "sigmas": "karras",
    "eta": 0.5,
    "guidance_rescale": 0.7,
    "guidance_interval": (300, 800),
    "clip_skip": 1,
}
REFUSED = {(name, "eta") for name in SAMPLERS if name != "ddim"}
REFUSED |= {(name, "sigmas") for name in ("ddim", "ddpm", "plms")}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_field_changes_the_image_or_is_refused(sd, sampler, name):
    assert CHANGES.keys() == set(FIELDS)
    options = {"steps": STEPS, "sampler": sampler}
    before = final(sd.trajectory(PROMPT, **options))
    values = [CHANGES[name]]
    if name == "sampler":
        values = [each for each in SAMPLERS if each != sampler]
    for value in values:
        changed = options | {name: value}
        if (sampler, name) in REFUSED:
            with pytest.raises(ValueError, match=f"^{name} is {value!r}; "):
                sd.trajectory(PROMPT, **changed)
            continue
        after = final(sd.trajectory(PROMPT, **changed))
        changes = after.shape != before.shape or bool((after - before).norm() > 1e-3)
        # These two are the same sampler on the same path.
        assert changes == ({sampler, value} != {"ddpm", "euler_ancestral"})


def test_sigmas_uniform_in_lambda_are_dpm_solver_s_alone(sd):
    for sampler in SAMPLERS:
        options = {"steps": STEPS, "sampler": sampler}
        if sampler == "dpm_pp_2m":
            before = final(sd.trajectory(PROMPT, **options))
            after = final(sd.trajectory(PROMPT, sigmas="uniform_lambda", **options))
            assert (after - before).norm() > 1e-3
            continue
        kind = get_sampler(sampler).steps_in
        said = f"^sigmas is 'uniform_lambda'; a sampler that steps in {kind} has 'table'"
        with pytest.raises(ValueError, match=said):
            sd.trajectory(PROMPT, sigmas="uniform_lambda", **options)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_eta_is_that_of_ddim(sd, eta):
    """State by state what the sampler itself gives, from the same start and noise."""
    draw = seeded_noise(5, (1, 4, 8, 8), sd.unet.conv_in.weight)
    with torch.inference_mode():
        cond, uncond = sd.text.pair([PROMPT], [""], 7.5)
        denoise = denoiser(classifier_free_guidance(sd.unet, cond, uncond, 7.5), "noise")
        expected = list(samplers.ddim(denoise, draw(), sd.path(STEPS), eta=eta, noise=draw))
    found = list(sd.trajectory(PROMPT, steps=STEPS, seed=5, eta=eta))
    assert sd.spec.sampler == "ddim"
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.z, theirs.z)
        assert torch.equal(ours.z_0, theirs.z_0)
    plain = list(sd.trajectory(PROMPT, steps=STEPS, seed=5))
    assert torch.equal(found[-1].z, plain[-1].z) == (eta == 0)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddim"])
@pytest.mark.parametrize("way", WAYS)
def test_eta_is_refused_by_name_elsewhere(sd, sampler, way):
    said = f"^eta is 0.5; the sampler {sampler} has no eta, ddim has$"
    with pytest.raises(ValueError, match=said):
        ways(sd)[way](steps=2, sampler=sampler, eta=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"n": None}, "n is None; it must be a whole number"),
        ({"n": 1.5}, "n is 1.5; it must be a whole number"),
        ({"eta": None}, "eta is None; it must be a finite number"),
        ({"eta": 1.5}, "eta is 1.5; it must lie in 0 … 1"),
        ({"guidance_rescale": None}, "guidance_rescale is None; it must be a finite number"),
        ({"guidance_interval": (3, 2)}, r"guidance_interval is \(3, 2\); it must be \(lo, hi\)"),
        ({"guidance_interval": (1, 2, 3)}, r"guidance_interval is \(1, 2, 3\); it must be two"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"steps": "9"}, "steps is '9'; it must be a whole number"),
        ({"sampler": 3}, "sampler is 3; it must be a string"),
        ({"sigmas": "lu"}, "sigmas is 'lu'; it must be one of table, karras, uniform_lambda"),
        ({"height": "big"}, "height is 'big'; it must be a whole number"),
    ],
)
def test_what_a_field_cannot_be(sd, options, said):
    for refused in (lambda: Sampling(**options), lambda: sd.trajectory(PROMPT, **options)):
        with pytest.raises(ValueError, match=f"^{said}"):
            refused()


# ------------------------------------------------------------------------------- the signatures


@pytest.mark.parametrize("way", WAYS)
def test_everything_after_prompt_image_and_mask_is_by_keyword(way):
    _, *parameters = inspect.signature(getattr(StableDiffusion, way)).parameters.values()
    kinds = {each.name: each.kind for each in parameters}
    assert kinds.pop("prompt") is inspect.Parameter.POSITIONAL_OR_KEYWORD
    images = {"image_to_image": ["image"], "inpaint": ["image", "mask"]}.get(way, [])
    for name in images:
        assert kinds.pop(name) is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert kinds.pop("options") is inspect.Parameter.VAR_KEYWORD
    assert kinds
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


def test_no_public_method_returns_just_anything():
    found = {}
    for name, each in vars(StableDiffusion).items():
        function = each.fget if isinstance(each, property) else getattr(each, "__func__", each)
        if not name.startswith("_") and callable(function):
            found[name] = get_type_hints(inspect.unwrap(function))["return"]
    assert found.keys() >= {*WAYS, "from_pretrained", "to_images", "path", "schedule"}
    assert Any not in found.values()
    assert found["trajectory"] == Iterator[State]
    assert found["to_images"] == list[Image.Image]


@pytest.mark.parametrize("way", ["text_to_image", "image_to_image", "inpaint"])
def test_the_output_decides_what_is_returned(sd, way):
    function = getattr(StableDiffusion, way)
    hints = [get_type_hints(each) for each in get_overloads(function)]
    returned = {get_args(each["output"]): each["return"] for each in hints}
    assert returned == {("image",): list[Image.Image], ("latent",): Tensor}
    assert all(each["output"] == Literal[get_args(each["output"])] for each in hints)
    names = list(inspect.signature(function).parameters)
    signatures = [inspect.signature(each).parameters for each in get_overloads(function)]
    assert [list(each) for each in signatures] == [names, names]
    assert [each["output"].default for each in signatures] == [..., inspect.Parameter.empty]
    make = ways(sd)[way]
    assert isinstance(make(steps=1)[0], Image.Image)
    assert isinstance(make(steps=1, output="latent"), Tensor)


def test_an_unknown_option_is_named_with_the_known_ones(sd):
    known = [*FIELDS, "negative_prompt", "noise", "control", "control_scale", "sizes"]
    said = f"there is no option 'stepz'; the options are {', '.join(known)}"
    for make in ways(sd).values():
        with pytest.raises(TypeError) as caught:
            make(stepz=3)
        assert str(caught.value) == said


@pytest.mark.parametrize(
    ("way", "option"),
    [
        ("text_to_image", {"image": picture()}),
        ("text_to_image", {"mask": picture()}),
        ("text_to_image", {"strength": 0.5}),
        ("image_to_image", {"mask": picture()}),
        ("trajectory", {"progress": False}),
        ("trajectory", {"output": "image"}),
    ],
)
def test_an_option_of_another_method_is_unknown_too(sd, way, option):
    (name,) = option
    with pytest.raises(TypeError, match=f"there is no option {name!r}; the options are steps, "):
        ways(sd)[way](steps=1, **option)


def test_a_network_of_a_learner_s_own_class_is_accepted(sd):
    """Notebooks build classes with the same names as ours, and put them in their place."""

    class UNet(torch.nn.Module):
        config, conv_in = sd.unet.config, sd.unet.conv_in

        def forward(self, *inputs):
            return sd.unet(*inputs)

    options = {"steps": 1, "output": "latent", "progress": False}
    own = StableDiffusion(UNet(), sd.vae, sd.text, sd.spec).text_to_image("a red cat", **options)
    assert torch.equal(own, sd.text_to_image("a red cat", **options))


def test_an_image_of_a_batch_replays_to_rounding_and_one_drawn_alone_to_the_byte(sd):
    how = sd.resolve(Sampling(steps=4, seed=5, n=3, sampler="ddpm"))
    together = sd.text_to_image("a cat", progress=False, **how.to_options())
    for k, image in enumerate(together):
        settings = GenerationSettings("a cat", sampling=replace(how, seed=5 + k, n=1))
        read = read_png(png_bytes(image, settings))
        (alone,) = sd.to_images(final(read.trajectory(sd)))
        assert np.abs(np.asarray(alone, int) - np.asarray(image, int)).max() <= 1
        (again,) = sd.to_images(final(read.trajectory(sd)))
        assert again.tobytes() == alone.tobytes()
