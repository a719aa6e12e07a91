"""Run folders among others: stages within one, runs that started from one, the folder where relative names are found."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from deepzero_sim.errors import RunError
from deepzero_sim.training.checkpoints import CONFIG, read_settings, read_start

#: Letters of the longest text that is looked for as a path.
LONGEST_PATH = 1000


def stage_folders(path: Path) -> list[Path]:
    """List the stages of a run in their order; a run without stages has none.

    Raises:
        RunError: Two have one number, or a number is missing.
    """
    found = {folder: int(folder.name.partition("-")[0]) for folder in path.glob("[0-9]*-*") if _is_stage(folder)}
    folders = sorted(found, key=lambda folder: (found[folder], folder.name))
    if (path / CONFIG).exists() or not folders:
        return []
    for number, folder in enumerate(folders, start=1):
        if found[folder] != number:
            raise RunError(
                f"{path} must hold stages numbered 1, 2, 3 and so on, but {folder.name} stands in the place of {number}: "
                "take away what does not belong to the run."
            )
    return folders


def _is_stage(folder: Path) -> bool:
    return re.fullmatch(r"\d+-.+", folder.name) is not None and (folder / CONFIG).exists()


def last_stage(path: Path) -> Path:
    """Return the folder of a run's last stage, or the folder itself of a run without stages."""
    return (stage_folders(path) or [path])[-1]


def origin_of(path: Path) -> Path | None:
    """Return the folder where relative names in a run's settings are found; None for the current one.

    That is where the run was started. If that folder is gone, or is not known, the current one stands for it.
    """
    start = read_start(path)
    if start is None or start.folder is None or not Path(start.folder).is_dir() or start.folder == os.getcwd():  # noqa: PTH109
        return None
    return Path(start.folder)


def locate(value: Any, origin: Path | None) -> Any:
    """Write the texts in plain values that are paths of files or folders as whole paths.

    Args:
        value: Plain value.
        origin: Folder where relative paths are found; None for the current one.
    """
    return map_texts(value, lambda text: _locate_text(text, origin))


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Change the texts in plain values.

    Args:
        value: Plain value.
        change: Function from a text to the one that takes its place.
    """
    if isinstance(value, Mapping):
        return {key: map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _locate_text(text: str, origin: Path | None) -> str:
    if not text or "\0" in text or len(text) > LONGEST_PATH:
        return text
    path = (origin or Path()) / text
    return str(path.resolve()) if path.exists() else text


@contextmanager
def within(folder: Path | None) -> Iterator[None]:
    """Make a folder the current one for a moment, so that relative names are found there; None for no change."""
    if folder is None:
        yield
        return
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def runs_started_from(path: Path) -> list[Path]:
    """List the runs in neighbouring folders that started from a run's network."""
    started = []
    for config in sorted(path.parent.glob(f"*/{CONFIG}")):
        folder = config.parent
        if start_of(folder) == path.resolve():
            started.append(folder)
    return started


def start_of(folder: Path) -> Path | None:
    """Return the folder of the run that a run started from, its last stage; None if there is none, or nobody can tell."""
    with suppress(RunError, OSError):  # somebody else's, or damaged: reported when it is used
        start = read_settings(folder).get("start")
        found = last_stage((origin_of(folder) or Path()) / start).resolve() if isinstance(start, str) else None
        return found if found is not None and (found / CONFIG).exists() else None
    return None
