"""Checks every page of the docs site: error boxes, links, anchors, images, and what a browser reports.

`python -m tests.docs_site DIRECTORY` prints each problem and fails if there are any; `make docs` runs it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import sync_playwright

# The classes with which docutils and Sphinx mark markup that they could not parse.
ERROR_CLASSES = {"system-message", "problematic"}

# The text that the style sheets, not the pages, put in front of an element, if it reports an error: Furo does so.
ERRORS_OF_STYLES = """() => [...document.querySelectorAll("*")]
  .map((element) => getComputedStyle(element, "::before").content)
  .filter((content) => /\\berror\\b/i.test(content))"""


class Page(HTMLParser):
    """The anchors, the links and the error boxes of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.errors: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        if link := attributes.get("href" if tag in ("a", "link") else "src"):
            self.links.append(link)
        self.errors += sorted(ERROR_CLASSES.intersection(attributes.get("class", "").split()))


def problems(site: Path) -> Iterator[str]:
    """The problems that are visible in the files of the site."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        for error in page.errors:
            yield f"{name}: has an error box ({error})"
        for link in page.links:
            yield from (f"{name}: {problem}" for problem in link_problems(link, path, pages))


def link_problems(link: str, path: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """The problem with a link of the page at `path`, if any. Links to other sites are not followed."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        yield f"links to {link}, which does not exist"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        yield f"links to {link}, an anchor that does not exist"


def browser_problems(site: Path, chromium: str) -> Iterator[str]:
    """What a browser shows or reports about each page."""
    with sync_playwright() as playwright:
        # Its sandbox does not run as root, the user of containers.
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        page, reported = browser.new_page(), []
        page.on("console", lambda message: reported.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: reported.append(str(error)))
        page.on("requestfailed", lambda request: reported.append(f"{request.url} cannot be loaded"))
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            for text in (*page.evaluate(ERRORS_OF_STYLES), *reported):
                yield f"{path.relative_to(site)}: the browser reports: {text}"
            reported.clear()
        browser.close()


def main(directory: str) -> int:
    site = Path(directory).resolve()
    all_problems = list(problems(site))
    if chromium := shutil.which("chromium"):
        all_problems += browser_problems(site, chromium)
    else:
        print("The docs site was not opened in a browser: sudo apt-get install chromium")
    print(*all_problems, sep="\n", end="\n" if all_problems else "")
    return 1 if all_problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
