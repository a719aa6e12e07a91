"""NumPy's files: axes by the user's word or by lengths that leave no doubt, parts read in place, nothing pickled."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import cut_short, numbers, refuse

from deepzero_sim.datasets.foreign import ReadingOptions, detect, numpy_files, read_recording
from deepzero_sim.datasets.opening import open_trajectories
from deepzero_sim.datasets.source import DataSource
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.solver.spec import SolverSpec

ALL = ReadingOptions(axes=["simulation", "time", "channel", "y", "x"])


def test_an_array_has_the_axes_that_the_user_names(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", numbers(2, 6, 3, 4, 5))
    assert detect(tmp_path / "data.npy") == "npy"
    recording = read_recording(tmp_path / "data.npy", ALL)
    assert recording.frames.shape == (2, 6, 3, 4, 5) and recording.axes == ("y", "x")
    assert np.array_equal(recording.frames[1, 4], numbers(2, 6, 3, 4, 5)[1, 4])
    assert recording.channels == ("channel_0", "channel_1", "channel_2") and recording.times is None
    turned = ReadingOptions(axes=["x", "channel", "time", "y", "simulation"], channels=["a", "b", "c", "d", "e", "f"], dt=0.5)
    recording = read_recording(tmp_path / "data.npy", turned)
    assert recording.frames.shape == (5, 3, 6, 2, 4) and recording.axes == ("x", "y")
    assert np.array_equal(recording.frames[4, 2], numbers(2, 6, 3, 4, 5)[:, :, 2, :, 4].transpose(1, 0, 2))
    assert recording.channels == ("a", "b", "c", "d", "e", "f")
    assert recording.times is not None and recording.times.tolist() == [0, 0.5, 1]


def test_axes_keep_the_order_of_the_array(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", numbers(4, 6, 5))
    recording = read_recording(tmp_path / "data.npy", ReadingOptions(axes=["x", "time", "y"]))
    assert recording.axes == ("x", "y") and recording.frames.shape == (1, 6, 1, 4, 5)
    assert np.array_equal(recording.frames[0, 3][0], numbers(4, 6, 5)[:, 3])


def test_axes_that_lengths_do_not_tell_have_to_be_named(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", numbers(2, 6, 3, 4, 5))
    refuse(tmp_path / "data.npy", r"\(2, 6, 3, 4, 5\): name them in order by axes, such as \[simulation, time, channel, y, x\]")
    refuse(tmp_path / "data.npy", "names 4 axes, but data .* has 5", ReadingOptions(axes=["simulation", "time", "y", "x"]))
    with pytest.raises(ConfigError, match="axes of the data must name which axis is the time"):
        ReadingOptions(axes=["simulation", "y", "x"])


@pytest.mark.parametrize("compressed", [True, False])
def test_named_arrays_say_what_they_are(tmp_path: Path, compressed: bool) -> None:
    save = np.savez_compressed if compressed else np.savez
    save(
        tmp_path / "data.npz",
        frames=numbers(2, 6, 3, 4, 5),
        times=np.arange(6) * 0.1,
        params=np.array([[1.0, 2], [3, 4]]),
        x=np.arange(5.0),
        y=np.arange(4.0),
        channels=["rho", "u", "v"],
        parameter_names=["nu", "re"],
        mask=np.ones((4, 5), bool),
        author="me",
    )
    recording = read_recording(tmp_path / "data.npz")
    assert detect(tmp_path / "data.npz") == "npz"
    assert recording.channels == ("rho", "u", "v") and recording.axes == ("y", "x") and recording.parameters == ("nu", "re")
    assert np.array_equal(recording.frames[[0, 1], [5, 2]], numbers(2, 6, 3, 4, 5)[[0, 1], [5, 2]])
    assert recording.params.tolist() == [[1, 2], [3, 4]] and recording.mask is None
    assert recording.times is not None and np.allclose(recording.times, np.arange(6) * 0.1)
    assert any("author was left out" in note for note in recording.notes)


def test_lengths_that_could_be_either_are_not_guessed(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", u=numbers(2, 6, 4, 4), times=np.arange(6.0), x=np.arange(4.0), y=np.arange(4.0))
    refuse(tmp_path / "data.npz", "cannot be told from their lengths")
    np.savez(tmp_path / "data.npz", u=numbers(4, 6, 5), times=np.arange(6.0), x=np.arange(5.0))
    refuse(tmp_path / "data.npz", "cannot be told from their lengths")  # 4: simulations, or channels?


@pytest.mark.parametrize(
    ("shape", "space", "example"),
    [
        ((6, 4), (), "such as [time, x]."),
        ((8, 6, 4), (), "such as [simulation, time, x], or [time, y, x] if it is one simulation."),
        ((8, 6, 4), ("y", "x"), "such as [time, y, x]."),
        ((8, 6, 4), ("r",), "such as [simulation, time, r]."),
        ((8, 6, 4), ("z", "y", "x"), "such as [simulation, time, x], or [time, y, x] if"),  # which leave no axis for the time
        ((8, 6, 4, 5), ("z", "y", "x"), "such as [time, z, y, x]."),
        ((8, 6, 4, 5), ("x",), "such as [simulation, time, channel, x]."),
        ((9, 8, 6, 4, 5), (), "such as [simulation, time, channel, y, x]."),
    ],
)
def test_the_example_of_axes_has_as_many_as_the_array(
    tmp_path: Path, shape: tuple[int, ...], space: tuple[str, ...], example: str
) -> None:
    np.savez(tmp_path / "data.npz", u=numbers(*shape))
    refuse(tmp_path / "data.npz", re.escape(f"by axes, {example}"), ReadingOptions(space=space))


def test_a_solver_tells_how_many_axes_an_example_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", u=numbers(8, 6, 4))
    for axes, example in (((), "[time, y, x]"), (("r", "z"), "[time, r, z]")):
        spec = SolverSpec(name="plane", state_shape=(1, 6, 4), dt=1.0, axes=axes)
        with pytest.raises(DataError, match=re.escape(f"such as {example}.")):
            open_trajectories(DataSource(tmp_path / "data.npz"), spec)


def test_channels_the_wrong_way_round_are_written_the_right_way(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", c=numbers(6, 4), T=numbers(6, 4), t=np.arange(6.0), x=np.arange(4.0))
    turned = "holds no channel 'dye': it has T, c; channels go from the file's names to the solver's: write {c: dye, T: heat}."
    refuse(tmp_path / "data.npz", re.escape(turned), ReadingOptions(channels={"dye": "c", "T": "heat"}))
    refuse(tmp_path / "data.npz", "it has c, T; channels go .* to the solver's.$", ReadingOptions(channels={"dye": "ink"}))
    refuse(tmp_path / "data.npz", "holds no channel 'dye': it has c, T.$", ReadingOptions(channels=["dye"]))
    assert read_recording(tmp_path / "data.npz", ReadingOptions(channels={"c": "dye"})).channels == ("dye",)


def test_parameters_are_those_of_all_simulations_or_of_the_only_one(tmp_path: Path) -> None:
    arrays = {"t": np.arange(6.0), "x": np.arange(5.0)}
    np.savez(tmp_path / "one.npz", u=numbers(6, 5), params=[1.0, 2.0, 3.0], **arrays)
    assert read_recording(tmp_path / "one.npz").params.tolist() == [[1, 2, 3]]
    np.savez(tmp_path / "many.npz", u=numbers(3, 6, 5), params=[1.0, 2.0, 3.0], **arrays)
    many = read_recording(tmp_path / "many.npz", ReadingOptions(axes=["simulation", "time", "x"]))
    assert many.params.tolist() == [[1], [2], [3]]
    np.savez(tmp_path / "bad.npz", u=numbers(3, 6, 5), params=np.ones((2, 2)), **arrays)
    refuse(tmp_path / "bad.npz", "cannot be told from their lengths")
    named = ReadingOptions(axes=["simulation", "time", "x"])
    refuse(tmp_path / "bad.npz", "must be a number for each of 3 simulations", named)
    np.savez(tmp_path / "bad.npz", u=numbers(3, 6, 5), params=np.ones((3, 2, 2)), **arrays)
    refuse(tmp_path / "bad.npz", r"must be \(S, K\)", named)
    np.savez(tmp_path / "bad.npz", u=numbers(6, 3), t=np.arange(6.0), params=np.ones((3, 1)))
    refuse(tmp_path / "bad.npz", "cannot be told from their lengths")  # no axis in space would be left


def test_several_fields_are_channels(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "d.npz", u=numbers(6, 4, 5), v=numbers(6, 4, 5, start=500), t=np.arange(6.0), x=np.arange(4), y=np.arange(5)
    )
    recording = read_recording(tmp_path / "d.npz")
    assert recording.channels == ("u", "v") and recording.axes == ("x", "y") and recording.frames.shape == (1, 6, 2, 4, 5)
    assert np.array_equal(recording.frames[0, 2][1], numbers(6, 4, 5, start=500)[2])
    chosen = read_recording(tmp_path / "d.npz", ReadingOptions(channels={"v": "speed"}))
    assert chosen.channels == ("speed",) and np.array_equal(chosen.frames[0, 2][0], numbers(6, 4, 5, start=500)[2])


def test_a_mask_zeroes_what_lies_outside(tmp_path: Path) -> None:
    mask = np.ones((4, 5), bool)
    mask[1, 2] = False
    np.savez(tmp_path / "d.npz", u=numbers(6, 4, 5), t=np.arange(6.0), x=np.arange(4), y=np.arange(5), mask=mask)
    recording = read_recording(tmp_path / "d.npz")
    assert (
        recording.mask is not None
        and np.array_equal(recording.mask[0], mask)
        and (recording.frames[0, :][:, 0, 1, 2] == 0).all()
    )


def test_a_folder_has_a_file_for_each_simulation(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        np.save(tmp_path / f"run_{number}.npy", numbers(6, 4, 5, start=1000 * number))
    recording = read_recording(tmp_path, ReadingOptions(axes=["time", "y", "x"]))
    assert recording.frames.shape == (3, 6, 1, 4, 5)
    assert [recording.frames[s, 0][0, 0, 0] for s in range(3)] == [1000, 2000, 10000]  # 2 before 10
    assert recording.channels == ("run",)
    named = read_recording(tmp_path, ReadingOptions(axes=["time", "y", "x"], channels=["u"]))
    assert named.channels == ("u",) and np.array_equal(named.frames[1, 2], recording.frames[1, 2])
    np.save(tmp_path / "run_3.npy", numbers(6, 4, 4))
    refuse(tmp_path, "run_3.npy are to be simulations of one set, but", ReadingOptions(axes=["time", "y", "x"]))


def test_a_folder_of_archives_has_parameters_that_differ(tmp_path: Path) -> None:
    for number in (1, 2):
        np.savez(
            tmp_path / f"run_{number}.npz", u=numbers(6, 5, start=number), t=np.arange(6.0), x=np.arange(5), params=[number]
        )
    recording = read_recording(tmp_path, ReadingOptions(parameters=["nu"]))
    assert (
        recording.params.tolist() == [[1], [2]] and recording.parameters == ("nu",) and recording.frames.shape == (2, 6, 1, 5)
    )


def test_a_folder_may_have_a_file_for_each_array(tmp_path: Path) -> None:
    np.save(tmp_path / "u.npy", numbers(2, 6, 5))
    np.save(tmp_path / "t.npy", np.arange(6.0))
    np.save(tmp_path / "x.npy", np.arange(5.0))
    recording = read_recording(tmp_path, ReadingOptions(axes=["simulation", "time", "x"]))
    assert recording.channels == ("u",) and recording.frames.shape == (2, 6, 1, 5)
    assert recording.times is not None and recording.coordinates[0] is not None


@pytest.mark.parametrize("name", ["a.npy", "stored.npz"])
def test_only_the_frames_that_are_asked_for_are_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = numbers(2, 6, 3, 4, 5)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "stored.npz", a=values)
    recording = read_recording(tmp_path / name, ALL)
    asked: list[tuple[int, ...]] = []
    read = numpy_files.NpySource.read
    monkeypatch.setattr(numpy_files.NpySource, "read", lambda s, i: asked.append((v := read(s, i)).shape) or v)
    assert np.array_equal(recording.frames[1, 4], values[1, 4]) and asked == [(1, 3, 4, 5)]
    assert len(pickle.dumps(recording.frames)) < values.nbytes + 2000
    assert np.array_equal(pickle.loads(pickle.dumps(recording.frames))[0, 1], values[0, 1])  # noqa: S301


def test_a_sparse_file_larger_than_memory_is_read_in_parts(tmp_path: Path) -> None:
    shape = (10_000, 1000, 1, 64, 64)  # 164 GB
    file = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, shape)
    file[9_999, 998] = 7.0
    del file
    frames = read_recording(tmp_path / "big.npy", ALL).frames
    assert frames.shape == shape and (frames[9_999, 998] == 7).all() and not frames[3, 5].any()


def test_whole_numbers_become_floating_point(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(12, dtype=">i2").reshape(3, 4))
    recording = read_recording(tmp_path / "a.npy", ReadingOptions(axes=["time", "x"]))
    assert recording.frames.dtype == np.float32 and recording.frames[0, 2][0].tolist() == [8, 9, 10, 11]
    np.save(tmp_path / "b.npy", np.full((3, 4), 2**40 + 1))
    assert read_recording(tmp_path / "b.npy", ReadingOptions(axes=["time", "x"])).frames[0, 0][0, 0] == 2**40 + 1


def test_columns_first_is_understood(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(numbers(3, 4)))
    assert np.array_equal(
        read_recording(tmp_path / "a.npy", ReadingOptions(axes=["time", "x"])).frames[0, 1][0], numbers(3, 4)[1]
    )


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_pickled_objects_are_refused_unopened(tmp_path: Path, save: Any) -> None:
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, np.array([[Trap(tmp_path / "sprung")] * 3] * 4, dtype=object))
    refuse(path, "it holds pickled objects, which are not loaded", ReadingOptions(axes=["time", "x"]))
    assert not (tmp_path / "sprung").exists()


FAULTS: dict[str, tuple[Any, str]] = {
    "text": (lambda p: np.save(p, np.full((3, 4), "a")), "holds no field of numbers|expected real numbers"),
    "complex numbers": (lambda p: np.save(p, np.ones((3, 4), complex)), "holds no field of numbers|expected real numbers"),
    "records": (lambda p: np.save(p, np.zeros((3, 4), [("a", "f4")])), "holds no field of numbers|expected real numbers"),
    "nothing": (lambda p: np.save(p, np.zeros((0, 4))), "holds no field of numbers"),
    "one number": (lambda p: np.save(p, np.float32(1)), "holds no field of numbers"),
    "only missing values": (lambda p: np.save(p, np.full((3, 4), np.nan)), "nothing but missing values"),
    "cut short": (lambda p: (np.save(p, numbers(300, 40)), cut_short(p)), "cannot be read as an array"),
    "cut in its header": (lambda p: (np.save(p, numbers(3, 4)), cut_short(p, 0.2)), "cannot be read as an array"),
    "another version": (lambda p: p.write_bytes(b"\x93NUMPY\x09\x00v\x00" + b" " * 200), "of version 9.0, expected 1.0 or 2.0"),
    "a header that is code": (
        lambda p: p.write_bytes(b"\x93NUMPY\x01\x00v\x00" + b"__import__('os').abort()".ljust(118)),
        "cannot be read as an array",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_array_of_another_kind_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.npy"
    FAULTS[fault][0](path)
    refuse(path, FAULTS[fault][1], ReadingOptions(axes=["time", "x"]))


ARCHIVES: dict[str, tuple[Any, str]] = {
    "cut short": (lambda p: (np.savez(p, a=numbers(300, 40)), cut_short(p)), "cannot be read as an array"),
    "without arrays": (lambda p: zipfile.ZipFile(p, "w").writestr("a.txt", "a"), "archive without arrays"),
    "times of another run": (
        lambda p: np.savez(p, u=numbers(6, 5), t=np.arange(4.0), x=np.arange(5.0)),
        "but 4 times",
    ),
    "times that fall": (lambda p: np.savez(p, u=numbers(3, 5), t=[0.0, 2, 1], x=np.arange(5.0)), "must be finite and rise"),
    "positions of NaN": (lambda p: np.savez(p, u=numbers(3, 5), t=np.arange(3), x=[0, 1, 2, np.nan, 4]), "must be finite and"),
    "text for times": (
        lambda p: np.savez(p, u=numbers(3, 5), t=["a", "b", "c"], x=np.arange(5.0)),
        "must hold numbers",
    ),
    "a table for times": (lambda p: np.savez(p, u=numbers(3, 5), t=numbers(3, 2)), "must be a list of numbers"),
    "a mask of another shape": (
        lambda p: np.savez(p, u=numbers(3, 5), t=np.arange(3), x=np.arange(5), mask=np.ones(4)),
        "has a mask of shape",
    ),
    "a mask of twos": (lambda p: np.savez(p, u=numbers(3, 5), t=np.arange(3), mask=np.full(5, 2)), "must hold 1 where fields"),
    "a mask of zeros": (lambda p: np.savez(p, u=numbers(3, 5), t=np.arange(3), mask=np.zeros(5)), "False everywhere"),
    "fields that do not fit": (lambda p: np.savez(p, u=numbers(3, 5), v=numbers(3, 4)), "several fields of different shapes"),
    "a negative step": (lambda p: np.savez(p, u=numbers(3, 5), dt=-1.0), "dt of .* must be a positive number"),
}


@pytest.mark.parametrize("fault", ARCHIVES)
def test_an_archive_that_contradicts_itself_is_refused_in_a_sentence(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "a.npz"
    ARCHIVES[fault][0](path)
    refuse(path, ARCHIVES[fault][1], ReadingOptions(axes=["time", "x"]))


def test_a_flipped_bit_in_a_compressed_member_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=(300, 40)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    refuse(path, "cannot be read as an array", ReadingOptions(axes=["time", "x"]), frame=(0, 1))


def test_a_file_that_changes_while_it_is_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, numbers(6, 5))
    frames = read_recording(path, ReadingOptions(axes=["time", "x"])).frames
    np.save(path, numbers(7, 5))
    with pytest.raises(DataError, match="was changed or taken away while it was in use"):
        frames[0, 1]
    path.unlink()
    with pytest.raises(DataError, match="was changed or taken away"):
        frames[0, 1]


def test_the_step_that_is_named_must_be_that_of_the_times(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=numbers(3, 5), t=np.arange(3) * 0.5, x=np.arange(5.0))
    refuse(tmp_path / "a.npz", "dt says that frames .* lie 2.0 apart, but its times are", ReadingOptions(dt=2.0))


def test_what_is_no_data_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello there, this is text")
    refuse(tmp_path / "a.txt", "is of no format that is known, as it begins with b'hello there,': expected well, pdebench")
    refuse(tmp_path / "none", "expected data at .*none, but there is none: check the path")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "README").write_text("a")
    refuse(tmp_path / "folder", "is a folder without data that is known: .* but it has README")
    with pytest.raises(ConfigError, match=r"format of the data may have well, .* not 'netcfd' \(did you mean 'netcdf'\?\)"):
        read_recording(tmp_path / "a.txt", ReadingOptions(format="netcfd"))
