"""Runs that go on from another folder than they were begun in: the files that their settings name are found where they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from deepzero_sim.common.settings import hints, read, settings_to_dict
from deepzero_sim.errors import RunError
from deepzero_sim.training.checkpoints import CONFIG, read_settings
from deepzero_sim.training.runs.folders import locate, map_texts, origin_of
from deepzero_sim.training.runs.settings import TrainSettings
from deepzero_sim.training.runs.trained_run import parts_without_trust
from deepzero_sim.training.runs.trust import words_of


class Begun(NamedTuple):
    """Settings in the words of a run, and the folder where these are found.

    Args:
        settings: Settings; of a run that was begun in another folder, with the whole path of its own.
        origin: Folder that the run was begun in; None for the current one, and for a run that there is not yet.
    """

    settings: TrainSettings
    origin: Path | None = None

    @property
    def notes(self) -> list[str]:
        """Sentences on where files are found, if that is elsewhere."""
        if self.origin is None:
            return []
        return [f"the files that the settings of {self.settings.run} name are found from {self.origin}, where it was begun."]


def in_words_of_run(settings: TrainSettings, folder: Path | None = None) -> Begun:
    """Return settings in the words that a run folder has recorded, wherever they lead to the same files.

    Words that are the same mean what they meant when the run was begun: its own files, not those of the current folder.

    Args:
        settings: Settings, whose words are found from the current folder.
        folder: Folder of the run, or of the first of its stages; that of the settings if None.

    Raises:
        RunError: The run was begun in another folder, with code there that nobody has trusted.
    """
    folder = settings.run if folder is None else folder
    if not (folder / CONFIG).exists():
        return Begun(settings)
    recorded, origin, given = read_settings(folder), origin_of(folder), settings_to_dict(settings)
    kinds = hints(TrainSettings)
    same = {
        key: read(kinds[key], recorded[key], key)
        for key, value in given.items()
        if key in recorded and value != recorded[key] and whole(value, None) == whole(recorded[key], origin)
    }
    settings = replace(settings, **same)
    if origin is None:
        return Begun(settings)
    _require_trust(folder, origin)
    return Begun(replace(settings, run=settings.run.absolute()), origin)


def _require_trust(folder: Path, origin: Path) -> None:
    """Refuse to go on with code of another folder that nobody has trusted here.

    Raises:
        RunError: The run names such code.
    """
    parts = parts_without_trust(folder)
    if parts:
        listed = "; ".join(f"{key} {words_of(part)}" for key, part in parts.items())
        raise RunError(
            f"{folder} was not made by you on this machine, and would import or run {listed} from {origin}, where it says that "
            f"it was begun: look into its config.yaml, and call from {origin} if you trust it."
        )


def with_whole_paths(settings: TrainSettings, origin: Path | None) -> TrainSettings:
    """Return settings whose words for files lead there from any folder.

    Args:
        settings: Settings.
        origin: Folder where relative words are found; None for the current one.
    """
    kinds, plain = hints(TrainSettings), settings_to_dict(settings)
    changes = {key: read(kinds[key], made, key) for key, value in plain.items() if (made := whole(value, origin)) != value}
    return replace(settings, **changes)


def whole(value: Any, origin: Path | None) -> Any:
    """Write paths, and names `file.py:Name`, in plain values with the whole paths of the files.

    Args:
        value: Plain value.
        origin: Folder where relative paths are found; None for the current one.
    """

    def lead_there(text: str) -> str:
        file, colon, name = text.rpartition(":")
        return f"{locate(file, origin)}:{name}" if colon and file else str(locate(text, origin))

    return map_texts(value, lead_there)
