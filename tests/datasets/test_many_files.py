"""Sets of more files than a process may have open."""

from __future__ import annotations

import pickle
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from deepzero_sim.datasets import hdf5
from deepzero_sim.datasets.foreign import ReadingOptions, read_recording
from deepzero_sim.datasets.hdf5 import StoredFile
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.solver.spec import SolverSpec

FILES, ALLOWED = 260, 200
SPEC = SolverSpec(name="line", state_shape=(1, 3), dt=0.5, dtype="float64", channels=("u",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(FILES):
        with h5py.File(tmp_path / f"run_{number}.h5", "w") as file:
            file["u"], file["t"] = number + np.arange(6.0).reshape(2, 3), 0.5 * np.arange(2)
    return tmp_path


@pytest.fixture
def few_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (ALLOWED, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_open_files")
def test_a_set_may_have_more_files_than_can_be_open(folder: Path) -> None:
    source = DataSource(folder, axes=["time", "x"])
    data = open_trajectories(source, SPEC)
    np.testing.assert_array_equal(data.frames[:, 0, 0, 0], np.arange(FILES))
    frames = read_recording(folder, ReadingOptions(axes=["time", "x"])).frames
    for _ in range(2):  # there and back, whatever is open at the time
        assert [frames[number, 0][0, 0] for number in range(FILES)] == list(range(FILES))


def test_files_that_were_not_read_for_longest_are_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MOST_OPEN", 3)
    files = [StoredFile(folder / f"run_{number}.h5") for number in range(6)]
    with files[0].open() as first:  # in use, and never closed
        for file in files[1:]:
            with file.open() as now:
                assert now["t"].shape == (2,)
        assert first["t"].shape == (2,)
    still = [file for file in files if file._file is not None]
    assert still == [files[0], *files[4:]]
    copy = pickle.loads(pickle.dumps(files[0]))  # noqa: S301 - as it goes to a worker
    with copy.open() as file:
        assert file["t"].shape == (2,)


def test_threads_that_read_keep_their_files_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MOST_OPEN", 2)
    files = [StoredFile(folder / f"run_{number}.h5") for number in range(8)]
    wrong: list[object] = []

    def read(first: int) -> None:
        for turn in range(60):
            number = (first + turn) % len(files)
            try:
                with files[number].open() as file:
                    wrong.extend([number] if file["u"][0, 0] != number else [])
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(0, 8, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
