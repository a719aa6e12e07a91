"""Files of code of a run: digests of what they held when it was started.

They are those that its settings name as `file.py:Name`, and those in the same folder that these import.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deepzero_sim.common.user_files import neighbours
from deepzero_sim.training.checkpoints import read_start

_CODE = re.compile(r"(.+\.py):[^\W\d]\w*")


def digests_of_code(settings: Any, folder: Path | None = None) -> dict[str, str]:
    """Compute the SHA-256 of each file of code that settings name, and of those that it imports from its own folder.

    Args:
        settings: Settings, plain values only.
        folder: Folder where relative paths are found; None for the current one.

    Returns:
        Digests by the files' paths, as the settings have them: relative ones for what they name by a relative path.
    """
    named = sorted(set(_files(settings)))
    return _digests([path for name in named for path in (name, *_neighbours_of(name, folder or Path()))], folder or Path())


def _neighbours_of(name: str, folder: Path) -> list[str]:
    """List what a file imports from its own folder, by paths that begin as its own does."""
    file = folder / name
    beside = neighbours(file) if file.is_file() else []
    return [str(Path(name).parent / path.relative_to(file.parent)) for path in beside]


def _digests(names: Iterable[str], folder: Path) -> dict[str, str]:
    found = {}
    for name in names:
        file = folder / name
        with suppress(OSError):
            if file.is_file():
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def changed_code(path: Path, folder: Path | None) -> list[str]:
    """List the files of code that are not what they were when a run was started; files that are gone are not among them.

    Args:
        path: Folder of a run without stages.
        folder: Folder where relative paths are found now; None for the current one.
    """
    start = read_start(path)
    before = {} if start is None else start.code
    now = _digests(before, folder or Path())
    return [name for name, digest in now.items() if digest != before[name]]


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str) and (named := _CODE.fullmatch(value)):
        yield named[1]
