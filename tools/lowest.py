"""The lowest versions that pyproject.toml allows, as constraints for pip or uv.

    python tools/lowest.py > lowest.txt
    uv pip install -c lowest.txt -e .[course,test]

into an environment of its own, then `python -m pytest tests -k "not installed_so"`, which leaves
out the test that the versions are those of constraints.txt. A bound that is too low fails here,
not where someone has just that version. Needs Python's standard library only.
"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([a-z0-9-]+)>=([0-9.]+)(,<[0-9.]+)?")


def lowest(requirements: Iterable[str]) -> dict[str, str]:
    """Requirements such as "torch>=2.6" -> {"torch": "2.6"}, sorted by name.

    Raises:
        ValueError: a requirement has no lower bound, or two have different ones.
    """
    found: dict[str, str] = {}
    for text in requirements:
        match = REQUIREMENT.fullmatch(text)
        if not match:
            raise ValueError(f"{text!r} has no lower bound; write it as name>=version")
        name, version, _ = match.groups()
        if found.setdefault(name, version) != version:
            raise ValueError(f"{name} has two lower bounds, {found[name]} and {version}")
    return dict(sorted(found.items()))


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for name, version in lowest(text for group in groups for text in group).items():
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
