"""The checker's engine over all exercises: what passes, what is refused, what is said.

Every answer here is one that no exercise was written for, or one whose mistake must be called by
its name.
"""

import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from sdlearn.course import check, hint
from sdlearn.course.exercises import exercises, files, find
from sdlearn.course.grading.clues import PROBES
from sdlearn.course.grading.compare import told_apart
from sdlearn.course.grading.exercise import Case, Exercise, Refused, normal
from sdlearn.course.grading.judge import judge
from sdlearn.course.grading.mutation import Watch
from sdlearn.course.grading.sandbox import Failure, results
from sdlearn.course.grading.trials import Trial
from sdlearn.schedule import Point

ALL = {e.number: e for notebook in files() for e in exercises(notebook)}


def right(number):
    return ALL[number].solution


def said(number, answer):
    verdict = check(number, answer)
    assert verdict.status == "not yet", verdict.text
    return verdict.text


# ---------------------------------------------------------------- inputs that code must leave alone


def popping(ids, length, start, end, pad):
    row = right("05.6")(ids, length, start, end, pad)
    ids.append(end)
    return row


def sorting(prompts, negative, n):
    texts = right("11.1")(prompts, negative, n)
    prompts.sort()
    return texts


def emptying(word, merges):
    pieces = right("05.5")(word, merges)
    merges.clear()
    return pieces


def turned_down(m, z, t, empty, prompts, scales):
    result = right("10.2")(m, z, t, empty, prompts, scales)
    scales[0] = 0.0
    return result


def dimmed_point(z, eps, here, there, fresh):
    result = right("09.2")(z, eps, here, there, fresh)
    here.alpha.mul_(0.5)
    return result


def scaled_and_back(q, k, v):
    """No number is changed in the end, but `q` was written to."""
    result = right("04.1")(q.mul_(2), k, v / 2) * 0
    q.mul_(0.5)
    return right("04.1")(q.clone(), k, v) + result


CHANGED = {
    "05.6": (popping, "`ids`, a list,"),
    "11.1": (sorting, "`prompts`, a list,"),
    "05.5": (emptying, "`merges`, a list,"),
    "10.2": (turned_down, "`scales`, a list,"),
    "09.2": (dimmed_point, "`here.alpha`"),
    "04.1": (scaled_and_back, "`q`"),
}


@pytest.mark.parametrize("number", CHANGED)
def test_whatever_the_inputs_reach_must_stay_as_it_was(number):
    answer, named = CHANGED[number]
    text = said(number, answer)
    assert f"your code changes its input {named} in place" in text
    assert "detach" not in text


def test_a_change_in_place_of_a_wrong_answer_is_said_too():
    text = said("04.1", lambda q, k, v: right("04.1")(q.mul_(2), k, v))
    assert "also changes its input `q` in place" in text


def test_the_watch_reaches_into_everything():
    point = Point(1.0, torch.ones(()), torch.ones(()))
    linear, table = torch.nn.Linear(2, 2), {"a": [torch.zeros(2)], "b": (1, [2])}
    for name, change in (
        ("`path[0].sigma`", lambda: point.sigma.add_(1)),
        ("`net.weight`", lambda: torch.nn.init.zeros_(linear.weight)),
        ("`table['a'][0]`", lambda: table["a"][0].add_(1)),
        ("`table['b'][1]`, a list,", lambda: table["b"][1].append(3)),
        ("`table`, a dictionary,", lambda: table.pop("a")),
        ("`table`, a dictionary,", lambda: table.update(b=0)),
    ):
        watch = Watch(["path", "net", "table"], [[point], linear, table])
        assert watch.changed() == ""
        change()
        assert watch.changed() == name


# ----------------------------------------------------------------------------- memory between calls


