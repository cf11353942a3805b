"""Regenerate the generated parts of notebooks/teaching.md from the notebooks and the exercises.

    python tools/teaching.py        (tools/reading_time.py does this, too)

A generated part is enclosed by the comments `<!-- made: minutes -->` and `<!-- end -->`. So the
minutes of an exercise and the sentence for a mistake are written in one file only.
"""

import json
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from nbcheck import ROOT
from nblength import length_of
from nbtext import LAST_NOTEBOOK

from sdlearn.course.exercises import exercises, files
from sdlearn.course.grading.exercise import Exercise

PAGE = ROOT / "notebooks" / "teaching.md"
# CPU time of each notebook with one thread, in seconds of the reference machine, from the table at
# the end of `python lab.py test notebooks` (tools/nbwatch.py).
MEASURED = {
    "00": 27.3,
    "01": 10.1,
    "02": 25.4,
    "03": 16.8,
    "04": 25.4,
    "05": 33.6,
    "06": 37.3,
    "07": 13.2,
    "08": 87.7,
    "09": 34.9,
    "10": 54.2,
    "11": 23.4,
    "12": 69.6,
    "13": 41.4,
    "14": 38.4,
    "15": 26.8,
    "16": 45.8,
    "17": 68.0,
    "18": 54.5,
    "19": 56.9,
}

WEEKS = (
    *("00 01", "02 03", "04", "05", "06 07", "08", "09", "10 11"),
    *("12 13", "14 15", "16 17", "18 19"),
)
# For each half day: the notebooks, the fraction of each that is read, and a description of it.
HALF_DAYS = {
    "1, morning": (("00", 1, ""), ("01", 0.5, "sections 1, 2, 5, 8"), ("02", 0.5, "sections 1–6")),
    "1, afternoon": (("03", 1, ""), ("04", 1, ""), ("05", 0.75, "from section 3 on")),
    "2, morning": (("06", 1, ""), ("07", 1, "")),
    "2, afternoon": (("08", 1, ""),),
    "3, morning": (("09", 1, ""), ("10", 1, "")),
    "3, afternoon": (("11", 1, ""), ("15", 1, "")),
}
IN_THE_ROOM = 2  # exercises of each notebook in the plan of three days


def main() -> None:
    """Regenerate the page."""
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8", newline="\n")


def renewed(page: str) -> str:
    """Return the page with every generated part renewed."""
    parts = {
        "state": state,
        "minutes": minutes,
        "weeks": weeks,
        "days": days,
        "mistakes": mistakes,
    }

    def made(found: re.Match[str]) -> str:
        lines = "\n".join(parts[found[1]]())
        return f"<!-- made: {found[1]} -->\n\n{lines}\n\n<!-- end -->"

    return re.sub(r"<!-- made: (\w+) -->.*?<!-- end -->", made, page, flags=re.S)


def lessons() -> dict[str, Path]:
    """Return the existing notebooks by number."""
    return {path.name[:2]: path for path in sorted(PAGE.parent.glob("[0-9][0-9]-*.ipynb"))}


def title(path: Path) -> str:
    """Return a notebook's title.

    Raises:
        ValueError: If it is missing.
    """
    first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
    found = re.search(r"^# (.+)$", first, flags=re.M)
    if not found:
        raise ValueError(f"the first cell of {path.name} has no title")
    return found[1]


def state() -> Iterator[str]:
    """Yield which notebooks are missing."""
    missing = [f"{k:02}" for k in range(LAST_NOTEBOOK + 1) if f"{k:02}" not in lessons()]
    there = "All notebooks of both plans are here."
    yield f"Still being written: notebooks {', '.join(missing)}." if missing else there


def minutes() -> Iterator[str]:
    """Yield a table of the times for reading, cells and exercises."""
    yield "| notebook | minutes to read | its cells, seconds | exercises | their minutes | points |"
    yield "|---|--:|--:|--:|--:|--:|"
    for lesson, path in lessons().items():
        own = exercises(lesson) if lesson in files() else ()
        seconds = f"{MEASURED[lesson]:.0f}" if lesson in MEASURED else "not measured"
        sums = f"{sum(e.minutes for e in own)} | {sum(e.points for e in own)}"
        link = f"[{title(path)}]({path.name})"
        yield f"| {link} | {reading(lesson)} | {seconds} | {len(own)} | {sums if own else ' | '} |"


def reading(lesson: str) -> int:
    """Return the reading time of a notebook in minutes, as measured by nblength.py."""
    return length_of(lessons()[lesson]).minutes


def solving(lesson: str, most: int | None = None) -> int:
    """Return the time for the first `most` exercises of a notebook, or for all, in minutes."""
    return sum(e.minutes for e in exercises(lesson)[:most]) if lesson in files() else 0


def weeks() -> Iterator[str]:
    """Yield the time of each week, up to the first week with a missing notebook."""
    there = takewhile(lambda week: set(week) <= set(lessons()), map(str.split, WEEKS))
    sums = [str(sum(reading(n) + solving(n) for n in week)) for week in there]
    yield (
        f"Reading and exercises together take, from week 1 to week {len(sums)}, {', '.join(sums)} "
        "minutes by the table above."
    )


def days() -> Iterator[str]:
    """Yield a table of the plan of three days."""
    yield "| day | notebooks | to read | exercises | minutes |"
    yield "|---|---|--:|--:|--:|"
    for half, plan in HALF_DAYS.items():
        named = "; ".join(f"**{n}**{', ' + part if part else ''}" for n, _, part in plan)
        there = [(n, share) for n, share, _ in plan if n in lessons()]
        read = round(sum(share * reading(n) for n, share in there))
        solved = sum(solving(n, IN_THE_ROOM) for n, _ in there)
        yield f"| {half} | {named} | {read} | {solved} | {read + solved} |"


def mistakes() -> Iterator[str]:
    """Yield the common mistakes of each exercise, folded, by notebook."""
    for lesson, path in lessons().items():
        if lesson in files():
            yield f"### {title(path)}\n"
            for exercise in exercises(lesson):
                yield from fold(exercise)


def fold(exercise: Exercise) -> Iterator[str]:
    """Yield the mistakes of one exercise in a <details> element."""
    facts = f"{exercise.minutes} minutes, difficulty {exercise.difficulty}"
    yield "<details>"
    yield f"<summary>{exercise.number} {exercise.title} ({facts})</summary>\n"
    for mistake in exercise.mistakes:
        yield f"- **{mistake.name}**: {mistake.sentence}"
    yield "\n</details>\n"


if __name__ == "__main__":
    main()
