"""Exercises and quiz of notebook 11, text to image."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal
from sdlearn.schedule import NoiseSchedule, Point

# ------------------------------------------------------------------------------ 11.1 what to encode


def texts_for(prompts: list[str], negative: str | list[str] | None, n: int) -> list[str]:
    """What to encode for n pictures of each prompt: first what to lead away from, then prompts."""
    if negative is None or isinstance(negative, str):
        negative = [negative or ""] * len(prompts)
    return [text for row in (negative, prompts) for text in row for _ in range(n)]


def each(rows: Any, n: int) -> list[str]:
    return [row for row in rows for _ in range(n)]


def one_for_each(prompts: list[str], negative: str | list[str] | None) -> list[str]:
    if negative is None or isinstance(negative, str):
        return [negative or ""] * len(prompts)
    return negative


def texts_cases(rng: Generator) -> Iterator[Case]:
    cat, house, fish = "a red cat", "a blue house", "a pink fish"
    yield Case(([cat, house], None, 2))
    yield Case(([cat, house, fish], "at night", 2))
    yield Case(([cat, house], ["a house", "a cat"], 3))
    yield Case(([fish], ["rain"], 1))
    yield Case(([cat, cat, fish], ["night", "day", "night"], 2))
    yield Case(([house], "", 4))


TEXTS = Exercise(
    number="11.1",
    title="What to encode",
    minutes=8,
    difficulty=1,
    statement="Guidance asks the network about every picture twice, and both halves go through it "
    "as one batch. Make the list of texts for that batch, for `n` pictures of each prompt. First "
    "come the texts to lead away from, one for each picture, then the prompts, one for each "
    "picture, in the same order. The `n` pictures of one prompt stand side by side. `negative` is "
    "one text for all, or a list with one text for each prompt, or `None`, for which the empty "
    "text is used.",
    hints=(
        "First bring `negative` into one form: a list as long as `prompts`. What stands in it when "
        "it is `None`, and what when it is a single text?",
        "Then repeat every entry `n` times *in its place*: a, a, b, b and not a, b, a, b.",
        "`[text for text in prompts for _ in range(n)]` does that. The same for the negative ones, "
        "and they come first: `chunk(2)` of section 3 takes the first half for the one without.",
    ),
    solution=texts_for,
    cases=texts_cases,
    trained=False,
    mistakes=(
        Mistake(
            "prompts first",
            lambda p, negative, n: each(p, n) + each(one_for_each(p, negative), n),
            "Your halves are exchanged: the prompts come first. Guidance then starts from the "
            "prompt and goes away from it. You would notice pictures of everything but what you "
            "asked for, and the more so the larger the scale.",
        ),
        Mistake(
            "over and over",
            lambda p, negative, n: one_for_each(p, negative) * n + p * n,
            "You repeat the whole list: a, b, a, b. The pictures of one prompt shall stand side by "
            "side: a, a, b, b. With `* n` picture 1 shows the second prompt, and whoever reads the "
            "list of results in the promised order sees pictures with the wrong captions.",
        ),
        Mistake(
            "only the prompts side by side",
            lambda p, negative, n: one_for_each(p, negative) * n + each(p, n),
            "Your prompts stand side by side, a, a, b, b, but your negative texts go round, x, y, "
            "x, y. So some pictures are led away from what was meant for another. You would notice "
            "nothing as long as there is one negative text for all.",
        ),
        Mistake(
            "only the negatives side by side",
            lambda p, negative, n: each(one_for_each(p, negative), n) + p * n,
            "Your negative texts are side by side, x, x, y, y, but your prompts go round, a, b, "
            "a, b. So pictures are led away from what was meant for another prompt. Repeat every "
            "entry in its place, as `torch.repeat_interleave` does; `* n` and `tile` repeat the "
            "whole list.",
        ),
        Mistake(
            "over and over, prompts first",
            lambda p, negative, n: p * n + one_for_each(p, negative) * n,
            "Your halves are exchanged, and each repeats its whole list, a, b, a, b. The texts to "
            "lead away from come first, and the pictures of one prompt are side by side: a, a, b, "
            "b.",
        ),
        Mistake(
            "one negative for each prompt",
            lambda p, negative, n: one_for_each(p, negative) + each(p, n),
            "You repeat the prompts n times, but not the negative texts. The batch needs one of "
            "each for every *picture*: cut into two halves it would now be cut at the wrong place, "
            "and prompts would count as negative texts.",
        ),
        Mistake(
            "one negative for all",
            lambda p, negative, n: [one_for_each(p, negative)[0], *each(p, n)],
            "You give one negative text for the whole batch. Each picture needs its own half: the "
            "batch is cut into two equal parts, and yours are not equal.",
        ),
        Mistake(
            "None in the list",
            lambda p, negative, n: (
                each([negative] * len(p) if not isinstance(negative, list) else negative, n)
                + each(p, n)
            ),
            "You leave `None` in the list. Nothing to lead away from does not mean no text: the "
            "unconditional half is asked with the empty text, `''`, which the model saw in "
            "training, and a tokenizer cannot read `None`.",
        ),
        Mistake(
            "the word None",
            lambda p, negative, n: (
                each(
                    negative if isinstance(negative, list) else [f"{negative}"] * len(p),
                    n,
                )
                + each(p, n)
            ),
            "You turn `None` into the text 'None', and lead away from that word. You would notice "
            "nothing: the pictures look fine, and are not those of anybody else's pipeline.",
        ),
        Mistake(
            "letter by letter",
            lambda p, negative, n: (
                each(negative if negative is not None else [""] * len(p), n) + each(p, n)
            ),
            "A text is a sequence, too: your loop over `negative` takes it letter by letter where "
            "one text for all was given. Ask first whether it is a `str`.",
        ),
        Mistake(
            "n forgotten",
            lambda p, negative, n: one_for_each(p, negative) + list(p),
            "You never use `n`: there is one text a prompt, not one a picture.",
        ),
        Mistake(
            "pairs",
            lambda p, negative, n: [
                text
                for pair in zip(each(one_for_each(p, negative), n), each(p, n), strict=True)
                for text in pair
            ],
            "You put every negative text right before its prompt. The batch is cut in the middle, "
            "so all the negative ones must come first, and then all the prompts.",
        ),
        Mistake(
            "no empty text",
            lambda p, negative, n: (
                each(p, n) if negative is None else each(one_for_each(p, negative), n) + each(p, n)
            ),
            "Where `negative` is `None` you leave the first half out. Guidance still needs "
            "something to lead away from, which is then the empty text, once for each picture.",
        ),
    ),
)

# ------------------------------------------------------------------------------ 11.2 on the sphere

OVER = (1, 2, 3)


def on_the_sphere(a: Tensor, b: Tensor, w: float) -> Tensor:
    """a, b (n, c, h, w): noises -> (n, c, h, w): w of the way from a to b, on the arc between."""
    first, second = a.flatten(1), b.flatten(1)  # (n, c * h * w)
    cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()[:, None, None, None]
    arc = (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
    return torch.where(angle == 0, (1 - w) * a + w * b, arc)


def cosine_over(a: Tensor, b: Tensor, over: tuple[int, ...] = OVER) -> Tensor:
    lengths = length(a, over) * length(b, over)
    return (a * b).sum(dim=over, keepdim=True) / lengths


def arc_by(a: Tensor, b: Tensor, w: float, angle: Tensor) -> Tensor:
    arc = (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
    return torch.where(angle == 0, straight_line(a, b, w), arc)


def straight_line(a: Tensor, b: Tensor, w: float) -> Tensor:
    return (1 - w) * a + w * b


def angle_over(a: Tensor, b: Tensor, over: tuple[int, ...] = OVER) -> Tensor:
    return cosine_over(a, b, over).clamp(-1, 1).acos()


def unclamped(a: Tensor, b: Tensor, w: float) -> Tensor:
    angle = cosine_over(a, b).acos()
    return arc_by(a, b, w, angle)


def unprotected(a: Tensor, b: Tensor, w: float) -> Tensor:
    angle = angle_over(a, b)
    return (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()


def straight_when_close(a: Tensor, b: Tensor, w: float) -> Tensor:
    close = cosine_over(a, b) > 0.9995
    return torch.where(close, straight_line(a, b, w), on_the_sphere(a, b, w))


def kept_from_one(margin: float) -> Any:
    """The formula with cosines kept `margin` away from 1, so that no angle is 0."""

    def answer(a: Tensor, b: Tensor, w: float) -> Tensor:
        angle = cosine_over(a, b).clamp(-1 + margin, 1 - margin).acos()
        return arc_by(a, b, w, angle)

    return answer


def length(x: Tensor, over: tuple[int, ...] = OVER) -> Tensor:
    return torch.linalg.vector_norm(x, dim=over, keepdim=True)


def sphere_cases(rng: Generator) -> Iterator[Case]:
    for shape, w in (((2, 4, 5, 3), 0.5), ((1, 2, 3, 4), 0.3), ((3, 3, 3, 3), 0.8)):
        yield Case((normal(rng, *shape), 2 * normal(rng, *shape), w))
    for w in (0.0, 1.0):
        yield Case((normal(rng, 2, 2, 2, 3), normal(rng, 2, 2, 2, 3), w))
    # Of one direction, in whole numbers and rounded to a cosine above 1, and of nearly one.
    a, b = normal(rng, 4, 2, 2, 2), normal(rng, 4, 2, 2, 2)
    a[1], b[1] = torch.ones(2, 2, 2), 3 * torch.ones(2, 2, 2)
    a[2] = b[2] = above_one()
    b[3] = a[3] + 0.01 * a[3].norm() / b[3].norm() * b[3]
    yield Case((a, b, 0.4))


def above_one() -> Tensor:
    """A latent (2, 2, 2) whose cosine with itself rounds to more than 1."""
    rng = Generator().manual_seed(0)
    while True:
        x = normal(rng, 1, 2, 2, 2)
        if cosine_over(x, x).item() > 1:
            return x[0]


SPHERE = Exercise(
    number="11.2",
    title="On the sphere",
    minutes=12,
    difficulty=2,
    statement="Go from one noise to another on the arc between them, as in section 6, now for a "
    "whole batch: `a` and `b` are `(n, c, h, w)`, and every example has an angle of its own. `w` "
    "runs from 0, which is `a`, to 1, which is `b`. Two things can go wrong. Rounding may lift a "
    "cosine a little above 1, where no angle has it. And where both noises of an example have "
    "*exactly* the same direction, the angle is 0 and the formula says 0 / 0: return the straight "
    "line for that example.",
    hints=(
        "One angle for each example: `flatten(1)` makes each a single long vector, of which the "
        "sum of products and the `norm(dim=1)` are easy. Give the angles the shape "
        "`(n, 1, 1, 1)` at last, so that they fit the noises.",
        "`cosine.clamp(-1, 1).acos()`. Then the formula of section 6, as it stands.",
        "For the examples with angle 0: `torch.where(angle == 0, straight, arc)` chooses example "
        "by example; what stands in the branch that is not chosen may be nan.",
    ),
    solution=on_the_sphere,
    cases=sphere_cases,
    trained=False,
    mistakes=(
        Mistake(
            "straight",
            straight_line,
            "You go in a straight line, inside the sphere: half-way between two independent noises "
            "the result is shorter than either by the factor √½. The network has never seen so "
            "short a latent at the first time of a path. You would notice it at the lengths.",
        ),
        Mistake(
            "straight, and stretched",
            lambda a, b, w: (
                straight_line(a, b, w)
                * ((1 - w) * length(a) + w * length(b))
                / length(straight_line(a, b, w))
            ),
            "You go straight and stretch the result to the right length. It does lie near the "
            "sphere, and draws well, but the steps are uneven: the direction turns faster in the "
            "middle than at the ends. The arc turns by equal angles for equal steps of `w`.",
        ),
        Mistake(
            "a right angle assumed",
            lambda a, b, w: math.cos(w * math.pi / 2) * a + math.sin(w * math.pi / 2) * b,
            "You weigh with the cosine and sine of w · π/2, as if the angle were a right one. For "
            "two independent noises of many numbers that is nearly true, and such a mixture keeps "
            "the variance. But these have an angle of their own; compute it.",
        ),
        Mistake(
            "no clamp",
            unclamped,
            "Your `acos` meets a cosine a little above 1, which rounding makes of two equal "
            "noises, and gives nan. Clamp the cosine to -1 … 1 before. You would notice one black "
            "picture in many thousands.",
        ),
        Mistake(
            "nothing done about angle 0",
            unprotected,
            "Where both noises have one direction, your formula divides 0 by 0. Choose the "
            "straight line there, with `torch.where`.",
        ),
        Mistake(
            "straight where nearly of one direction",
            straight_when_close,
            "You go straight already where the two directions are close, their cosine above some "
            "threshold. No eye would see the difference, but it is no longer the arc, and no "
            "rounding asks for it: the formula divides by 0 only where the angle is exactly 0.",
        ),
        *(
            Mistake(
                f"cosines kept {margin:g} away from 1",
                kept_from_one(margin),
                f"You keep the cosine {margin:g} away from 1, so that no angle is 0. Then an angle "
                "that is 0 counts as a small one, and the last digits are those of another arc. "
                "Clamp to -1 … 1 itself, and choose the straight line where the angle is 0.",
            )
            for margin in (1e-4, 1e-5, 1e-6, 1e-7)
        ),
        Mistake(
            "one angle for the batch",
            lambda a, b, w: arc_by(a, b, w, angle_over(a, b, (0, 1, 2, 3))),
            "You sum over the whole batch, and so find one angle for all. Then a picture depends "
            "on its neighbours. You would notice that it changes when it is drawn alone.",
        ),
        Mistake(
            "an angle for each position",
            lambda a, b, w: arc_by(a, b, w, angle_over(a, b, (1,))),
            "You take an angle at each position, over the channels alone. Four numbers hardly make "
            "a sphere: their angles scatter widely. An example is one long vector, of c · h · w "
            "numbers.",
        ),
        Mistake(
            "an angle for each channel",
            lambda a, b, w: arc_by(a, b, w, angle_over(a, b, (2, 3))),
            "You take an angle for each channel. An example is one long vector, of c · h · w "
            "numbers, and has one angle.",
        ),
        Mistake(
            "the other end",
            lambda a, b, w: arc_by(b, a, w, angle_over(a, b)),
            "Yours is the way from `b` to `a`: at `w = 0` it must be `a`.",
        ),
        Mistake(
            "not divided",
            lambda a, b, w: (
                ((1 - w) * angle_over(a, b)).sin() * a + (w * angle_over(a, b)).sin() * b
            ),
            "You do not divide by the sine of the angle. At `w = 0` the result must be `a` itself, "
            "and yours is sin(angle) times `a`, which is nearly right for a right angle only.",
        ),
        Mistake(
            "divided by the angle",
            lambda a, b, w: torch.where(
                angle_over(a, b) == 0,
                straight_line(a, b, w),
                arc_by(a, b, w, angle_over(a, b)) * angle_over(a, b).sin() / angle_over(a, b),
            ),
            "You divide by the angle; it must be its sine. Try `w = 0`, which must give `a`.",
        ),
        Mistake(
            "unit vectors",
            lambda a, b, w: arc_by(a / length(a), b / length(b), w, angle_over(a, b)),
            "You mix the directions and lose the lengths: your result has length 1. A latent of "
            "pure noise has about the length √(c · h · w).",
        ),
        Mistake(
            "lengths forgotten in the cosine",
            lambda a, b, w: arc_by(
                a, b, w, (a * b).sum(dim=OVER, keepdim=True).clamp(-1, 1).acos()
            ),
            "Your cosine is not divided by the two lengths, so it is far outside -1 … 1, and the "
            "clamp hides that.",
        ),
    ),
)

# --------------------------------------------------------------------------- 11.3 where to enter


def enter_each(
    z_0: Tensor, eps: Tensor, path: list, strengths: list[float]
) -> tuple[Tensor, list[int]]:
    """Each page noised as its own strength demands, (b, c, h, w), and its steps left to walk."""
    total = len(path) - 1
    left = [int(total * strength) for strength in strengths]
    points = [path[total - k] for k in left]
    rows = [p.alpha * z + p.sigma * e for p, z, e in zip(points, z_0, eps, strict=True)]
    return torch.stack(rows), left


def left_of(path: list, strengths: list[float]) -> list[int]:
    return [int((len(path) - 1) * strength) for strength in strengths]


Mixture = Callable[[Tensor, Tensor, Point, float], Tensor]


def usual(z: Tensor, eps: Tensor, point: Point, strength: float) -> Tensor:
    return point.alpha * z + point.sigma * eps


def entering(
    count: Callable[[int, float], int] | None = None,
    place: Callable[[int, int], int] | None = None,
    mix: Mixture = usual,
    said: Callable[[int, int], int] | None = None,
) -> Any:
    """The solution with other counts of steps (total, strength), another index of the point
    (total, k), another mixture, or another number returned (total, k)."""

    def answer(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
        total = len(path) - 1
        left = [int(total * s) if count is None else count(total, s) for s in strengths]
        points = [path[total - k if place is None else place(total, k)] for k in left]
        rows = [mix(*row) for row in zip(z_0, eps, points, strengths, strict=True)]
        return torch.stack(rows), left if said is None else [said(total, k) for k in left]

    return answer


def one_strength(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
    return enter_each(z_0, eps, path, strengths[:1] * len(strengths))


def the_largest_strength(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
    return enter_each(z_0, eps, path, [max(strengths)] * len(strengths))


def a_step_too_many(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
    total = len(path)
    left = [int(total * strength) for strength in strengths]
    points = [path[total - k] for k in left]
    rows = [p.alpha * z + p.sigma * e for p, z, e in zip(points, z_0, eps, strict=True)]
    return torch.stack(rows), left


def clean_at_zero(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
    z, left = enter_each(z_0, eps, path, strengths)
    return torch.stack(
        [row if k else page for row, page, k in zip(z, z_0, left, strict=True)]
    ), left


def steps_in_a_tensor(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
    z, left = enter_each(z_0, eps, path, strengths)
    return z, torch.tensor(left)


def along_the_last_axis(z_0: Tensor, eps: Tensor, path: list, strengths: list[float]) -> Any:
    left = left_of(path, strengths)
    points = [path[len(path) - 1 - k] for k in left]
    alpha, sigma = (torch.stack([p[n] for p in points]) for n in (1, 2))
    return alpha * z_0 + sigma * eps, left


def enter_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, steps, strengths, final in (
        ((3, 4, 5, 3), 10, [0.77, 0.4, 0.2], "min"),
        ((1, 3, 4, 2), 20, [0.37], "zero"),
        ((2, 2, 2, 2), 7, [0.5, 1.0], "min"),
        ((4, 2, 3, 5), 30, [1.0, 0.0, 0.65, 0.3], "min"),
        ((2, 1, 3, 2), 9, [0.36, 0.9], "zero"),
    ):
        path = schedule.path(steps, final_sigma=final)  # type: ignore[arg-type]
        yield Case((normal(rng, *shape), normal(rng, *shape), path, strengths))


ENTER = Exercise(
    number="11.3",
    title="A strength for each page",
    minutes=12,
    difficulty=2,
    statement="Our `image_latents` has one strength for the whole batch. Let each page have its "
    "own. `z_0` are the clean latents of b pages, `eps` their noises, `path` is a list of points "
    "(with `t`, `alpha`, `sigma`; the noisiest comes first), and `strengths` are b numbers from 0 "
    "to 1. Return two things: the latents to begin with, `(b, c, h, w)`, each noised as its own "
    "point demands; and a list of b whole numbers, how many steps each page has *left* to walk. A "
    "path of $n$ steps has $n + 1$ points, and the steps are rounded *down*, as in section 5.",
    hints=(
        "For a single page: how many steps are walked? And at which index of `path` must one "
        "enter, so that just so many steps are left? Try strength 1, and then 0.",
        "With `total = len(path) - 1` steps in all, `int(total * strength)` are walked, so one "
        "enters at the point of index `total` minus that.",
        "Each page has an alpha and a sigma of its own. Make the rows one by one and "
        "`torch.stack` them, or give the factors the shape `(b, 1, 1, 1)`.",
    ),
    solution=enter_each,
    cases=enter_cases,
    trained=False,
    mistakes=(
        Mistake(
            "strength the wrong way round",
            entering(count=lambda total, s: total - int(total * s)),
            "Your strength is the wrong way round: at strength 1 you walk nothing and give the "
            "page back, at strength 0 you begin with hardly anything but noise. You would notice "
            "that a small strength changes everything.",
        ),
        Mistake(
            "points counted for steps",
            entering(count=lambda total, s: min(int((total + 1) * s), total)),
            "You take the share of the *points*; the strength is a share of the *steps*, of which "
            "there is one less. You would notice now and then a step more than in other pipelines, "
            "and so another picture from the same seed.",
        ),
        Mistake(
            "len(path) for the steps",
            a_step_too_many,
            "You take `len(path)` for the number of steps. That is the number of *points*, one "
            "more: strength 1 then asks for a step that the path does not have, and strength 0 "
            "for a point behind its end.",
        ),
        Mistake(
            "len(path) for the number of steps",
            entering(count=lambda total, s: int((total + 1) * s)),
            "You take `len(path)` for the number of steps, `n = len(path)`. It counts the "
            "*points*, one more. Strength 1 then asks for a point before the first, and Python "
            "counts a negative index from the end: the page that should be all noise comes out "
            "clean.",
        ),
        Mistake(
            "len(path) for the steps, said rightly",
            entering(place=lambda total, k: total + 1 - k),
            "Your numbers of steps are right, and the index is one too large: `len(path) - k`. The "
            "last point has the index `len(path) - 1`, so with k steps left it is `len(path) - 1 - "
            "k`. At k = 0 your index is beyond the end.",
        ),
        Mistake(
            "the steps left taken for the index",
            entering(place=lambda total, k: k),
            "You take the number of steps left for the index: `path[k]` is the point with k steps "
            "*behind* it. At strength 1 that is the clean end, at strength 0 the noisiest point: "
            "the wrong way round, while your numbers of steps are right.",
        ),
        Mistake(
            "counted from the back",
            entering(place=lambda total, k: total + 1 - k if k else 0),
            "`path[-k]` is one point too late: behind it only k - 1 steps are left. And for k = 0 "
            "it is the *first* point, so that strength 0 gives noise. The last point is "
            "`path[-1]`, and has no steps left.",
        ),
        Mistake(
            "noise of the next point",
            entering(place=lambda total, k: min(total + 1 - k, total)),
            "Your latent has the noise of the *next* point, one step cleaner than the network will "
            "be told. It takes a little of the page for noise and wipes it away: everything gets "
            "slightly smooth.",
        ),
        Mistake(
            "noise of the point before",
            entering(place=lambda total, k: max(total - 1 - k, 0)),
            "Your latent has the noise of the point *before*. The network is told that there is "
            "less noise than there is, and takes the rest for picture. At strength 0 it must be "
            "the last point of the path.",
        ),
        Mistake(
            "noise of the first point",
            entering(place=lambda total, k: 0),
            "All your pages have the noise of the first point. The network is told that there is "
            "less noise than there is, and takes the rest for picture. You would notice speckles "
            "that stay.",
        ),
        Mistake(
            "rounded",
            entering(count=lambda total, s: round(total * s)),
            "You round to the nearest number of steps; here, as in diffusers, it is rounded down: "
            "10 steps of strength 0.77 are 7.",
        ),
        Mistake(
            "rounded up",
            entering(count=lambda total, s: math.ceil(total * s)),
            "You round the number of steps up; here, as in diffusers, it is rounded down: 10 steps "
            "of strength 0.77 are 7.",
        ),
        Mistake(
            "one strength for all",
            one_strength,
            "You use the first strength for every page. You would notice nothing as long as all of "
            "them are equal.",
        ),
        Mistake(
            "the largest strength for all",
            the_largest_strength,
            "You use the largest strength for every page. Each shall enter at a point of its own, "
            "and have a number of steps of its own.",
        ),
        Mistake(
            "a clean page at strength 0",
            clean_at_zero,
            "You hand the page back untouched where no step is left. The last point of this path "
            "may have a little noise, and what begins there must have it, too (section 5).",
        ),
        Mistake(
            "the steps in a tensor",
            steps_in_a_tensor,
            "Your numbers are right, but the steps come as a tensor, and a list of whole numbers "
            "is asked for: `.tolist()` makes one.",
        ),
        Mistake(
            "factors along the last axis",
            along_the_last_axis,
            "Your factors have the shape `(b,)`, and torch lines them up with the *last* axis of "
            "the latents, their columns. Where there are as many columns as pages this raises "
            "nothing, and dims stripes. Give them the shape `(b, 1, 1, 1)`.",
        ),
        Mistake(
            "the index returned",
            entering(said=lambda total, k: total - k),
            "Your latents are right, but you return the index at which one enters; asked is how "
            "many steps are left from there.",
        ),
        Mistake(
            "points returned for steps",
            entering(said=lambda total, k: k + 1),
            "Your latents are right, but you count the points that are left. There is one more of "
            "them than steps: at strength 0 one point is left, and no step.",
        ),
        Mistake(
            "the page not dimmed",
            entering(mix=lambda z, eps, point, s: z + point.sigma * eps),
            "You add noise to the page but do not multiply the page by alpha. The latent becomes "
            "too large: its variance is more than 1.",
        ),
        Mistake(
            "alpha and sigma exchanged",
            entering(mix=lambda z, eps, point, s: point.sigma * z + point.alpha * eps),
            "You exchanged alpha and sigma: alpha belongs to the page, sigma to the noise. Near "
            "the clean end of the path you would begin with almost nothing but noise.",
        ),
        Mistake(
            "squares of the factors",
            entering(mix=lambda z, eps, point, s: point.alpha**2 * z + point.sigma**2 * eps),
            "You mix with alpha² and sigma²; these add up to 1, as variances do. The latent itself "
            "is mixed with alpha and sigma.",
        ),
        Mistake(
            "mixed by the strength",
            entering(mix=lambda z, eps, point, s: (1 - s) * z + s * eps),
            "You mix page and noise by the strength itself. How much noise belongs to a point is "
            "for the schedule to say, its alpha and sigma; the strength only says which point.",
        ),
        Mistake(
            "by the root of the strength",
            entering(mix=lambda z, eps, point, s: (1 - s) ** 0.5 * z + s**0.5 * eps),
            "You mix with √(1 - strength) and √strength. That keeps the variance, but how much "
            "noise belongs to a point is for the schedule to say; the strength only says which "
            "point.",
        ),
    ),
)

# --------------------------------------------------------------------------- 11.4 map and mask


def overlap(seen: Tensor, mask: Tensor) -> float:
    """A map of looks (h, w), and the true mask of a thing (f * h, f * w), 0 to 1 -> 0 to 1."""
    f = mask.shape[0] // seen.shape[0]
    thing = F.avg_pool2d(mask[None, None], f)[0, 0] >= 0.5  # (h, w)
    best = seen.flatten().topk(int(thing.sum())).indices
    chosen = torch.zeros_like(thing).flatten().index_fill(0, best, True).view_as(thing)
    return (chosen & thing).sum().item() / (chosen | thing).sum().item()


def pooled(seen: Tensor, mask: Tensor) -> Tensor:
    return F.avg_pool2d(mask[None, None], mask.shape[0] // seen.shape[0])[0, 0]


def pooled_max(seen: Tensor, mask: Tensor) -> Tensor:
    return F.max_pool2d(mask[None, None], mask.shape[0] // seen.shape[0])[0, 0]


def brightest(seen: Tensor, k: int, largest: bool = True) -> Tensor:
    best = seen.flatten().topk(k, largest=largest).indices
    empty = torch.zeros(seen.numel(), dtype=torch.bool)
    return empty.index_fill(0, best, True).view_as(seen)


def iou(a: Tensor, b: Tensor) -> float:
    return (a & b).sum().item() / (a | b).sum().item()


def by_thing(find: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The solution, with another way to find the positions of the thing."""

    def answer(seen: Tensor, mask: Tensor) -> float:
        thing = find(seen, mask)
        return iou(brightest(seen, int(thing.sum())), thing)

    return answer


