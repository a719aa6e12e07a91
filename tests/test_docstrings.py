"""Docstrings and pages read as an engineer writes them, as far as a program can tell."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STRUCTURE: dict[str, Callable[..., Any]] = runpy.run_path(str(ROOT / "benchmarks" / "structure.py"))

PACKAGES = [ROOT / name for name in ("deepzero_sim", "datasets", "solvers")]
FILES = sorted(file for package in PACKAGES for file in package.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])

Function = ast.FunctionDef | ast.AsyncFunctionDef

#: First words of a docstring that leave its head out.
HEADLESS = {"what", "whether", "of", "how", "that", "which", "where", "when"}

#: Uses of "beside" that tell where something is: next to something else.
PLACES = (
    "a card beside it",
    "a card named .md lies beside it",
    "a monitor process beside it",
    "a rule beside it",
    "beside it lie a card",
    "beside the data, `.failures.jsonl`",
    "finished part beside the file",
    "speed.png beside it",
    "the files beside them",
    "those beside it",
)


def docstrings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, Function | ast.ClassDef | ast.Module):
            yield ast.get_docstring(node) or ""


def of_package(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=of_package)
def test_entries_begin_with_a_noun_phrase(file: Path) -> None:
    entries = [entry for text in docstrings(file) for entry in STRUCTURE["entries"](text)]
    assert not [entry for entry in entries if STRUCTURE["lacks_noun"](entry) or entry[0].islower()]


@pytest.mark.parametrize("file", FILES, ids=of_package)
def test_docstrings_begin_with_their_head(file: Path) -> None:
    assert not [text for text in docstrings(file) if STRUCTURE["first_word"](text) in HEADLESS]


def test_functions_are_not_named_by_participles() -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in FILES]
    names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, Function)]
    participles = [name for name in names if not name.startswith("__") and STRUCTURE["has_participle_name"](name)]
    assert len(participles) <= 0.02 * len(names), participles


@pytest.mark.parametrize("file", [*FILES, *PAGES], ids=of_package)
def test_beside_tells_a_place(file: Path) -> None:
    """For all else there is "besides"."""
    texts = docstrings(file) if file.suffix == ".py" else [file.read_text(encoding="utf-8")]
    for text in texts:
        prose = re.sub(r"\s+", " ", text).lower()
        for phrase in PLACES:
            prose = prose.replace(phrase, "")
        assert not re.search(r".{0,60}\bbeside\b.{0,40}", prose), "write besides, or add the place to PLACES"
