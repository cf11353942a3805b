"""The drawing page's own mathematics, in node: tokenizer, noise, samplers, guidance."""

import random
import unicodedata
import warnings
import zlib

import numpy as np
import pytest
import torch

from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.samplers import get_sampler
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook.captions import WORDS, caption, unknown_words
from sdlearn.storybook.scenes import sample_scene
from sdlearn.text import Conditioning, token_ids
from sdlearn.utils.atomic_files import read_json
from sdlearn.utils.resources import data_folder
from sdlearn.utils.sampling import Sampling
from sdlearn.utils.sampling_checks import resolve, sampler_path
from sdlearn.versions import STORYBOOK
from tests.site_parts import run_node

# ------------------------------------------------------------------------------------ tokenizer

HARD = [
    "", " ", "a", "A RED CAT", "a  red\t\ncat ", "it's 2001, don't", "''s", "cat's-tail's",
    "&amp; &lt;b&gt; &#39; &eacute;", "<|endoftext|>", "a <|startoftext|>cat", "<|ENDOFTEXT|> x",
    "<|endoftext|><|endoftext|>", "caf\u00e9 CAFE\u0301", "\u03a3\u03a3 \u039f\u0394\u039f\u03a3",
    "\u0130stanbul I\u0307", "\u1e9e \u00df", "\U0001f408\u200d\u2b1b a cat", "\u0085 a\u0085b",
    "\ufeffa cat", "\u00a0a\u2003b\u3000c", "\u200ba\u200bcat", "a\x00b", "\u212b \u2126",
    "\u00bd \u0664\u0665 \u2167 \u4e00\u4e8c", "\u1112\u1161\u11ab", "e\u0301\u0323\u0301",
    "\U0001d400\U0001d7ce", "\u0e01\u0e33 \u0915\u094d\u0937", "a" * 300, "a red cat " * 60,
    "\u00e9" * 200, "_a_b_c_", "1234567890", "<|startoftext", "\u2028a\u2029b", "\u017f \ufb01",
]  # fmt: skip
# Python, Rust and node have Unicode of different years; all know the characters of version 3.2.
OLD = [chr(c) for c in range(0x3400) if unicodedata.ucd_3_2_0.category(chr(c)) != "Cn"]
ALPHABETS = [
    [chr(c) for c in range(32, 127)],
    OLD,
    OLD[:600],
    [chr(c) for c in (*range(0x300, 0x370), *range(97, 123), 32)],  # combining marks
    [chr(c) for c in (*range(0x1F300, 0x1F650), 0x200D, 0xFE0F, 32, 97)],  # emoji
    ["&", "amp;", "#39;", "<", "|", "startoftext", "endoftext", "|>", "'", "s", " ", "a", "Cat"],
    [" ", "\t", "\u0085", "\u00a0", "\u180e", "\u200b", "\u2028", "\ufeff", "\x1c", "cat", "!"],
]


def strings() -> list[str]:
    """2,000 prompts: hard ones, captions, words of captions in disorder, and random characters."""
    rng = random.Random(0)
    captions = [caption(sample_scene(rng), rng) for _ in range(600)]
    words = sorted(WORDS)
    mixed = [
        rng.choice([" ", ", ", "  "]).join(rng.choices(words, k=rng.randint(1, 90)))
        for _ in range(300)
    ]
    mixed = [text.upper() if k % 3 == 0 else text.title() if k % 3 == 1 else text
             for k, text in enumerate(mixed)]  # fmt: skip
    texts = [*HARD, *captions, *mixed]
    while len(texts) < 2000:
        letters = rng.choice(ALPHABETS)
        texts.append("".join(rng.choices(letters, k=rng.choice([1, 3, 10, 40, 200]))))
    return texts


@pytest.fixture(scope="module")
def tokenizer():
    from sdlearn.weights.tokenizer_files import read_tokenizer

    return read_tokenizer(data_folder("storybook") / "tokenizer")


TOKENIZE = """
import { Tokenizer, unknownWords } from "draw/tokenizer.js";
const tokenizer = new Tokenizer(given.vocabulary, given.merges), known = new Set(given.known);
const tokenize = (text) => ({ ...tokenizer.encode(text), unknown: unknownWords(text, known) });
answer(given.texts.map(tokenize));
"""


