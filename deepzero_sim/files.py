"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write aside, then rename: `path` is whole and on disk when the block ends, and untouched if it fails.

    Yields:
        The path to write to, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _clear_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote this file left of it."""
    for left in path.parent.glob(f".{escape(path.name)}.*.part"):
        writer = left.suffixes[-2].removeprefix(".")
        if writer.isdecimal() and not _is_running(int(writer)):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    """Whether there may be a process of this number."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or nothing."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