def by_choice(choose: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The solution, with another way to choose positions of the map."""

    def answer(seen: Tensor, mask: Tensor) -> float:
        thing = pooled(seen, mask) >= 0.5
        return iou(choose(seen, thing), thing)

    return answer


def by_figure(figure: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """The solution, with another figure at the end."""

    def answer(seen: Tensor, mask: Tensor) -> float:
        thing = pooled(seen, mask) >= 0.5
        return figure(brightest(seen, int(thing.sum())), thing).item()

    return answer


def at_full_size(seen: Tensor, mask: Tensor) -> float:
    f = mask.shape[0] // seen.shape[0]
    # A slope far smaller than any difference makes equal neighbours a definite order.
    wide = seen.repeat_interleave(f, 0).repeat_interleave(f, 1)
    wide = wide - 1e-12 * torch.arange(wide.numel(), dtype=wide.dtype).view_as(wide)
    thing = mask >= 0.5
    return iou(brightest(wide, int(thing.sum())), thing)


def overlap_cases(rng: Generator) -> Iterator[Case]:
    for h, w, f, size in ((8, 6, 4, 0.5), (5, 5, 8, 0.4), (4, 7, 2, 0.6), (8, 8, 8, 0.35)):
        mask = torch.zeros(f * h, f * w, dtype=torch.float64)
        top, left = (int(x) for x in torch.randint(1, f + 2, (2,), generator=rng))
        rows, columns = int(size * f * h) + 1, int(size * f * w) + 1
        mask[top : top + rows, left : left + columns] = 1
        mask[top + rows, left : left + columns] = 0.4  # a soft edge
        mask = mask * (1 - 0.02 * torch.rand(mask.shape, generator=rng, dtype=torch.float64))
        thing = F.avg_pool2d(mask[None, None], f)[0, 0]
        noise = torch.rand(h, w, generator=rng, dtype=torch.float64)
        yield Case(((0.05 * thing + 0.06 * noise + 0.01) * (1 + rows), mask))
    # A thing that has the left half of a position, and one of scattered pixels.
    mask = 0.02 * torch.rand(12, 16, generator=rng, dtype=torch.float64)
    mask[:8, :10] = 1 - mask[:8, :10]
    mask[1::4, 3::4] = 1 - mask[1::4, 3::4]
    yield Case((0.01 * torch.rand(3, 4, generator=rng, dtype=torch.float64), mask))
    # One that has exactly half of the positions at its edge.
    mask = torch.zeros(20, 24, dtype=torch.float64)
    mask[4:14, 4:18] = 1
    yield Case((torch.rand(5, 6, generator=rng, dtype=torch.float64), mask))


OVERLAP = Exercise(
    number="11.4",
    title="Is the map on the thing?",
    minutes=15,
    difficulty=2,
    statement="A third figure of merit for the maps of section 8: how much do map and thing "
    "*overlap*? `seen` is the map `(h, w)` of one word; `mask` is the true mask of the thing, "
    "`(f * h, f * w)`, from 0 to 1. A position belongs to the thing where at least half of its "
    "$f \\times f$ pixels do, soft ones counted by their value. Let $k$ be the number of these "
    "positions; there is always at least one. Choose the $k$ positions at which the map is "
    "largest, and return the number of "
    "positions that are chosen *and* of the thing, divided by the number of those that are chosen "
    "*or* of the thing (intersection over union, at equal area).",
    hints=(
        "First bring the mask to the map's size. What is asked of a position is a *mean* over its "
        "pixels, and there is a pooling for that.",
        "`F.avg_pool2d(mask[None, None], f)[0, 0] >= 0.5` are the positions of the thing, and "
        "`seen.flatten().topk(k).indices` are the chosen ones.",
        "Make a `bool` map that is `True` at the chosen positions; then `(chosen & thing).sum()` "
        "and `(chosen | thing).sum()` are the two numbers.",
    ),
    solution=overlap,
    cases=overlap_cases,
    trained=False,
    tolerance=1e-6,  # a share of two counts, perhaps in float32
    mistakes=(
        Mistake(
            "the threshold on the wrong side",
            by_thing(lambda seen, mask: pooled(seen, mask) < 0.5),
            "Your threshold is on the wrong side: you compare the map with everything that is "
            "*not* the thing. You would notice that the best maps get the worst marks.",
        ),
        Mistake(
            "the darkest positions",
            by_choice(lambda seen, thing: brightest(seen, int(thing.sum()), largest=False)),
            "You choose the k positions where the map is *smallest*. Sorted upwards, the largest "
            "stand at the end.",
        ),
        Mistake(
            "one pixel for each position",
            by_thing(
                lambda seen, mask: (
                    mask[:: mask.shape[0] // seen.shape[0], :: mask.shape[1] // seen.shape[1]]
                    >= 0.5
                )
            ),
            "You take one pixel of the mask for each position (every f-th, or mode 'nearest'). A "
            "thin thing may be missed altogether, and the mask moves towards a corner. Take the "
            "mean of all f × f pixels.",
        ),
        Mistake(
            "one pixel is enough",
            by_thing(lambda seen, mask: pooled_max(seen, mask) >= 0.5),
            "You let a position belong to the thing as soon as one of its pixels does. The thing "
            "grows by a rim on all sides, and maps look worse than they are. At least *half* of "
            "the pixels must.",
        ),
        Mistake(
            "any share is enough",
            by_thing(lambda seen, mask: pooled(seen, mask) > 0),
            "You let a position belong to the thing as soon as any part of it does. The thing "
            "grows by a rim on all sides. At least *half* of the pixels must.",
        ),
        Mistake(
            "more than half",
            by_thing(lambda seen, mask: pooled(seen, mask) > 0.5),
            "You ask for *more* than half of the pixels, with `>`. A position of which exactly "
            "half belongs to the thing counts, too: at least half is `>=`.",
        ),
        Mistake(
            "pixels made yes or no first",
            by_thing(lambda seen, mask: pooled(seen, (mask >= 0.5).to(mask)) >= 0.5),
            "You make every pixel a yes or no before you take the mean. A soft edge then counts "
            "fully or not at all; soft pixels shall be counted by their value, and only the mean "
            "be held against one half.",
        ),
        Mistake(
            "a map not normalised",
            by_choice(lambda seen, thing: seen >= 0.5),
            "You compare the map with 0.5. Its numbers are shares of all looks, which may be small "
            "everywhere, or large: no fixed threshold fits two words. Choose the k largest.",
        ),
        Mistake(
            "half of the largest",
            by_choice(lambda seen, thing: seen >= seen.max() / 2),
            "You choose where the map is at least half of its largest value. A flat map then has "
            "everything, a sharp one a single position, and the figure measures the sharpness. "
            "Choose as many as the thing has, so that no map can win by its area.",
        ),
        Mistake(
            "above the mean",
            by_choice(lambda seen, thing: seen >= seen.mean()),
            "You choose where the map is above its mean. Choose as many positions as the thing "
            "has, so that no map can win or lose by its area.",
        ),
        Mistake(
            "the share that hit",
            by_figure(lambda chosen, thing: (chosen & thing).sum() / thing.sum()),
            "You divide by k: yours is the share of the chosen positions that hit, and with equal "
            "areas Dice's figure as well. Intersection over *union* divides by all positions that "
            "are chosen or of the thing, and is stricter: of a map with half of its positions "
            "right it says one third.",
        ),
        Mistake(
            "Dice",
            by_figure(lambda chosen, thing: 2 * (chosen & thing).sum() / (chosen | thing).sum()),
            "You have a 2 too many: that is on the way to Dice's figure. Intersection over union "
            "has none, and is at most 1.",
        ),
        Mistake(
            "divided by the page",
            by_figure(lambda chosen, thing: (chosen & thing).sum() / thing.numel()),
            "You divide by all positions of the page. A small thing could then never get a good "
            "mark. Divide by the positions that are chosen *or* of the thing.",
        ),
        Mistake(
            "agreement everywhere",
            by_figure(lambda chosen, thing: (chosen == thing).sum() / thing.numel()),
            "You count all positions at which map and mask agree, also those where there is "
            "neither. Most of a page is empty, so that any map gets a good mark; an empty one "
            "would do as well.",
        ),
        Mistake(
            "at the mask's size",
            at_full_size,
            "You enlarge the map to the mask. Then a position's pixels are all alike, and which of "
            "them belong to the k largest is a matter of chance. Bring the mask to the map's size.",
        ),
    ),
)

# ------------------------------------------------------------------- 11.5 another prompt midway


def draw_edited(
    network: nn.Module,
    empty: Tensor,
    first: Tensor,
    second: Tensor,
    z: Tensor,
    path: list,
    k: int,
    scale: float,
) -> Tensor:
    """DDIM with guidance along the path: k steps with the first prompt, then the second."""
    for step, (here, there) in enumerate(pairwise(path)):
        without = network(z, here.t, empty)
        given = network(z, here.t, first if step < k else second)
        eps = without + scale * (given - without)
        z_0 = (z - here.sigma * eps) / here.alpha
        z = there.alpha * z_0 + there.sigma * eps
    return z


class Listener(nn.Module):
    """A network without weights that does what it is told."""

    def forward(self, z: Tensor, t: float, context: Tensor) -> Tensor:
        """z (b, c, h, w), t, context (b, n, d) -> (b, c, h, w)."""
        word = context.mean(dim=(1, 2))[:, None, None, None]
        return torch.tanh(z * (1 + word) + 2 * word) + t / 4000 * word


def drawn_with(
    network: nn.Module,
    empty: Tensor,
    z: Tensor,
    path: list[Point],
    scale: float,
    prompt: Callable[[int, Point], Tensor],
    guide: Callable[[Tensor, Tensor, float], Tensor] | None = None,
) -> Tensor:
    """The solution with another rule for which prompt is asked, or for the guidance."""
    for step, (here, there) in enumerate(pairwise(path)):
        without, given = network(z, here.t, empty), network(z, here.t, prompt(step, here))
        eps = without + scale * (given - without) if guide is None else guide(without, given, scale)
        z_0 = (z - here.sigma * eps) / here.alpha
        z = there.alpha * z_0 + there.sigma * eps
    return z


def asking(rule: Callable[..., Tensor]) -> Any:
    """The solution with another rule for the prompt: (step, here, total, first, second, k)."""

    def answer(
        network: nn.Module,
        empty: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        path: list[Point],
        k: int,
        scale: float,
    ) -> Tensor:
        total = len(path) - 1
        return drawn_with(
            network,
            empty,
            z,
            path,
            scale,
            lambda step, here: rule(step, here, total, first, second, k),
        )

    return answer


def guiding(rule: Callable[[Tensor, Tensor, float], Tensor]) -> Any:
    """The solution with another guidance: (without, given, scale)."""

    def answer(
        network: nn.Module,
        empty: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        path: list[Point],
        k: int,
        scale: float,
    ) -> Tensor:
        return drawn_with(
            network, empty, z, path, scale, lambda step, _: first if step < k else second, rule
        )

    return answer


def started_again(
    network: nn.Module,
    empty: Tensor,
    first: Tensor,
    second: Tensor,
    z: Tensor,
    path: list[Point],
    k: int,
    scale: float,
) -> Tensor:
    return drawn_with(network, empty, z, path[k:], scale, lambda *_: second)


def from_the_first(
    network: nn.Module,
    empty: Tensor,
    first: Tensor,
    second: Tensor,
    z: Tensor,
    path: list[Point],
    k: int,
    scale: float,
) -> Tensor:
    for step, (here, there) in enumerate(pairwise(path)):
        without = network(z, here.t, empty if step < k else first)
        given = network(z, here.t, first if step < k else second)
        eps = without + scale * (given - without)
        z_0 = (z - here.sigma * eps) / here.alpha
        z = there.alpha * z_0 + there.sigma * eps
    return z


def stopped(
    network: nn.Module,
    empty: Tensor,
    first: Tensor,
    second: Tensor,
    z: Tensor,
    path: list[Point],
    k: int,
    scale: float,
) -> Tensor:
    return draw_edited(network, empty, first, second, z, path[:-1], k, scale)


def moved_by(rule: Callable[[Tensor, Tensor, Point, Point], Tensor]) -> Any:
    """The solution with another step: (z, eps, here, there)."""

    def answer(
        network: nn.Module,
        empty: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        path: list[Point],
        k: int,
        scale: float,
    ) -> Tensor:
        for step, (here, there) in enumerate(pairwise(path)):
            without = network(z, here.t, empty)
            given = network(z, here.t, first if step < k else second)
            z = rule(z, without + scale * (given - without), here, there)
        return z

    return answer


def asking_at(time: Callable[[Point, Point], float]) -> Any:
    """The solution with another time told to the network: (here, there)."""

    def answer(
        network: nn.Module,
        empty: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        path: list[Point],
        k: int,
        scale: float,
    ) -> Tensor:
        for step, (here, there) in enumerate(pairwise(path)):
            without = network(z, time(here, there), empty)
            given = network(z, time(here, there), first if step < k else second)
            eps = without + scale * (given - without)
            z = there.alpha * (z - here.sigma * eps) / here.alpha + there.sigma * eps
        return z

    return answer


def cut_at(cut: Callable[[list[Point], int], tuple[list[Point], list[Point]]]) -> Any:
    """A walk with each prompt, along the two parts of a path that is cut in another way."""

    def answer(
        network: nn.Module,
        empty: Tensor,
        first: Tensor,
        second: Tensor,
        z: Tensor,
        path: list[Point],
        k: int,
        scale: float,
    ) -> Tensor:
        for part, prompt in zip(cut(path, k), (first, second), strict=True):
            z = draw_edited(network, empty, prompt, prompt, z, part, 0, scale)
        return z

    return answer


def edit_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, steps, k, scale in (
        ((2, 3, 4, 2), 6, 2, 3.0),
        ((1, 2, 3, 5), 5, 4, 1.5),
        ((2, 2, 2, 2), 4, 0, 2.0),
        ((3, 1, 2, 3), 4, 4, 2.0),
        ((2, 2, 3, 2), 8, 3, 1.0),
    ):
        b = shape[0]
        contexts = [normal(rng, b, 4, 3) for _ in range(3)]
        path = schedule.path(steps)
        yield Case((Listener(), *contexts, normal(rng, *shape), path, k, scale))


EDIT = Exercise(
    number="11.5",
    title="Another prompt midway",
    minutes=18,
    difficulty=3,
    statement="Let the first steps settle where things are, and then ask for something else: walk "
    "`path` with DDIM and guidance, the first `k` steps with the states `first`, all later ones "
    "with `second`. `network(z, t, context)` gives the noise; call it once with `empty`, the "
    "states of the empty prompt, and once with a prompt's. Return the latent at the end. With "
    "`k = 0` it is the second prompt's picture, with `k` equal to the number of steps the "
    "first's. Then try it: `sd.unet` is such a network, and `own.states` gives it its states. "
    "With the prompts, the noise, the 12 steps and the scale of section 7, `k = 0` must draw the "
    "last picture of that section's row, and `k = 12` its first. Let `judge.read` and `said_of` "
    "say what the others show: for which `k` is there a boat, and yet something of the first "
    "prompt?",
    hints=(
        "It is the walk of section 3, written out with its denoiser. Only one thing in it changes "
        "from step to step: which states are asked.",
        "Number the steps from 0: `for step, (here, there) in enumerate(pairwise(path))`. The "
        "first `k` steps are those with `step < k`.",
        "A step is: eps without and with the prompt, guidance, `z_0` from `z` and eps at `here`, "
        "`z` at `there` from `z_0` and eps. The latent goes on from the first prompt to the "
        "second; nothing starts again.",
    ),
    solution=draw_edited,
    cases=edit_cases,
    trained=False,
    mistakes=(
        Mistake(
            "one step too late",
            asking(lambda step, here, total, first, second, k: first if step <= k else second),
            "You change one step too late: numbered from 0, the first k steps are those with "
            "`step < k`, not `<=`. With k = 0 the first prompt must have no say at all.",
        ),
        Mistake(
            "one step too early",
            asking(lambda step, here, total, first, second, k: first if step < k - 1 else second),
            "You change one step too early: numbered from 0, the first k steps are those with "
            "`step < k`. Perhaps you count from 1.",
        ),
        Mistake(
            "prompts exchanged",
            asking(lambda step, here, total, first, second, k: second if step < k else first),
            "You begin with the second prompt and end with the first.",
        ),
        Mistake(
            "counted from the end",
            asking(
                lambda step, here, total, first, second, k: first if step < total - k else second
            ),
            "You give the second prompt k steps; k is the number of steps of the first.",
        ),
        Mistake(
            "steps taken for times",
            asking(lambda step, here, total, first, second, k: first if here.t > k else second),
            "You compare the *time* with k. Times run from nearly 1000 down to 0, steps from 0 up; "
            "k counts steps. You would notice that the second prompt never gets a word in.",
        ),
        Mistake(
            "blended",
            asking(
                lambda step, here, total, first, second, k: torch.lerp(second, first, k / total)
            ),
            "You blend the states of both prompts and use the blend at every step. That is the "
            "interpolation of section 7. Here each step has one prompt, pure.",
        ),
        Mistake(
            "only the first",
            asking(lambda step, here, total, first, second, k: first),
            "You never ask the second prompt: yours is the picture of the first one alone.",
        ),
        Mistake(
            "only the second",
            asking(lambda step, here, total, first, second, k: second),
            "Nothing of the first prompt reaches your result: it is not asked, or the walk begins "
            "again at the initial noise. Its k steps are what fixes the places of things, and the "
            "second prompt must go on from the latent in which they ended.",
        ),
        Mistake(
            "started again",
            started_again,
            "You skip the first k steps instead of walking them with the first prompt: the walk "
            "begins at point k with the initial noise, at a time to which that much noise does "
            "not belong.",
        ),
        Mistake(
            "led away from the first",
            from_the_first,
            "After the change you lead away from the *first* prompt, as if it were a negative one. "
            "Guidance always leads away from `empty` here. You would notice that what the first "
            "steps have built is torn down.",
        ),
        Mistake(
            "no guidance",
            guiding(lambda without, given, scale: given),
            "You do not use `scale`: the prompt's noise is taken as it is. The difference to the "
            "noise without it must be exaggerated.",
        ),
        Mistake(
            "guidance from the wrong side",
            guiding(lambda without, given, scale: given + scale * (given - without)),
            "You add the exaggerated difference to the noise *with* the prompt; it belongs to the "
            "one without. Yours is guidance of scale + 1, as the paper counts its w.",
        ),
        Mistake(
            "the difference turned round",
            guiding(lambda without, given, scale: without + scale * (without - given)),
            "Your difference is turned round, and leads away from the prompt.",
        ),
        Mistake(
            "given and without exchanged",
            guiding(lambda without, given, scale: given + scale * (without - given)),
            "The two answers of the network are exchanged: you begin at the noise with the prompt "
            "and exaggerate away from it. See which half, or which call, is which.",
        ),
        Mistake(
            "the time of the next point",
            asking_at(lambda here, there: there.t),
            "You tell the network the time of the point to which the step goes. It is shown the "
            "latent of the point `here`, so it must be told `here.t`.",
        ),
        Mistake(
            "a step lost between the prompts",
            cut_at(lambda path, k: (path[:k], path[k:])),
            "You cut the path into `path[:k]` and `path[k:]`, and lose the step between the two: k "
            "points have only k - 1 steps. Both walks need the point at which they meet, so the "
            "first is `path[: k + 1]`.",
        ),
        Mistake(
            "a step lost after the change",
            cut_at(lambda path, k: (path[: k + 1], path[k + 1 :])),
            "Your second walk begins one point after the first has ended, so the step between them "
            "is lost. Both need the point at which they meet: the second is `path[k:]`.",
        ),
        Mistake(
            "the last step missing",
            stopped,
            "You leave out the last step: a path of n + 1 points has n steps.",
        ),
        Mistake(
            "noise of the old point",
            moved_by(
                lambda z, eps, here, there: (
                    there.alpha * (z - here.sigma * eps) / here.alpha + here.sigma * eps
                )
            ),
            "You mix the new latent with the sigma of the point that you left: it keeps all its "
            "noise, and never becomes clean. At `there` both factors are those of `there`.",
        ),
        Mistake(
            "straight to the guess",
            moved_by(lambda z, eps, here, there: (z - here.sigma * eps) / here.alpha),
            "You go on with the clean guess itself, and do not put back the noise of the next "
            "point. The network is then told of noise that is not there.",
        ),
    ),
)

EXERCISES = (TEXTS, SPHERE, ENTER, OVERLAP, EDIT)

# --------------------------------------------------------------------------------------- the quiz

QUESTIONS = (
    Question(
        "With a sampler that draws fresh noise at every step, the first picture of a batch of four "
        "differs from the first picture of a batch of eight. Prompt, seed and settings are the "
        "same. What is the likeliest cause?",
        (
            Answer(
                "A rounding error: larger batches are summed in another order.",
                False,
                "Rounding moves a colour by one level at most. It does not make another picture.",
            ),
            Answer(
                "One generator draws for the whole batch.",
                True,
                "The first draw of the first picture is the same in both. Before its second, the "
                "generator has given away more numbers to the larger batch. A generator for each "
                "picture mends it.",
            ),
            Answer(
                "The pictures of a batch look at each other in self-attention.",
                False,
                "Attention works within one example; the examples of a batch never meet.",
            ),
            Answer(
                "The seed counts from the end of the batch.",
                False,
                "The first picture has the seed that was given, in a batch of any size.",
            ),
        ),
    ),
    Question(
        "You have a page by day and want it at night. Image-to-image with a small strength "
        "does not bring the night. What helps?",
        (
            Answer(
                "More steps: the model needs more chances to look.",
                False,
                "More steps divide the same last part of the way more finely. It begins with as "
                "little noise as before, through which the day can be seen.",
            ),
            Answer(
                "Another seed.",
                False,
                "At so little noise every seed shows the model the same bright sky.",
            ),
            Answer(
                "A larger strength, at the price that more than the sky may change.",
                True,
                "It enters at a noisier point, where less of the page is left to be believed. What "
                "is changed is not chosen: for that there are masks (notebook 13).",
            ),
        ),
    ),
    Question(
        "A model is asked for a red cat and a blue house and often draws the colours the other way "
        "round. Shown noised true pages, its U-Net has the smaller error with the true caption "
        "and not with the one of exchanged colours, on nearly all pages and at nearly all times. "
        "What follows?",
        (
            Answer(
                "Both networks can tell who has which colour; the walk from pure noise is what "
                "fails.",
                True,
                "What distinguishes the two captions does arrive, as long as there is a page. On "
                "the walk there is none yet: look at the first steps, in which it is decided on, "
                "and at the guidance.",
            ),
            Answer(
                "The text encoder is a bag of words: it keeps that red and blue were said, and "
                "loses of what.",
                False,
                "Then both captions would have nearly the same states, and the errors would not "
                "tell them apart.",
            ),
            Answer(
                "The autoencoder cannot keep two colours apart, so that they run into each other.",
                False,
                "Its latents were what the U-Net was shown, and they told the captions apart.",
            ),
            Answer(
                "Nothing: an error on noised true pages does not say anything about a network.",
                False,
                "They say what it knows when it is shown the truth. They do not say what it makes "
                "of its own mistakes on a walk.",
            ),
        ),
    ),
)
