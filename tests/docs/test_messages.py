"""Every message on the page of messages is one that the source can give."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "messages.md"

#: First cells of the tables' rows: messages in which ... stands for what differs.
MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@cache
def said() -> tuple[str, ...]:
    """All text of the source, with ... for what is filled in."""
    folders = (ROOT / name for name in ("deepzero_sim", "datasets", "solvers"))
    trees = (ast.parse(file.read_text(encoding="utf-8")) for folder in folders for file in folder.rglob("*.py"))
    return tuple({text for tree in trees for node in ast.walk(tree) if (text := _text(node))})


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if not isinstance(node, ast.JoinedStr):
        return ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)


def can_be_said(message: str) -> bool:
    """Tell whether one text of the source, with its placeholders filled in somehow, can be the message."""
    pieces = [re.escape(piece) for piece in message.split("...") if piece]
    pattern = re.compile(".*?".join(pieces))
    return any(pattern.search(text) for text in said())


def test_there_are_messages() -> None:
    assert 20 <= len(MESSAGES) <= 45 and len(set(MESSAGES)) == len(MESSAGES)
    assert all(len(message.replace("...", "").strip()) > 12 for message in MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_in_the_source(message: str) -> None:
    assert can_be_said(message), "nothing says this any more: correct the page"


def test_a_message_that_is_not_in_the_source_is_found() -> None:
    assert not can_be_said("there is no program ...: check the path, it starts at the current folder; buy it first.")