@pytest.mark.parametrize("number", ["04.1", "01.4", "02.7", "07.2", "10.4"])
def test_a_memory_that_knows_only_the_shapes_does_not_pass(number):
    known = {}

    def answer(*inputs):
        key = str([getattr(x, "shape", x) for x in inputs])
        if key not in known:
            known[key] = right(number)(*inputs)
        return known[key]

    takes = ", ".join(right(number).__code__.co_varnames[: right(number).__code__.co_argcount])
    names = {"answer": answer}
    exec(f"def again({takes}):\n    return answer({takes})", names)
    assert "keeps something from one call to the next" in said(number, names["again"])


def test_a_memory_of_values_passes():
    known = {}

    def answer(channel, dim):
        if (channel, dim) not in known:
            known[channel, dim] = right("03.3")(channel, dim)
        return known[channel, dim]

    assert check("03.3", answer).status == "right"


def test_one_place_at_a_time_is_no_byte_pair_encoding():
    def answer(word, merges):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while True:
            pairs = list(pairwise(pieces))
            ranks = [(merges.index(p), i) for i, p in enumerate(pairs) if p in merges]
            if not ranks:
                return pieces
            i = min(ranks)[1]
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]

    verdict = check("05.5", answer)
    assert verdict.mistake == "one place at a time"


# --------------------------------------------------------------------- right ones that were refused


def in_float64(without, given, t, alphabar, interval, scale):
    a = alphabar.double()[t]
    level = (1 - a).sqrt() / a.sqrt()
    inside = (interval[0] <= level) & (level <= interval[1])
    return torch.where(inside[:, None, None, None], without + scale * (given - without), given)


def by_where(without, given, t, alphabar, interval, scale):
    level = ((1 - alphabar[t]) / alphabar[t]).sqrt()
    inside = (interval[0] <= level) & (level <= interval[1])
    return without + torch.where(inside, scale, 1.0).view(-1, 1, 1, 1) * (given - without)


def by_logarithms(without, given, t, alphabar, interval, scale):
    level = (-0.5 * torch.logit(alphabar[t])).exp().tolist()
    low, high = interval
    rows = zip(without, given, level, strict=True)
    return torch.stack([w + scale * (g - w) if low <= x <= high else g for w, g, x in rows])


def around_the_middle(without, given, t, alphabar, interval, scale):
    level = (1 / alphabar[t] - 1).sqrt()
    low, high = interval
    inside = (level - (low + high) / 2).abs() <= (high - low) / 2
    return torch.where(inside[:, None, None, None], torch.lerp(without, given, scale), given)


def in_numpy(without, given, t, alphabar, interval, scale):
    a = alphabar.numpy().astype("float64")[t.numpy()]
    low, high = interval
    inside = torch.from_numpy((low**2 <= (1 - a) / a) & ((1 - a) / a <= high**2))
    return torch.where(inside[:, None, None, None], without + scale * (given - without), given)


class DrawsMore(ALL["04.4"].solution):
    """Draws random numbers before its layers are made, which must not change their weights."""

    def __init__(self, dim, heads, context_dim):
        torch.randn(5)
        super().__init__(dim, heads, context_dim)
        torch.randn(5)


RIGHT = {
    "10.6": [in_float64, by_where, by_logarithms, around_the_middle, in_numpy],
    "04.4": [DrawsMore],
    "05.6": [
        lambda ids, length, start, end, pad: [
            [start, *part, end] + [pad] * (length - 2 - len(part))
            for k in range(0, max(len(ids), 1), length - 2)
            for part in [ids[k : k + length - 2]]
        ]
    ],
}


@pytest.mark.parametrize(
    ("number", "answer"),
    [(number, answer) for number, answers in RIGHT.items() for answer in answers],
)
def test_right_answers_in_other_styles_pass(number, answer):
    verdict = check(number, answer)
    assert verdict.status == "right", verdict.text


def test_the_solution_of_the_interval_does_not_round_its_scale():
    drawn = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    table = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    found = right("10.6")(*drawn, torch.arange(3), table, (0.0, 99.0), 7.3)
    assert torch.allclose(found, drawn[0] + 7.3 * (drawn[1] - drawn[0]), rtol=1e-14, atol=0)


