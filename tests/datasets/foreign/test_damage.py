"""Damage anywhere in a file of any format: one sentence, or the data; never a traceback, and never a hang."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_matlab
import test_netcdf
import test_pdebench
import test_solver_in_the_loop
import test_well
from recordings import numbers

from deepzero_sim.datasets.foreign import ReadingOptions, read_recording
from deepzero_sim.errors import ConfigError, DataError


def npz(path: Path) -> Path:
    arrays = {"u": numbers(6, 4, 5), "t": np.arange(6.0), "x": np.arange(4), "y": np.arange(5)}
    np.savez_compressed(path / "a.npz", **arrays)
    return path / "a.npz"


def npy(path: Path) -> Path:
    np.save(path / "a.npy", numbers(6, 4, 5))
    return path / "a.npy"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "well": lambda p: test_well.well_file(p / "a.h5"),
    "pdebench": lambda p: test_pdebench.dam_break(p / "a.h5"),
    "solver-in-the-loop": lambda p: test_solver_in_the_loop.scenes(p / "set"),
    "netcdf 4": lambda p: test_netcdf.write(test_netcdf.ocean(), p),
    "netcdf 3": lambda p: test_netcdf.write(test_netcdf.ocean(), p, "netcdf3"),
    "zarr": lambda p: test_netcdf.write(test_netcdf.ocean(), p, "zarr3"),
    "npy": npy,
    "npz": npz,
    "matlab 5": lambda p: test_matlab.save(p / "a.mat", test_matlab.PLAIN, "5"),
    "matlab 7.3": lambda p: test_matlab.save(p / "a.mat", test_matlab.PLAIN, "7.3"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_damage_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path)
    options = ReadingOptions(axes=["time", "y", "x"]) if kind == "npy" else ReadingOptions()
    files = [p for p in ([path] if path.is_file() else sorted(path.rglob("*"))) if p.is_file()]
    generator, refused = np.random.default_rng(0), 0
    for _ in range(40):
        file = files[int(generator.integers(len(files)))]
        whole = file.read_bytes()
        content = bytearray(whole)
        for place in generator.integers(min(len(content), 3000), size=3):
            content[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(content[: int(generator.integers(len(content) // 2, len(content) + 1))])
        try:
            recording = read_recording(path, options)
            for frame in range(recording.frames.shape[1]):
                recording.frames[-1, frame]
        except (DataError, ConfigError) as error:
            refused += 1
            said = str(error)
            assert "\n" not in said and len(said) < 1000 and said.endswith("."), said
        file.write_bytes(whole)
    assert refused > 5
    read_recording(path, options)
