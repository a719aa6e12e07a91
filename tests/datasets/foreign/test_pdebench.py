"""PDEBench's dialects: each told by what the file holds, whatever it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from recordings import change, cut_short, numbers, refuse, replace_dataset

from deepzero_sim.datasets.foreign import ReadingOptions, detect, read_recording
from deepzero_sim.datasets.foreign.variables import Hdf5Source


def centres(count: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return (low + (np.arange(count) + 0.5) * (high - low) / count).astype(np.float32)


def burgers(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["tensor"] = numbers(3, 6, 8)
        file["x-coordinate"], file["t-coordinate"] = centres(8), np.arange(7, dtype=np.float32) * 0.01
        file.attrs["Nu"] = 0.001
    return path


def darcy(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = numbers(3, 1, 4, 5), numbers(3, 4, 5, start=500)
        file["x-coordinate"], file["y-coordinate"] = centres(4), centres(5)
        file.attrs["beta"] = 1.0
    return path


def compressible(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for place, name in enumerate(("density", "pressure", "Vx", "Vy")):
            file[name] = numbers(2, 3, 4, 5, start=1000 * place)
        file["x-coordinate"], file["y-coordinate"] = centres(4), centres(5)
        file["t-coordinate"] = np.arange(4, dtype=np.float32) * 0.05
        file.attrs.update(eta=0.01, zeta=0.01, M=0.1)
    return path


def dam_break(path: Path, count: int = 3, channels: int = 1) -> Path:
    with h5py.File(path, "w") as file:
        for number in range(count):
            group = file.create_group(f"{number:04d}")
            group["data"] = numbers(6, 4, 5, channels, start=1000 * number)
            group["grid/x"], group["grid/y"] = centres(4, -2.5, 2.5), centres(5, -2.5, 2.5)
            group["grid/t"] = np.linspace(0, 1, 6, dtype=np.float32)
            if channels == 1:
                group.attrs["config"] = f"name: 2d_rdb\nsim:\n  gravity: 1.0\n  dam_radius: 0.{number + 3}\n  seed: {number}\n"
    return path


def diffusion_reaction(path: Path) -> Path:
    return dam_break(path, channels=2)


def incompressible(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["velocity"] = numbers(2, 6, 4, 5, 2)
        file["particles"] = numbers(2, 6, 4, 5, 1, start=5000)
        file["force"] = numbers(2, 4, 5, 2, start=9000)
        file["t"] = np.repeat(np.arange(6, dtype=np.float32)[None] * 0.005, 2, axis=0)
        file.attrs["latestIndex"] = 5
    return path


DIALECTS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], tuple[int, ...], tuple[str, ...], float | None]] = {
    "burgers": (burgers, ("u",), (3, 6, 1, 8), ("x",), 0.01),
    "darcy": (darcy, ("u",), (3, 1, 1, 4, 5), ("x", "y"), None),
    "compressible": (compressible, ("Vx", "Vy", "density", "pressure"), (2, 3, 4, 4, 5), ("x", "y"), 0.05),
    "dam break": (dam_break, ("h",), (3, 6, 1, 4, 5), ("x", "y"), 0.2),
    "diffusion-reaction": (diffusion_reaction, ("u", "v"), (3, 6, 2, 4, 5), ("x", "y"), 0.2),
    "incompressible": (
        incompressible,
        ("velocity_x", "velocity_y", "particles"),
        (2, 6, 3, 4, 5),
        ("x", "y"),
        0.005,
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_has_the_right_axes_channels_and_times(tmp_path: Path, dialect: str) -> None:
    make, channels, shape, axes, dt = DIALECTS[dialect]
    path = make(tmp_path / "data")  # told by its content, not by its name
    assert detect(path) == "pdebench"
    recording = read_recording(path)
    assert recording.channels == channels and recording.frames.shape == shape and recording.axes == axes
    if dt is None:
        assert recording.times is None
    else:
        assert recording.times is not None and np.allclose(recording.times, np.arange(shape[1]) * dt)


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    assert np.array_equal(read_recording(burgers(tmp_path / "b")).frames[2, 4][0], numbers(3, 6, 8)[2, 4])
    flow = read_recording(compressible(tmp_path / "c"))
    assert np.array_equal(flow.frames[1, 2][2], numbers(2, 3, 4, 5, start=0)[1, 2])
    dam = read_recording(diffusion_reaction(tmp_path / "d"))
    assert np.array_equal(dam.frames[2, 3][1], numbers(6, 4, 5, 2, start=2000)[3, :, :, 1])
    velocity = read_recording(incompressible(tmp_path / "i")).frames[1, 5]
    assert np.array_equal(velocity[1], numbers(2, 6, 4, 5, 2)[1, 5, :, :, 1])
    assert np.array_equal(velocity[2], numbers(2, 6, 4, 5, 1, start=5000)[1, 5, :, :, 0])


def test_coordinates_and_parameters_are_those_of_the_file(tmp_path: Path) -> None:
    recording = read_recording(burgers(tmp_path / "b"))
    assert recording.coordinates[0] is not None and np.allclose(recording.coordinates[0], centres(8))
    assert recording.parameters == ("Nu",) and np.allclose(recording.params, 0.001) and recording.periodic == (True,)
    dam = read_recording(dam_break(tmp_path / "d"))
    assert dam.parameters == ("gravity", "dam_radius", "seed")
    assert np.allclose(dam.params, [[1, 0.3, 0], [1, 0.4, 1], [1, 0.5, 2]])
    assert dam.coordinates[1] is not None and np.allclose(dam.coordinates[1], centres(5, -2.5, 2.5))
    assert dam.periodic == (None, None)


def test_fields_that_do_not_change_are_said_and_can_be_chosen(tmp_path: Path) -> None:
    path = darcy(tmp_path / "d")
    assert any("nu does not change in time" in note for note in read_recording(path).notes)
    chosen = read_recording(path, ReadingOptions(channels=["nu", "u"]))
    assert chosen.channels == ("nu", "u") and np.array_equal(chosen.frames[2, 0][0], numbers(3, 4, 5, start=500)[2])
    forced = read_recording(incompressible(tmp_path / "i"), ReadingOptions(channels=["velocity", "force_y"]))
    assert forced.channels == ("velocity_x", "velocity_y", "force_y")
    assert np.array_equal(forced.frames[1, 2][2], numbers(2, 4, 5, 2, start=9000)[1, :, :, 1])


def test_only_the_frames_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    read = Hdf5Source.read
    monkeypatch.setattr(Hdf5Source, "read", lambda self, index: asked.append(v := read(self, index)) or v)
    recording = read_recording(dam_break(tmp_path / "d", count=5))
    asked.clear()
    assert recording.frames[[1, 3], [2, 4]].shape == (2, 1, 4, 5)
    assert [values.shape for values in asked] == [(1, 4, 5, 1)] * 2


FAULTS: dict[str, tuple[Callable[[Path], Path], Any, str]] = {
    "times of another run": (
        burgers,
        lambda f: replace_dataset(f, "t-coordinate", np.arange(9.0)),
        "t-coordinate of shape .* fits no 6 frames",
    ),
    "axes swapped": (
        compressible,
        lambda f: replace_dataset(f, "Vx", numbers(2, 3, 5, 4)),
        r"Vx has shape \(2, 3, 5, 4\), but x-coordinate",
    ),
    "fields of several lengths": (
        compressible,
        lambda f: replace_dataset(f, "Vx", numbers(2, 2, 4, 5)),
        "fields have 2 and 3 frames",
    ),
    "fewer simulations in a field": (
        compressible,
        lambda f: replace_dataset(f, "Vx", numbers(1, 3, 4, 5)),
        "points along simulation in",
    ),
    "text for numbers": (
        burgers,
        lambda f: replace_dataset(f, "tensor", np.full((3, 6, 8), b"a")),
        r"u of .* holds \|S1, expected real numbers",
    ),
    "complex numbers": (
        burgers,
        lambda f: replace_dataset(f, "tensor", np.ones((3, 6, 8), complex)),
        "holds complex128, expected real numbers",
    ),
    "NaN among positions": (burgers, lambda f: f["x-coordinate"].__setitem__(1, np.nan), "must be finite and rise or fall"),
    "a group on another grid": (
        dam_break,
        lambda f: f["0001/grid/x"].__setitem__(0, -3.0),
        "group 0001 has other values of x than group 0000",
    ),
    "a group at other times": (
        dam_break,
        lambda f: f["0002/grid/t"].__setitem__(5, 2.0),
        "group 0002 has other values of time than group 0000",
    ),
    "a group of another shape": (
        dam_break,
        lambda f: replace_dataset(f, "0001/data", numbers(6, 4, 4, 1)),
        "data of group 0001 has shape",
    ),
    "a group without data": (dam_break, lambda f: f["0001"].__delitem__("data"), "there is no data"),
    "a group of more settings": (
        dam_break,
        lambda f: f["0001"].attrs.__setitem__("config", "sim: {gravity: 1}"),
        "group 0001 has other shapes",
    ),
    "settings that are no YAML": (dam_break, lambda f: f["0001"].attrs.__setitem__("config", "a: [1"), "are no YAML"),
    "written up to the middle": (
        incompressible,
        lambda f: f.attrs.__setitem__("latestIndex", 3),
        "written up to frame 3.0 of 6 only",
    ),
    "times that differ": (incompressible, lambda f: f["t"].__setitem__((1, 2), 7.0), "frames at different times"),
    "velocity in three dimensions of two": (
        incompressible,
        lambda f: replace_dataset(f, "velocity", numbers(2, 6, 4, 5, 3)),
        "velocity must be",
    ),
    "a field of another grid": (
        incompressible,
        lambda f: replace_dataset(f, "particles", numbers(2, 6, 4, 4, 1)),
        "points along y in velocity and",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_contradicts_itself_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    make, harm, says = FAULTS[fault]
    path = make(tmp_path / "a.h5")
    with change(path) as file:
        harm(file)
    refuse(path, says)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_cut_short_is_refused_in_a_sentence(tmp_path: Path, dialect: str) -> None:
    path = DIALECTS[dialect][0](tmp_path / "a.h5")
    cut_short(path)
    refuse(path, "cannot be read")


def test_damage_that_is_met_when_a_frame_is_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("tensor", data=numbers(3, 6, 800), chunks=(1, 1, 800), fletcher32=True)
        file["x-coordinate"] = centres(800)
    content, needle = bytearray(path.read_bytes()), numbers(3, 6, 800)[2, 4].tobytes()
    content[content.index(needle) + 5] ^= 1
    path.write_bytes(content)
    assert read_recording(path).frames[2, 3].shape == (1, 800)
    refuse(path, "cannot be read as data in a layout of PDEBench", frame=(2, 4))