@pytest.fixture(scope="module")
def tokenized():
    folder = data_folder("storybook") / "tokenizer"
    given = {
        "vocabulary": read_json(folder / "vocab.json"),
        "merges": (folder / "merges.txt").read_text("utf-8"),
        "known": sorted(WORDS),
        "texts": strings(),
    }
    return list(zip(given["texts"], run_node(TOKENIZE, given), strict=True))


def test_two_thousand_prompts_have_python_s_tokens(tokenized, tokenizer):
    texts = [text for text, _ in tokenized]
    with warnings.catch_warnings(action="ignore"):  # of those that are too long
        expected = token_ids(tokenizer, texts).tolist()
    wrong = [text for (text, found), ids in zip(tokenized, expected, strict=True)
             if found["ids"] != ids]  # fmt: skip
    assert len(texts) == 2000
    assert wrong == []


def test_what_does_not_fit_is_counted(tokenized, tokenizer):
    lengths = [len(tokenizer(text, verbose=False).input_ids) - 2 for text, _ in tokenized]
    assert [found["cut"] for _, found in tokenized] == [max(n - 75, 0) for n in lengths]
    assert [len(found["pieces"]) for _, found in tokenized] == lengths
    assert sum(n > 75 for n in lengths) > 100


def test_pieces_are_readable(tokenized):
    pieces = dict(tokenized)["a  red\t\ncat "]["pieces"]
    assert pieces == ["a</w>", "red</w>", "cat</w>"]
    for text, found in tokenized:
        if text.isascii() and text.isprintable():
            joined = "".join(found["pieces"]).replace("</w>", "")
            assert joined == "".join(text.split()).replace("</w>", "").lower()


def test_unknown_words_are_python_s(tokenized):
    wrong = [text for text, found in tokenized if found["unknown"] != unknown_words(text)]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("null", "The prompt is null; it must be a text."),
        ('"\\ud800 cat"', "The prompt holds half a character; type it again, or leave it out."),
        ('"\\u{1f408}".repeat(100001)', "The prompt has 100001 characters; it must have at most"),
    ],
)
def test_a_prompt_that_cannot_be_read(code, said):
    text = run_node(
        'import { Tokenizer } from "draw/tokenizer.js";'
        f'try {{ new Tokenizer({{}}, "").encode({code}); }}'
        "catch (error) { answer(error.message); }"
    )
    assert text.startswith(said)


def test_the_longest_prompt_that_is_accepted():
    """Counted in characters, as in Python, and not in JavaScript's 16-bit halves."""
    code = (
        'import { Tokenizer } from "draw/tokenizer.js";'
        'answer(new Tokenizer({}, "").encode("\\u{1f408} ".repeat(50000)).cut);'
    )
    assert run_node(code) == 4 * 50_000 - 75


# ---------------------------------------------------------------------------------------- noise

