"""Mark of the files of reports, by which this package tells its own from others', which are never overwritten."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from deepzero_sim.common.files import write_text
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.file_names import CONFIG

#: Mark of pages and pictures that this package made.
MARK = "deepzero-sim report"

#: The mark in a page of Markdown: a link that nothing refers to, which no reader shows.
_COMMENT = f"[//]: # ({MARK})"

#: Bytes at either end of a file in which its mark lies.
_ENDS = 2000


def write_page(path: Path, text: str) -> None:
    """Write a page of Markdown with the mark."""
    write_text(path, f"{text.rstrip()}\n\n{_COMMENT}\n")


def require_own_folder(folder: Path, names: Sequence[str], setting: str) -> None:
    """Refuse to write a report into a run, or where :func:`require_own_files` does.

    Args:
        folder: Folder of the report.
        names: Names of its files, in which `*` stands for any letters.
        setting: Setting that names another folder.

    Raises:
        ConfigError: The folder is one of a run, is none, or holds files of others.
    """
    if (folder / CONFIG).exists():
        raise ConfigError(
            f"expected a folder for the page, but {folder} is a run, with a report of its own: name another with {setting}."
        )
    require_own_files(folder, names, setting)


def require_own_files(folder: Path, names: Sequence[str], setting: str) -> None:
    """Refuse to write a report over files that this package did not make.

    Pages and pictures have a mark. Numbers in JSON have none, and are written last: they are ours if the page is. So is a page
    from before pages had one, if another page or picture next to it has it.

    Args:
        folder: Folder of the report.
        names: Names of its files, in which `*` stands for any letters.
        setting: Setting that names another folder.

    Raises:
        ConfigError: The folder is none, or holds such files.
    """
    remedy = f"name another with {setting}."
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"expected a folder for the page and its pictures, but {folder} is a file: {remedy}")
    found = sorted({path for name in names for path in folder.glob(name)})
    pages = [path for path in found if path.suffix == ".md"]
    numbers = [path for path in found if path.suffix == ".json"]
    own = {path for path in found if _is_marked(path)}
    own |= {path for path in pages if own and path.is_file()}
    own |= {path for path in numbers if own.intersection(pages) and path.is_file()}
    others = [path for path in found if path not in own]
    if others:
        raise ConfigError(f"{others[0]} was not made by deepzero-sim, and would be overwritten in {folder}: {remedy}")


def _is_marked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.read(_ENDS)
        file.seek(max(0, file.seek(0, os.SEEK_END) - _ENDS))
        return MARK.encode() in first + file.read()
