"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head, *body = table
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
