"""Check the pages of the web edition without a browser: python tools/website_links.py SITE

Every link of a page leads to a file that is there, and to an anchor that is in it. Nothing is
loaded from another server. Every image has an alternative text, every frame a title. Links into
`draw/` are left alone while the site has no drawing page.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

# The attributes that name something to load or to open.
LOADED = {
    "script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src",
    "audio": "src", "embed": "src", "object": "data", "form": "action",
}  # fmt: skip
NOTHING_LOADED = {"canonical", "next", "prev", "search", "index", "author", "copyright"}


class Page(HTMLParser):
    """What one page links to and loads, its anchors, and the images without a description."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.silent: list[str] = []
        self.repeated: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names."""
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            if given["id"] in self.anchors:
                self.repeated.append(given["id"])
            self.anchors.add(given["id"])
        if tag == "a" and "name" in given:
            self.anchors.add(given["name"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        target = given.get(LOADED.get(tag, ""))
        if target is not None:
            opened = tag == "form" or given.get("rel", "") in NOTHING_LOADED
            (self.links if opened else self.loads).append(target)
        for one in given.get("srcset", "").split(","):
            self.loads += one.split()[:1]
        if (
            tag == "img"
            and not given.get("alt", "").strip()
            and given.get("role") != "presentation"
        ):
            self.silent.append(f"the image {given.get('src', '')} has no alternative text")
        if tag == "iframe" and not given.get("title", "").strip():
            self.silent.append(f"the frame {given.get('src', '')} has no title")


def check(out: Path) -> list[str]:
    """Return one sentence for each fault of the pages below a folder, in order."""
    out = out.resolve()
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(out.rglob("*.html"))}
    drawn = (out / "draw").is_dir()
    found = [] if pages else [f"{out.name} has no pages"]
    for path, page in pages.items():
        here = path.relative_to(out).as_posix()
        found += [f"{here}: {sentence}" for sentence in page.silent]
        found += [f"{here}: the id {anchor} occurs twice" for anchor in page.repeated]
        for target in page.loads:
            place = urlsplit(target)
            if place.netloc or (place.scheme and place.scheme not in ("data", "blob")):
                found.append(f"{here}: loads {target} from elsewhere")
        for target in dict.fromkeys(page.links + page.loads):
            fault = leads_nowhere(target, path, out, pages)
            if fault and (drawn or not into_draw(target, path, out)):
                found.append(f"{here}: {fault}")
    return found


def resolved(target: str, path: Path) -> Path:
    """Return the file that a relative link of a page names."""
    place = unquote(urlsplit(target).path)
    return (path.parent / place).resolve() if place else path


def into_draw(target: str, path: Path, out: Path) -> bool:
    """Whether a link leads to the drawing page."""
    return resolved(target, path).is_relative_to(out / "draw")


def leads_nowhere(target: str, path: Path, out: Path, pages: dict[Path, Page]) -> str | None:
    """Return what is wrong with a link of the page at `path`, or None."""
    place = urlsplit(target)
    if place.scheme or place.netloc:
        return None
    if place.path.startswith("/"):
        return f"{target} does not work below another address; accepted: a relative link"
    file = resolved(target, path)
    if not file.is_relative_to(out):
        return f"{target} leads out of the site"
    if file.is_dir():
        file /= "index.html"
    if not file.is_file():
        return f"{target} leads to no file"
    anchor = unquote(urldefrag(target).fragment)
    # What follows a `=` are settings, which a script reads.
    if anchor and "=" not in anchor and file in pages and anchor not in pages[file].anchors:
        return f"{target} leads to no place on that page"
    return None


def main(argv: list[str] | None = None) -> int:
    """Print the faults and the number of links; return 1 if there are faults."""
    parser = argparse.ArgumentParser(description="Check the links of the web edition.")
    parser.add_argument("site", type=Path, help="the folder of the site")
    site = parser.parse_args(argv).site
    faults = check(site)
    texts = [path.read_text("utf-8") for path in site.rglob("*.html")]
    links = sum(len(Page(text).links) for text in texts)
    print(*faults, f"{len(texts)} pages, {links:,} links, {len(faults)} faults", sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
