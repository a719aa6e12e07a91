"""Frames on disk are indexed as arrays are, and give the same numbers."""

from __future__ import annotations

import pickle
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from deepzero_sim.common.types import Array
from deepzero_sim.datasets.checked_frames import CastFrames
from deepzero_sim.datasets.frames import (
    LazyFrames,
    MappedFrames,
    StoredFrames,
    blocks,
    load_if_small,
    select,
)
from deepzero_sim.datasets.hdf5 import StoredFile
from deepzero_sim.errors import DataError
from deepzero_sim.execution.tasks import outcome, submit

ARRAY = np.random.default_rng(0).normal(size=(4, 9, 2, 5)).astype(">f8")


def store(path: Path, values: Any = ARRAY, **options: Any) -> StoredFrames:
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=values, **options)
    with h5py.File(path) as file:
        return StoredFrames(StoredFile(path), file["frames"])


@pytest.fixture(params=["contiguous", "chunked"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> StoredFrames:
    options = {} if request.param == "contiguous" else {"chunks": (1, 1, 2, 5), "fletcher32": True}
    return store(tmp_path / "a.h5", **options)


KEYS: dict[str, Any] = {
    "a simulation": 2,
    "the last simulation": -1,
    "a frame": (1, 3),
    "numpy's integers": (np.int64(1), np.int32(-2)),
    "all": slice(None),
    "all but the last": (slice(None), slice(None, -1)),
    "every third, backwards": (slice(1, 3), slice(None, None, -3)),
    "the first frames": (slice(None), 0),
    "nothing": (slice(0, 0), slice(None)),
    "pairs": (np.array([3, 0, 3, 1]), np.array([8, 0, 8, 2])),
    "rollouts": (np.array([[3], [0]]), np.array([[1, 2, 3], [6, 7, 8]])),
    "lists": ([0, 2], [1, 1]),
    "a list of times": (slice(None), [7, 1, 1]),
    "a list of simulations": ([3, 3, 0], slice(2, 5)),
    "truths": np.arange(36).reshape(4, 9) % 5 == 0,
}


@pytest.mark.parametrize("key", KEYS)
def test_they_are_indexed_as_arrays_are(stored: StoredFrames, key: str) -> None:
    expected, frames = ARRAY[KEYS[key]], stored[KEYS[key]]
    assert frames.shape == expected.shape and frames.dtype == np.float64 and frames.dtype.isnative
    assert np.array_equal(frames, expected)
    frames += 1  # theirs is theirs
    assert np.array_equal(stored[KEYS[key]], expected)


def test_they_say_what_they_are(stored: StoredFrames) -> None:
    assert (stored.shape, stored.ndim, len(stored), stored.size, stored.nbytes) == (ARRAY.shape, 4, 4, 360, 2880)
    assert repr(stored) == "StoredFrames(4, 9, 2, 5) of float64, read on demand"
    assert np.array_equal(np.asarray(stored, dtype=np.float32), ARRAY.astype(np.float32))


@pytest.mark.parametrize("key", [(4, 0), (0, 9), (0, 0, 0), (..., 0), (None, 0), ([0, 1], [0, 1, 2])])
def test_what_is_not_there_is_not_read(stored: StoredFrames, key: Any) -> None:
    with pytest.raises(IndexError):
        stored[key]


@pytest.mark.parametrize("size", [1, 80, 200, 720, 1500, 10**6])
def test_blocks_cover_them_in_order_and_within_bounds(stored: StoredFrames, size: int) -> None:
    seen = np.full(ARRAY.shape, np.nan)
    order = []
    for of_array, block in zip(blocks(ARRAY.astype(float), size), blocks(stored, size), strict=True):
        assert of_array[:2] == block[:2] and np.array_equal(of_array.states, block.states)
        assert block.states.nbytes <= max(80, size) and block.states.flags.c_contiguous
        assert np.isnan(seen[block[:2]]).all()
        seen[block[:2]] = block.states
        order.append(block.states.reshape(-1))
    assert np.array_equal(seen, ARRAY) and np.array_equal(np.concatenate(order), ARRAY.reshape(-1))


def _read_there(frames: LazyFrames) -> Array:
    return frames[1, 2:4]


def test_they_are_sent_to_workers(stored: StoredFrames, executors: dict[str, Executor]) -> None:
    assert np.array_equal(stored[0, 0], ARRAY[0, 0])  # open here
    assert len(pickle.dumps(stored)) < 1000
    for executor in executors.values():
        frames = outcome(submit(executor, _read_there, stored))
        assert isinstance(frames, np.ndarray) and np.array_equal(frames, ARRAY[1, 2:4])


@pytest.mark.parametrize("how", ["written to", "replaced", "taken away"])
def test_a_file_that_changes_under_them_is_refused(stored: StoredFrames, tmp_path: Path, how: str) -> None:
    stored[0, 0]
    path = tmp_path / "a.h5"
    if how == "written to":
        with path.open("r+b") as file:
            file.seek(-8, 2)
            file.write(b"12345678")
    elif how == "replaced":
        store(tmp_path / "b.h5", 2 * ARRAY)
        (tmp_path / "b.h5").replace(path)
    else:
        path.unlink()
    with pytest.raises(DataError, match=r"a\.h5 was changed or taken away while it was in use: put back what it was"):
        stored[0, 0]


def test_damage_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    store(path, chunks=(1, 1, 2, 5), fletcher32=True)
    with h5py.File(path) as file:
        place = file["frames"].id.get_chunk_info_by_coord((2, 4, 0, 0)).byte_offset
    with path.open("r+b") as file:
        file.seek(place + 3)
        file.write(b"\x77")
    with h5py.File(path) as file:
        frames = StoredFrames(StoredFile(path), file["frames"])
    assert np.array_equal(frames[2, 3], ARRAY[2, 3])
    with pytest.raises(DataError, match=r"a\.h5 cannot be read as HDF5 data .*: restore the file, or make it again"):
        frames[2]


def mean(states: Array) -> Array:
    assert len(states) == 1
    return states.mean(axis=-1, keepdims=True)


def test_others_are_made_of_them_when_they_are_read(stored: StoredFrames) -> None:
    expected = ARRAY.astype(float).mean(axis=-1, keepdims=True)
    for frames in (stored, ARRAY.astype(float)):
        made = MappedFrames(frames, mean, (2, 1), np.float32)
        assert made.shape == (4, 9, 2, 1) and np.array_equal(made[:], expected.astype(np.float32))
        there = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
        assert np.array_equal(there[[1, 2], 3], expected[[1, 2], 3].astype(np.float32))
    assert np.array_equal(CastFrames(stored, "float32", "")[0, 1], ARRAY[0, 1].astype(np.float32))
    with pytest.raises(DataError, match=r"a frame of shape \(2, 5\) must become one of \(2, 2\), not \(2, 1\)"):
        MappedFrames(stored, mean, (2, 2), np.float32)[0, 0]


def test_some_of_them_are_selected(stored: StoredFrames) -> None:
    for frames in (stored, ARRAY):
        for simulations, times in ((slice(None), slice(None, None, 4)), ([3, 1], slice(1, 8, 3)), (slice(2), slice(None))):
            chosen = select(frames, simulations, times)
            assert np.array_equal(chosen[:], ARRAY[simulations][:, times])
            assert np.array_equal(chosen[-1, 1:], ARRAY[simulations][:, times][-1, 1:])


def test_small_ones_are_read_at_once(stored: StoredFrames) -> None:
    assert isinstance(load_if_small(stored), np.ndarray) and isinstance(load_if_small(stored, 2880), np.ndarray)
    assert load_if_small(stored, 2879) is stored and load_if_small(ARRAY, 1) is ARRAY
