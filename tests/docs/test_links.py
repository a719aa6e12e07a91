"""Pages can be found and read: links and anchors hold, no page is long, and every path that a contributor is sent to exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from snippets import FENCED

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])

#: Lines of a page that can be read at one sitting.
LONGEST = 200

LINK = re.compile(r"\]\(([^()\s]+)\)")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@cache
def prose(page: Path) -> str:
    """Text of a page without its fenced blocks, where brackets are code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page: lower case, punctuation dropped, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_and_anchors_hold(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{link} leads nowhere"
        assert file.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor:
            assert anchor in anchors(file), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_no_page_is_long(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(index))}
    assert listed | {index} >= {page for page in PAGES if page.is_relative_to(index.parent)}


def test_contributors_are_sent_to_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tops = "deepzero_sim|solvers|datasets|benchmarks|tests|docs|examples"
    paths = re.findall(rf"`((?:{tops})/[\w./]*)`", text)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_map_has_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {entry.name for entry in (ROOT / "deepzero_sim").iterdir() if (entry / "__init__.py").exists()}
    assert {room for room in rooms if f"`deepzero_sim/{room}/`" not in text} == set()


def test_the_readme_shows_the_table_of_the_demo() -> None:
    shown, published = (
        re.search(r"^\| method \|.*?\n\n", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for page in (ROOT / "README.md", ROOT / "docs" / "results" / "demo.md")
    )
    assert shown is not None
    assert published is not None
    assert shown[0] == published[0]