# ---------------------------------------------------------------------------- sentences that misled


def test_a_backward_pass_that_stops_is_a_sentence():
    def answer(q, k, v):
        scores = torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5
        weights = scores.exp()
        weights /= weights.sum(-1, keepdim=True)
        return torch.einsum("bm,bme->be", weights, v)

    def answer_of_small_scores(x, y):
        weights = x.exp()
        weights /= weights.sum(-1, keepdim=True)
        return weights * y

    assert said("04.1", answer)
    toy = Exercise(
        number="00.1",
        title="A toy",
        minutes=5,
        difficulty=1,
        statement="",
        hints=("", "", ""),
        solution=lambda x, y: x.softmax(-1) * y,
        cases=lambda rng: iter([Case((normal(rng, b, 4), normal(rng, b, 4))) for b in (2, 1, 4)]),
        mistakes=(),
    )
    sentence = judge(toy, answer_of_small_scores).sentence
    assert "changes a tensor in place" in sentence
    assert "whose old values the backward pass needs" in sentence
    assert "detach" not in sentence


def test_a_lost_gradient_is_named_with_its_input():
    text = said("02.2", lambda m, v, e: m.detach() + torch.exp(v / 2) * e)
    assert "No gradient reaches `mean`." in text


def test_wrong_levels_are_not_said_to_ignore_the_interval():
    def answer(level):
        def guide(without, given, t, alphabar, interval, scale):
            seen = level(alphabar[t], t)
            inside = (interval[0] <= seen) & (seen <= interval[1])
            return torch.where(
                inside[:, None, None, None], without + scale * (given - without), given
            )

        return guide

    for level in (lambda a, t: 1000.0 + t, lambda a, t: t / 1e9, lambda a, t: 0.9 + 0 * a):
        text = said("10.6", answer(level))
        assert "does not depend on" not in text
        assert "has no effect" not in text


