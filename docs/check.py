"""What Sphinx does not look at in the pages that it has built: python docs/check.py build/docs.

Every link, anchor, style, script, font and image within the site is there, and none of what a
browser loads lies on another server; names of places are unique, every image says what it shows,
every page has something to run or to look at, and the search knows the library's words.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {  # by a browser, without being asked
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "link": ("href",),
    "script": ("src",),
    "iframe": ("src",),
    "object": ("data",),
}
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*(?:"([^"]*)"|'([^']*)'|([^\s"')]+)(?=\s*\)))""")
LISTS = ("search.html", "genindex.html", "py-modindex.html", "_modules/")  # nothing to see there
WORDS = """
activation backpropagation checkpoint compile context convolution cosine decouple gradient install
interface label loss message mix monitor objective optimizer recurrent replay stage synthesizer
synthetic trigger unlock windows
"""


class Page(HTMLParser):
    """What a page has, and what it points to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.anchors = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.shows = False
        self.feed(text)
        self.cut_off = self.rawdata.startswith("<")  # what waits for the rest of a tag
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element."""
        has = {name: value or "" for name, value in attrs}
        if "id" in has and "table-wrapper" not in has.get("class", ""):  # furo repeats a table's
            self.ids[has["id"]] += 1
        self.anchors |= {has.get("id", ""), has.get("name", "") if tag == "a" else ""}
        self.links += [has["href"]] if tag == "a" and "href" in has else []
        for name in LOADED.get(tag, ()):
            parts = has.get(name, "").split(",") if name == "srcset" else [has.get(name, "")]
            self.loaded += [
                part.split()[0] if name == "srcset" else part for part in parts if part.strip()
            ]
        if tag == "img":
            self.images.append((has.get("src", ""), has.get("alt", "")))
        self.shows |= tag == "img" or "highlight" in has.get("class", "").split()


def problems(folder: Path) -> Iterator[str]:
    """All of them, each with its page."""
    folder = folder.resolve()
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder}: no pages"
    for path, page in pages.items():
        name = path.relative_to(folder).as_posix()
        yield from (f"{name}: {said}" for said in dict.fromkeys(of_page(path, pages, folder)))
        if not page.shows and not name.startswith(LISTS):
            yield f"{name}: neither code nor a picture"
    for path in sorted(folder.rglob("*.css")):
        name = path.relative_to(folder).as_posix()
        addresses = ["".join(found) for found in IN_STYLES.findall(path.read_text())]
        for address in dict.fromkeys(addresses):
            yield from (f"{name}: {said}" for said in of_address(address, path, pages, folder))
    yield from of_search(folder)


def of_page(path: Path, pages: dict[Path, Page], folder: Path) -> Iterator[str]:
    """What is wrong with the addresses and images of one page."""
    page = pages[path]
    if page.cut_off:
        yield "the page ends within a tag"
    yield from (f"the id {name} stands {n} times" for name, n in page.ids.items() if n > 1)
    for address in page.links:
        if not urlsplit(address).scheme and not urlsplit(address).netloc:
            yield from of_address(address, path, pages, folder)
    for address in page.loaded:
        yield from of_address(address, path, pages, folder)
    for source, text in page.images:  # docutils takes the file's name where nothing is said
        if not text.strip() or text.endswith(Path(source).name):
            yield f"{source} has no alternative text"


def of_address(address: str, path: Path, pages: dict[Path, Page], folder: Path) -> Iterator[str]:
    """What is wrong with one address that has to be within the site."""
    url = urlsplit(address)
    if url.scheme == "data":
        return
    if url.scheme or url.netloc:
        yield f"{address} is loaded from elsewhere"
        return
    target = (path.parent / unquote(url.path)).resolve() if url.path else path
    target = target / "index.html" if target.is_dir() else target
    if not target.is_relative_to(folder):
        yield f"{address} leads out of the site"
    elif not target.is_file():
        yield f"{address} is not there"
    elif target in pages and unquote(url.fragment) not in pages[target].anchors:
        yield f"{address}: no such place on that page"


def of_search(folder: Path) -> Iterator[str]:
    """Words that lead nowhere."""
    from sphinx.search.en import SearchEnglish  # cuts words as the index and the browser do

    try:
        text = (folder / "searchindex.js").read_text()
        index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    except (OSError, ValueError) as error:
        yield f"searchindex.js: {error}"
        return
    known = {*index.get("terms", ()), *index.get("titleterms", ())}
    stem = SearchEnglish({}).stem
    yield from (
        f"searchindex.js: no page for {word!r}" for word in WORDS.split() if stem(word) not in known
    )


def main() -> int:
    """The command line."""
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) if found else f"{sys.argv[1]}: links, images and search are sound")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
