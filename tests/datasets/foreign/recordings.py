"""Files in foreign layouts, small, as their documents say, and what is counted while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from deepzero_sim.datasets.foreign import ReadingOptions, read_recording
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.errors import ConfigError, DataError


def numbers(*shape: int, start: int = 1) -> NDArray[np.float32]:
    """Different numbers everywhere, so that no axis can be mistaken for another."""
    return (np.arange(np.prod(shape)) + start).astype(np.float32).reshape(shape)


@contextmanager
def change(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "a") as file:
        yield file


def replace_dataset(file: h5py.File, name: str, values: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def cut_short(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def refuse(path: Path, says: str, options: ReadingOptions | None = None, frame: tuple[int, int] | None = None) -> None:
    """Require one sentence that names the file, from reading it, or from reading a frame."""
    with pytest.raises((DataError, ConfigError), match=says) as error:
        recording = read_recording(path, options)
        if frame is not None:
            recording.frames[frame]
    said = str(error.value)
    assert "\n" not in said and len(said) < 700 and said.endswith(".")
    assert path.name in said or path.stem in said


def count_reads(recording: Recording, monkeypatch: pytest.MonkeyPatch, source: type) -> Callable[[], list[Any]]:
    """Count what a source is asked for."""
    asked: list[Any] = []
    read = source.read  # type: ignore[attr-defined]

    def counting(self: Any, index: Any) -> Any:
        values = read(self, index)
        asked.append(values.shape)
        return values

    monkeypatch.setattr(source, "read", counting)
    return lambda: asked