SEEDS = [0, 1, 42, 2**31 - 1, 2**32 - 1, 2**32 + 5, 2**53 + 1, 2**63 - 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_is_torch_s(seed):
    code = 'import { randn } from "draw/noise.js"; answer(Array.from(randn(...given)));'
    found = run_node(code, [2560, str(seed)])  # more than the 624 words of the twister's state
    expected = torch.randn(2560, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_the_twister_is_numpy_s():
    code = (
        'import { mersenneTwister } from "draw/noise.js"; const numbers = mersenneTwister(given);'
        "answer(Array.from({ length: 2000 }, () => numbers.next().value));"
    )
    twister = np.random.RandomState(12345)
    expected = twister.randint(0, 2**32, size=2000, dtype=np.uint32).tolist()
    assert run_node(code, 12345) == expected


@pytest.mark.parametrize(
    "seed", ["-1", "1.5", "9007199254740993", '"12a"', '""', "null", "2n ** 63n"]
)
def test_a_seed_that_is_refused(seed):
    code = f"""import {{ randn }} from "draw/noise.js";
        try {{ answer(Array.from(randn(16, {seed}))); }}
        catch (error) {{ answer(error.message); }}"""
    assert run_node(code).endswith("; it must be a whole number from 0 to 2^63 - 1.")


# ------------------------------------------------------------------------------------- samplers

# The estimate of a model that is no model: it depends on z, t and the noise level.
SAMPLE = """
import { SAMPLERS, alphabars } from "draw/sampling.js";
const { sampler, steps, z, schedule, array } = given;
const { sample, path } = SAMPLERS[sampler];
const points = given.points ?? path(steps, alphabars(schedule));
const denoise = (z, { t, alpha, sigma }) =>
  z.map((each, i) => Math.tanh(alpha * each + 0.1 * i) * (1 + t / 1000) - 0.3 * sigma);
const states = [], start = globalThis[array].from(z);
for await (const { step, point, z, z_0 } of sample(denoise, start, points)) {
  states.push({ step, point, z: Array.from(z), z_0: Array.from(z_0) });
}
answer({ points, states });
"""


def fake(z, point):
    i = torch.arange(z.numel(), dtype=z.dtype).reshape(z.shape)
    estimate = torch.tanh(point.alpha * z + 0.1 * i) * (1 + point.t / 1000)
    return estimate - 0.3 * point.sigma


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 30, 33, 100])
@pytest.mark.parametrize("sampler", ["ddim", "dpm_pp_2m"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
def test_the_samplers_are_python_s(sampler, steps, dtype, tolerance):
    settings = resolve(Sampling(sampler=sampler, steps=steps), STORYBOOK)
    path = sampler_path(settings, STORYBOOK)
    z = torch.randn(16, generator=torch.Generator().manual_seed(steps)).to(getattr(torch, dtype))
    schedule = NoiseSchedule()
    numbers = {n: getattr(schedule, n) for n in ("num_steps", "beta_start", "beta_end")}
    array = f"{dtype.title()}Array"
    given = {"sampler": sampler, "steps": steps, "z": z.tolist(), "schedule": numbers}
    found = run_node(SAMPLE, given | {"array": array})
    states = list(get_sampler(sampler).sample(fake, z, path))[1:]
    assert [point["t"] for point in found["points"]] == [point.t for point in path]
    for ours, theirs in zip(found["points"], path, strict=True):
        assert ours["alpha"] == pytest.approx(float(theirs.alpha), rel=1e-12)
        assert ours["sigma"] == pytest.approx(float(theirs.sigma), rel=1e-10)
    for ours, theirs in zip(found["states"], states, strict=True):
        assert ours["step"] == theirs.step
        assert ours["point"]["t"] == theirs.t
        np.testing.assert_allclose(ours["z"], theirs.z, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(ours["z_0"], theirs.z_0, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sampler", ["ddim", "dpm_pp_2m"])
def test_the_samplers_on_an_uneven_path(sampler):
    """Strides of which no two are equal in lambda, unlike those of the page's own path."""
    path = NoiseSchedule().path(7, sigmas="karras", steps_in="lambda")
    z = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = [{"t": p.t, "alpha": float(p.alpha), "sigma": float(p.sigma)} for p in path]
    given = {"sampler": sampler, "z": z.tolist(), "points": points, "array": "Float64Array"}
    found = run_node(SAMPLE, given)["states"]
    for ours, theirs in zip(found, [*get_sampler(sampler).sample(fake, z, path)][1:], strict=True):
        np.testing.assert_allclose(ours["z"], theirs.z, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [-2.0, 0.0, 0.5, 1.0, 3.0, 7.5])
def test_guidance_is_python_s(scale):
    numbers = torch.Generator().manual_seed(0)
    z, uncond, cond = torch.randn(3, 1, 4, 2, 2, generator=numbers, dtype=torch.float64)
    point = NoiseSchedule().path(5)[1]

    def model(z, t, context):
        """The noise that the context names: 0 for uncond, 1 for cond."""
        return torch.cat([(uncond, cond)[int(row)] for row in context])

    network = classifier_free_guidance(
        model, Conditioning(torch.tensor([1])), Conditioning(torch.tensor([0])), scale
    )
    expected = denoiser(network, "noise")(z, point)
    code = """
    import { cleanEstimate, guided } from "draw/guidance.js";
    const [z, uncond, cond] = given.arrays.map((each) => Float64Array.from(each));
    const { scale } = given, eps = guided(scale === 1 ? null : uncond, cond, scale);
    answer(Array.from(cleanEstimate(z, eps, given.point)));"""
    arrays = [each.flatten().tolist() for each in (z, uncond, cond)]
    levels = {"alpha": float(point.alpha), "sigma": float(point.sigma)}
    found = run_node(code, {"arrays": arrays, "scale": scale, "point": levels})
    np.testing.assert_allclose(found, expected.flatten(), rtol=1e-12, atol=1e-12)


def test_the_checksum_is_zlib_s():
    content = bytes(random.Random(0).randbytes(1000))
    code = 'import { crc32 } from "draw/files.js"; answer(crc32(Uint8Array.from(given)));'
    assert run_node(code, list(content)) == zlib.crc32(content)
