"""Keep the made parts of notebooks/teaching.md up to date with the notebooks and the exercises.

    python tools/teaching.py          write them anew; the rest of the page is left alone

A made part stands between two comments, `<!-- made: minutes -->` and `<!-- end -->`. What others
write once, an exercise's minutes or the sentence for a mistake, is so not typed a second time.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nbcheck import ROOT
from nbtext import LAST_NOTEBOOK

from sdlearn.course.exercise import Exercise
from sdlearn.course.exercises import exercises, files

PAGE = ROOT / "notebooks" / "teaching.md"
# Processor time of each notebook's cells with one thread, in seconds, as the table at the end of
# `python lab.py test notebooks` (tools/nbwatch.py) had it.
MEASURED = {
    "00": 21.7,
    "01": 29.3,
    "02": 70.7,
    "03": 58.2,
    "04": 26.4,
    "05": 32.4,
    "06": 87.0,
}


def main() -> None:
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8", newline="\n")


def renewed(page: str) -> str:
    """The page with every made part as it should be."""
    parts = {"state": state, "minutes": minutes, "mistakes": mistakes}

    def made(found: re.Match[str]) -> str:
        lines = "\n".join(parts[found[1]]())
        return f"<!-- made: {found[1]} -->\n\n{lines}\n\n<!-- end -->"

    return re.sub(r"<!-- made: (\w+) -->.*?<!-- end -->", made, page, flags=re.S)


def lessons() -> dict[str, Path]:
    """The notebooks that are there, by number."""
    return {path.name[:2]: path for path in sorted(PAGE.parent.glob("[0-9][0-9]-*.ipynb"))}


def title_and_card(path: Path) -> tuple[str, str]:
    """A notebook's title, and how long it says that reading takes."""
    first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
    title = re.search(r"^# (.+)$", first, flags=re.M)
    words = re.search(r"^\| \*\*Minutes\*\* \| (.+?) to read", first, flags=re.M)
    if not title or not words:
        raise ValueError(f"{path.name} has no title, or its card does not say “… to read and try”")
    return title[1], words[1]


def state() -> Iterator[str]:
    missing = [f"{k:02}" for k in range(LAST_NOTEBOOK + 1) if f"{k:02}" not in lessons()]
    there = "All notebooks of both plans are here."
    yield f"Still being written: notebooks {', '.join(missing)}." if missing else there


def minutes() -> Iterator[str]:
    """A table: reading, cells, exercises."""
    yield "| notebook | to read and try | its cells, seconds | exercises | their minutes | points |"
    yield "|---|---|--:|--:|--:|--:|"
    for lesson, path in lessons().items():
        title, words = title_and_card(path)
        own = exercises(lesson) if lesson in files() else ()
        seconds = f"{MEASURED[lesson]:.0f}" if lesson in MEASURED else "not measured"
        sums = f"{sum(e.minutes for e in own)} | {sum(e.points for e in own)}"
        link = f"[{title}]({path.name})"
        yield f"| {link} | {words} | {seconds} | {len(own)} | {sums if own else ' | '} |"


def mistakes() -> Iterator[str]:
    """For each notebook, a fold for each exercise with what people really get wrong."""
    for lesson, path in lessons().items():
        if lesson in files():
            yield f"### {title_and_card(path)[0]}\n"
            for exercise in exercises(lesson):
                yield from fold(exercise)


def fold(exercise: Exercise) -> Iterator[str]:
    facts = f"{exercise.minutes} minutes, difficulty {exercise.difficulty}"
    yield "<details>"
    yield f"<summary>{exercise.number} {exercise.title} ({facts})</summary>\n"
    for mistake in exercise.mistakes:
        yield f"- **{mistake.name}**: {mistake.sentence}"
    yield "\n</details>\n"


if __name__ == "__main__":
    main()
