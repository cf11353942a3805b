"""Write the measured minutes of each notebook into its card and into the teacher's page.

python tools/reading_time.py            renew the cards and notebooks/teaching.md
python tools/reading_time.py --check    name those that are out of date, and change nothing
"""

import argparse
import re
import sys
from pathlib import Path

import nbtool
import teaching
from nbcheck import Notebook
from nblength import length

ROW = re.compile(r"^\| \*\*Minutes\*\* \|.*$", flags=re.M)


def row(path: Path, notebook: Notebook) -> str:
    """Return the row of a notebook's card that says how many minutes it takes."""
    lesson, size = path.name[:2], length(notebook["cells"])
    # Rounded, so that the change of a word changes no card.
    said = f"{size.minutes} to read ({round(size.words, -2):,} words, "
    said += f"{round(size.lines, -1)} lines of code, {size.figures} figures)"
    solving = teaching.solving(lesson)
    said += f", {solving} for the exercises" if solving else ""
    seconds = teaching.MEASURED.get(lesson)
    said += f"; the cells run in about {max(1, round(seconds / 60))}" if seconds else ""
    return f"| **Minutes** | {said} |"


def renewed(path: Path) -> str:
    """Return the text of a notebook's file with the renewed card.

    Raises:
        ValueError: If the card has no row with the minutes.
    """
    notebook = nbtool.read(path.read_text("utf-8"))
    card = notebook["cells"][0]["source"]
    if not ROW.search(card):
        raise ValueError(f"the card of {path.name} has no row “| **Minutes** | … |”")
    notebook["cells"][0]["source"] = ROW.sub(lambda _: row(path, notebook), card)
    return nbtool.written(notebook)


def main(argv: list[str] | None = None) -> int:
    """Renew the cards and the page, or check them; return 1 if the check finds one out of date."""
    parser = argparse.ArgumentParser(description="Write the measured minutes into the cards.")
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    late = []
    for path in teaching.lessons().values():
        if renewed(path) != path.read_text("utf-8"):
            late.append(path)
            if not check:
                nbtool.store(path, nbtool.read(renewed(path)))
    page = teaching.PAGE.read_text("utf-8")
    if teaching.renewed(page) != page:
        late.append(teaching.PAGE)
        if not check:
            teaching.main()
    for path in late:
        what = "is out of date; run: python tools/reading_time.py" if check else "renewed"
        print(f"{path.name}: {what}")
    return int(check and bool(late))


if __name__ == "__main__":
    sys.exit(main())