def test_scales_below_one_are_told_apart():
    def answer(free):
        def steps(sampler, evaluations, scale):
            return right("09.3")(sampler, evaluations if free(scale) else evaluations // 2, 1)

        return steps

    assert check("09.3", answer(lambda s: s <= 1)).mistake == "guidance above one only"
    assert check("09.3", answer(lambda s: s in (0, 1))).mistake == "off at zero, too"
    assert "up to 1" not in said("09.3", answer(lambda s: s in (0, 1)))


def test_two_numbers_that_differ_are_shown_to_differ():
    text = said("08.7", lambda n, d: torch.tensor(right("08.7")(n, d)).tolist())
    shown, expected = re.search(r"Entry 0 of the result is (\S+), and (\S+) is", text).groups()
    assert shown != expected
    assert "as if computed in float32" in text
    for a, b in ((0.1, 0.1 + 1e-8), (1.0, 1.0 + 1e-15), (3.0, 3.5), (1e-9, 1e-9 + 1e-18)):
        shown, expected = told_apart(a, b, 4)
        assert shown != expected


def test_a_small_number_that_was_added_is_named():
    def answer(a, b, w):
        first, second = a.flatten(1), b.flatten(1)
        cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
        angle = cosine.clamp(-1, 1).acos()[:, None, None, None]
        arc = (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / (angle.sin() + 1e-8)
        return torch.where(angle == 0, (1 - w) * a + w * b, arc)

    text = said("01.7", answer)
    assert "everywhere it is too small, by a relative 1e-08: something small was added" in text
    assert "Your code holds the small number `1e-08`" in text
    assert "float32" not in text


# ----------------------------------------------------------- mistakes that are called by their name


def angle_of_all(a, b, weight):
    theta = (a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1).acos()
    return (((1 - weight) * theta).sin() * a + (weight * theta).sin() * b) / theta.sin()


def mean_angle(a, b, weight):
    u, v = (F.normalize(x.flatten(1), dim=1) for x in (a, b))
    theta = (u * v).sum(1).clamp(-1, 1).acos().mean()
    return (((1 - weight) * theta).sin() * a + (weight * theta).sin() * b) / theta.sin()


def log_sigma(mean, logvar, mean_p, logvar_p):
    s, p = logvar.exp(), logvar_p.exp()
    terms = (p / s).log() + (s**2 + (mean - mean_p) ** 2) / (2 * p**2) - 0.5
    return terms.sum((1, 2, 3))


def all_choose(images, texts, temperature):
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = images @ texts.T / temperature
    b, m = logits.shape
    own = torch.arange(m).clamp(max=b - 1)
    return (F.cross_entropy(logits, own[:b]) + F.cross_entropy(logits.T, own)) / 2


def no_conv_in(widths, layers):
    return [*right("06.2")(widths, layers)[:-1], widths[0]]


def without_norms(c_below, c, skips, time_dim, top):
    widths = [c_below + skips[0], *(c + skip for skip in skips[1:])]
    return right("06.4")(c_below, c, skips, time_dim, top) - sum(2 * (x + c) for x in widths)


def half_of_the_norms(c_below, c, skips, time_dim, top):
    return right("06.4")(c_below, c, skips, time_dim, top) - 2 * c * len(skips)


def upside_down(decibels, table):
    ratio = (1 - table) / table
    return int((10 * ratio.log10() >= decibels).sum()) - 1


def never_cooling(step, steps, peak, warmup, cooldown):
    return peak if step >= warmup else peak * (step + 1) / warmup


def plus_v(z_t, answer, abar, predicts):
    z_0, eps, _ = right("08.4")(z_t, answer, abar, predicts)
    alpha, sigma = (x.sqrt().view(-1, 1, 1, 1) for x in (abar, 1 - abar))
    return z_0, eps, alpha * eps + sigma * z_0


def rounding_up(sampler, evaluations, scale):
    calls = evaluations if scale == 1 else -(-evaluations // 2)
    return right("09.3")(sampler, calls, 1)


def renoised(z, eps, here, there, fresh):
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * fresh


def unweighted(m, v, m_c, v_c, s):
    precision = s / v_c + (1 - s) / v
    return (s * m_c + (1 - s) * m) / precision, 1 / precision


def tiled(prompts, negative, n):
    texts = negative if isinstance(negative, list) else [negative or ""] * len(prompts)
    return [text for text in texts for _ in range(n)] + prompts * n


def counting_points(z_0, eps, path, strength):
    n = len(path)
    left = int(n * strength)
    alpha, sigma = path[n - left][1:]
    return alpha * z_0 + sigma * eps, left


def windows(i, levels, width, step):
    first = last = i
    for _ in range(levels):
        first, last = step(first, last)
    return first, min(last, width - 1)


NAMED = [
    ("01.7", angle_of_all, "one angle, and no guard"),
    ("02.7", log_sigma, "logvar taken for log sigma"),
    ("02.8", lambda mean, logvar: 1 / mean.std(), "the variance of the means only"),
    ("02.9", lambda i, levels, w: (i, min(i + 2 * levels, w - 1)), "no stride"),
    (
        "02.9",
        lambda i, levels, w: windows(i, levels, w, lambda a, b: (2 * a, 2 * b + 3)),
        "four wide",
    ),
    (
        "02.9",
        lambda i, levels, w: windows(i, levels, w, lambda a, b: (3 * a, 3 * b + 2)),
        "windows side by side",
    ),
    (
        "02.9",
        lambda i, levels, w: windows(i, levels, w, lambda a, b: (2 * a, 2 * (b + 1))),
        None,  # this is right
    ),
    (
        "02.9",
        lambda i, levels, w: (2**levels * i, min(2**levels * i + 3**levels - 1, w - 1)),
        "three times three",
    ),
    ("02.9", lambda i, levels, w: windows(i, 1, w, lambda a, b: (2 * a, 2 * b + 2)), "one level"),
    ("05.8", all_choose, "additional captions choose the last picture"),
    ("06.2", no_conv_in, "the skip of conv_in counted as nothing"),
    ("06.4", without_norms, "no norms"),
    ("06.4", half_of_the_norms, "the first norm alone"),
    ("07.3", upside_down, "noise over signal, counted"),
    ("08.3", never_cooling, "no cool-down"),
    ("08.4", plus_v, "plus for minus in v"),
    ("09.3", rounding_up, "halved and rounded up"),
    ("09.2", renoised, "predict and renoise"),
    ("10.5", unweighted, "means not weighted"),
    ("11.1", tiled, "only the negatives side by side"),
    ("12.1", counting_points, "len(path) for the number of steps"),
]


@pytest.mark.parametrize(("number", "answer", "name"), NAMED)
def test_a_likely_mistake_is_called_by_its_name(number, answer, name):
    assert check(number, answer).mistake == name


# ---------------------------------------------------------------------- hints that need no exercise


def shared_mean(q, k, v):
    scores = torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bm,bme->be", (scores - scores.mean(0)).softmax(-1), v)


def of_the_wrong_shapes(q, k, v):
    return q.softmax(-1) * v


def taking_too_many(widths, layers):
    skips = list(widths)
    return [skips.pop() for _ in range(9)]


def first_for_all(a, b, weight):
    return right("01.7")(a, b, weight)[:1] + 0 * a


class TwiceTheLast(ALL["04.4"].solution):
    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + 2 * self.ff(self.norm3(x))


HINTS = [
    ("07.6", lambda z, e, s, t, a: right("07.6")(z, e, s, t - 1, a), "given `t` - 1 for `t`"),
    ("09.2", lambda z, e, h, t, f: right("09.2")(z, f, h, t, e), "`eps` and `fresh` are exchanged"),
    (
        "10.4",
        lambda z, o, c, a, s, phi: right("10.4")(z, o, c, a, s, phi**2),
        "it is given the square of `phi` for `phi`",
    ),
    (
        "07.2",
        lambda z, e, t, a: right("07.2")(z, e, t, a) - e,
        "The factor of `z_0` is right.",
    ),
    (
        "07.2",
        lambda z, e, t, a: right("07.2")(z, 3 * e, t, a),
        "The factor of `eps` is 3 times the right one",
    ),
    ("12.5", lambda s, m: 1 - right("12.5")(s, m), "Everywhere your result is 1 minus what is"),
    ("04.6", lambda h, w, c, heads: right("04.6")(h, w, c, heads) + 4 * h * w * c, "too much"),
    (
        "01.1",
        lambda h, w, f, channels, bits: tuple(
            x * s for x, s in zip(right("01.1")(h, w, f, channels, bits), (1, 1, bits), strict=True)
        ),
        "entry 2 of your result is `bits` times what is expected",
    ),
    ("04.1", shared_mean, "changes with the other examples of its batch"),
    ("04.4", TwiceTheLast, "when twice the output of `ff` is used"),
    ("01.4", lambda x, high, p: right("01.4")(x, high, p).flip(3), "along axis 3 the order is rev"),
    ("04.2", lambda x, heads: right("04.2")(x, heads)[:, :, :-1], "the last 1 are missing"),
    ("04.1", lambda q, k, v: right("04.1")(q, k, v)[:, None], "only the shape is not"),
    ("02.3", lambda pages, chances: right("02.3")(pages, chances)[0], "It is entry 0 alone"),
    ("01.7", mean_angle, "You average the angles of the batch"),
    ("01.7", first_for_all, "Only the first example of the batch is right"),
    ("05.5", lambda word, merges: [*word, "</w>"][::-1], "Put together, your pieces are"),
    ("03.3", lambda channel, dim: 6.28, "your code never uses"),
    ("05.7", of_the_wrong_shapes, "Two shapes do not fit"),
    ("06.2", taking_too_many, "More is taken from a list than was put into it."),
    (
        "10.2",
        lambda m, z, t, e, p, s: right("10.2")(m, z[:1].expand_as(z), t, e, p, s),
        "the first example of `z` for all",
    ),
]


@pytest.mark.parametrize(("number", "answer", "words"), HINTS)
def test_a_wrong_answer_that_nobody_foresaw_gets_a_hint(number, answer, words):
    verdict = check(number, answer)
    assert (verdict.status, verdict.mistake) == ("not yet", None), verdict.text
    assert words in verdict.text


def test_right_on_some_inputs_says_on_which():
    text = said("08.4", lambda z, x, a, p: right("08.4")(z, x, a if p == "noise" else a**2, p))
    assert "right only where `predicts` is 'noise'" in text
    text = said("01.6", lambda h, w, c, f: right("01.6")(h, h, c, f) + 0 * w)
    assert "only where `h` and `w` are equal" in text


@pytest.mark.parametrize("number", [n for n, each in ALL.items() if each.kind != "value"])
def test_no_probe_stumbles_over_a_mistake(number):
    """The clues leave out a probe that fails; here it would be seen."""
    exercise = ALL[number]
    expected = results(exercise, exercise.solution)
    for mistake in exercise.mistakes[:2]:
        mine = results(exercise, mistake.answer)
        wrong = [not isinstance(x, Failure) for x in mine]
        if any(wrong):
            trial = Trial(
                exercise, mistake.answer, mine, expected, wrong, [mine] * len(exercise.mistakes)
            )
            for probe in PROBES:
                assert isinstance(probe(trial), str)


# ----------------------------------------------------------------------------- numbers of exercises


def test_a_number_without_an_answer_asks_for_one():
    verdict = check("04.2")
    assert verdict.status == "not attempted"
    assert (
        'Give your function as the second argument: `check("04.2", split_heads)`.' in verdict.text
    )
    with pytest.raises(Refused, match="as the second argument"):
        check.grade("04.2")
    assert "Give your class" in check("04.4").text


@pytest.mark.parametrize("number", ["4.2", "0402", 4.2, "04.2 ", " 04.2", "04-2", "042", "04.02"])
def test_a_number_in_another_form_is_answered_with_the_one_that_is_meant(number):
    for call in (check, lambda number, _: hint(number)):
        with pytest.raises(Refused, match=r'there are: 04\.1, .* Did you mean "04\.2"\?'):
            call(number, right("04.2"))


def test_the_function_first_is_told_that_the_number_comes_first():
    with pytest.raises(Refused, match="The number comes first"):
        check(right("04.2"), "04.2")


def test_a_notebook_without_exercises_is_said_to_have_none_yet():
    with pytest.raises(Refused, match="notebook 98 has none yet"):
        check("98.1", right("04.2"))
    with pytest.raises(Refused, match=r"there are: 04\.1, .*, 04\.9\.$"):
        find("04.0")


def test_an_answer_that_draws_random_numbers_is_told_so():
    """Not that it mixes the examples of a batch, although its results differ for each alone."""

    def sample_posterior(mean, logvar, noise):
        return torch.normal(mean.expand_as(noise), (0.5 * logvar).exp().expand_as(noise))

    verdict = str(check("02.2", sample_posterior))
    assert "Your code draws random numbers of its own" in verdict
    assert "batch" not in verdict


NOT_FINITE = {
    "05.7": lambda q, k, v: right("05.7")(q, k, v) + torch.tensor(float("-inf")) * 0,
    # The logarithm of a negative number is nan, whichever argument it is of.
    "02.8": lambda mean, logvar: (mean.log() + logvar.log()).sum(),
}


@pytest.mark.parametrize("number", NOT_FINITE)
def test_results_without_a_number_are_not_said_to_be_those_of_other_inputs(number):
    text = said(number, NOT_FINITE[number])
    assert "not finite" in text
    assert "Right code gives" not in text
