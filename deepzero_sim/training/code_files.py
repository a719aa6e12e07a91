"""Files of code that a run's settings name as `file.py:Name`: digests of what they held when it was started."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deepzero_sim.training.checkpoints import read_start

_CODE = re.compile(r"(.+\.py):[^\W\d]\w*")


def digests_of_code(settings: Any, folder: Path | None = None) -> dict[str, str]:
    """Compute the SHA-256 of each file of code that settings name, by its path as they have it.

    Args:
        settings: Settings, plain values only.
        folder: Folder where relative paths are found; None for the current one.
    """
    found = {}
    for name in sorted(set(_files(settings))):
        file = (folder or Path()) / name
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
    now = digests_of_code([f"{name}:Name" for name in before], folder)
    return [name for name, digest in now.items() if digest != before[name]]


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _files(item)
    elif isinstance(value, str) and (named := _CODE.fullmatch(value)):
        yield named[1]
