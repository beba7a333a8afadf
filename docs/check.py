"""What Sphinx does not look at in the pages that it has built: python docs/check.py build/docs.

Every link, anchor, style, script and image within the site is there, every image says what it
shows, every page has something to run or to look at, and the search knows the library's words.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ADDRESSES = {"a": "href", "img": "src", "link": "href", "script": "src", "source": "srcset"}
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
        self.anchors = {""}
        self.addresses: list[str] = []
        self.images: list[tuple[str, str]] = []
        self.shows = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element."""
        has = {name: value or "" for name, value in attrs}
        self.anchors |= {has[name] for name in ("id", "name") if name in has}
        address = has.get(ADDRESSES.get(tag, ""), "")
        self.addresses += [part.split()[0] for part in address.split(", ") if part]
        if tag == "img":
            self.images.append((has.get("src", ""), has.get("alt", "")))
        self.shows |= tag in ("img", "svg", "picture") and "alt" in has
        self.shows |= "highlight" in has.get("class", "").split()


def problems(folder: Path) -> Iterator[str]:
    """All of them, each with its page."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.resolve().rglob("*.html"))}
    if not pages:
        yield f"{folder}: no pages"
    for path, page in pages.items():
        name = path.relative_to(folder.resolve()).as_posix()
        yield from (f"{name}: {said}" for said in dict.fromkeys(of_page(path, page, pages)))
        if not page.shows and not name.startswith(LISTS):
            yield f"{name}: neither code nor a picture"
    yield from of_search(folder)


def of_page(path: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """What is wrong with the addresses and images of one page."""
    for address in page.addresses:
        url = urlsplit(address)
        if url.scheme or url.netloc:
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file():
            yield f"{address} is not there"
        elif target in pages and unquote(url.fragment) not in pages[target].anchors:
            yield f"{address}: no such place on that page"
    for source, text in page.images:  # docutils takes the file's name where nothing is said
        if not text.strip() or text.endswith(Path(source).name):
            yield f"{source} has no alternative text"


def of_search(folder: Path) -> Iterator[str]:
    """Words that lead nowhere."""
    from sphinx.search.en import SearchEnglish  # cuts words as the index and the browser do

    try:
        text = (folder / "searchindex.js").read_text()
        index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    except (OSError, ValueError) as error:
        yield f"searchindex.js: {error}"
        return
    known, stem = {**index["terms"], **index["titleterms"]}, SearchEnglish({}).stem
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
