"""Cards beside files of data: Markdown for people, signed, so that no other file is ever taken for one and replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from deepzero_sim.datasets.hdf5 import not_a_file

#: Bytes of the largest file that may be a card.
LARGEST = 2**24


def beside(path: Path) -> Path:
    """Where the card of a file lies."""
    return path.with_suffix(".md")


def signed(text: str, path: Path) -> str:
    """A card with a last line that says whose it is and what it was.

    Args:
        text: of the card.
        path: of the file that it lies beside.
    """
    digest = hashlib.sha256(f"{path.name}\n{text}".encode("utf-8", "surrogateescape")).hexdigest()
    said = f"deepzero-sim generate made this with {path.name} and replaces it, unless it was changed: {digest}"
    return f"{text}\n<!-- {said} -->\n"


def is_ours(card: Path, path: Path) -> bool:
    """Whether a file is the card that was made with a file of data, and still as it was."""
    if not_a_file(card) or card.stat().st_size > LARGEST:
        return False
    found = card.read_bytes().decode("utf-8", "surrogateescape")
    text, _, _ = found.rpartition("\n<!--")
    return found == signed(text, path)
