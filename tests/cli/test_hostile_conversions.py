"""`convert` and `show` on the command line, with files and paths that cannot be used: one sentence, and nothing is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from deepzero_sim.cli.main import main
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec

AXES = ("--axes", "[simulation, time, x]")
POINTS, FRAMES = 6, 4


def values(simulations: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(simulations, FRAMES, POINTS)).astype(np.float32)


def write_npz(path: Path) -> Path:
    np.savez(path, u=values(), x=np.arange(POINTS), t=0.5 * np.arange(FRAMES))
    return path


def write_h5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["u"], file["x"], file["t"] = values(), np.arange(POINTS), 0.5 * np.arange(FRAMES)
    return path


def write_mat(path: Path) -> Path:
    from scipy.io import savemat  # noqa: PLC0415 - takes a while to import

    savemat(path, {"u": values(), "x": np.arange(POINTS), "t": 0.5 * np.arange(FRAMES)})
    return path


def write_nc(path: Path) -> Path:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("netCDF4")
    coords = {"time": 0.5 * np.arange(FRAMES), "x": np.arange(POINTS)}
    xarray.Dataset({"u": (("run", "time", "x"), values())}, coords).to_netcdf(path)
    return path


def write_own(path: Path) -> Path:
    spec = SolverSpec(name="line", state_shape=(1, POINTS), dt=0.5, channels=("u",))
    trajectories.save(path, Trajectories(values()[:, :, None]), spec)
    return path


#: Files that are read, by the ends of their names, and whether their axes have to be named.
WHOLE = {
    ".npz": (write_npz, AXES),
    ".h5": (write_h5, AXES),
    ".mat": (write_mat, AXES),
    ".nc": (write_nc, ()),
    ".own.h5": (write_own, ()),
}

SUFFIXES = [".h5", ".nc", ".npz", ".npy", ".mat", ".zarr", ""]


def cut(share: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return change


def junk(path: Path) -> None:
    """Spoil the middle of a file, and leave its beginning and end."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 200 : middle + 200] = b"\xff" * 400
    path.write_bytes(bytes(content))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(capsys: pytest.CaptureFixture[str], folder: Path, *words: str, says: str = "") -> None:
    """Require exit status 2, one sentence, and a folder that is as it was."""
    before = sorted(str(path) for path in folder.rglob("*"))
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepzero-sim: ") and error.count("\n") == 1
    assert len(error) < 900 and "Traceback" not in error and "fault of this program" not in error
    assert says in error, error
    assert sorted(str(path) for path in folder.rglob("*")) == before


def attack(capsys: pytest.CaptureFixture[str], folder: Path, path: str, *words: str, says: str = "") -> None:
    """Convert and show what cannot be read."""
    refuse(capsys, folder, "convert", path, *words, "--output", "made.h5", says=says)
    refuse(capsys, folder, "show", path, *words, "--output", "shown", says=says)


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("change", [cut(0.3), cut(0.7), cut(0.97)], ids=["begun", "most of it", "nearly whole"])
def test_files_that_were_cut_off(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str, change: Callable[[Path], None]
) -> None:
    write, words = WHOLE[suffix]
    change(write(folder / f"a{suffix}"))
    attack(capsys, folder, f"a{suffix}", *words)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\n", b"time,u\n0,1\n1,2\n", b"\0" * 5000], ids=["empty", "line", "text", "zeros"])
def test_files_that_are_no_data_whatever_their_names_say(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str, content: bytes
) -> None:
    (folder / f"a{suffix}").write_bytes(content)
    attack(capsys, folder, f"a{suffix}", says="of no format that is known")
    for layout in ("well", "pdebench", "netcdf", "npy", "npz", "matlab", "hdf5", "zarr", "solver-in-the-loop", "deepzero-sim"):
        refuse(capsys, folder, "convert", f"a{suffix}", "--format", layout, *AXES, "--output", "made.h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folders_and_what_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    attack(capsys, folder, f"a{suffix}", says="there is none")
    (folder / f"b{suffix}").mkdir()
    attack(capsys, folder, f"b{suffix}", says="folder without data")
    (folder / "dangling").symlink_to("nowhere.h5")
    attack(capsys, folder, "dangling", says="there is none")
    (folder / "round").symlink_to("round")
    attack(capsys, folder, "round", says="round")


def test_wrong_names_of_good_files_do_no_harm(folder: Path) -> None:
    write_npz(folder / "real.npz")
    shutil.move("real.npz", "wrong.nc")
    (folder / "link.mat").symlink_to("wrong.nc")
    assert main(["convert", "link.mat", *AXES, "--output", "made.txt"]) == 0
    np.testing.assert_array_equal(trajectories.load(Path("made.txt")).frames[:, :, 0], values())


OUTPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "the input": (lambda path: path.symlink_to("a.npz"), "is there already"),
    "a hard link of the input": (lambda path: os.link("a.npz", path), "is there already"),
    "a file": (lambda path: path.write_text("mine"), "is there already"),
    "a folder": (lambda path: path.mkdir(), "is there already"),
    "a dangling link": (lambda path: path.symlink_to("nowhere.h5"), "is there already"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "link"),
    "a pipe": (os.mkfifo, "is a pipe"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("target", ["deepzero-sim", "well"])
def test_nothing_is_replaced_or_followed(folder: Path, capsys: pytest.CaptureFixture[str], kind: str, target: str) -> None:
    write_npz(folder / "a.npz")
    content = (folder / "a.npz").read_bytes()
    make, says = OUTPUTS[kind]
    make(folder / "out.h5")
    refuse(capsys, folder, "convert", "a.npz", *AXES, "--output", "out.h5", "--to", target, says=says)
    refuse(capsys, folder, "convert", "a.npz", *AXES, "--output", "a.npz", "--to", target, says="is there already")
    assert (folder / "a.npz").read_bytes() == content
    assert not (folder / "nowhere.h5").exists()


@pytest.mark.parametrize("target", ["deepzero-sim", "well"])
@pytest.mark.parametrize("output", ["file.txt/out.h5", "x" * 300 + ".h5", "a\0b.h5", "/proc/out.h5", "."])
def test_outputs_that_cannot_be_written(folder: Path, capsys: pytest.CaptureFixture[str], output: str, target: str) -> None:
    write_npz(folder / "a.npz")
    (folder / "file.txt").write_text("mine")
    refuse(capsys, folder, "convert", "a.npz", *AXES, "--output", output, "--to", target)
    if output != ".":
        refuse(capsys, folder, "show", "a.npz", *AXES, "--output", output)


CONTENTS: dict[str, dict[str, object]] = {
    "nothing but NaN": {"u": np.full((2, FRAMES, POINTS), np.nan)},
    "some NaN": {"u": np.where(np.arange(POINTS) == np.arange(FRAMES)[:, None], np.nan, values())},
    "infinity": {"u": np.full((2, FRAMES, POINTS), np.inf)},
    "no simulation": {"u": np.zeros((0, FRAMES, POINTS))},
    "no frame": {"u": np.zeros((2, 0, POINTS)), "t": np.zeros(0)},
    "no point": {"u": np.zeros((2, FRAMES, 0)), "x": np.zeros(0)},
    "text": {"u": np.full((2, FRAMES, POINTS), "a")},
    "complex numbers": {"u": values() * 1j},
    "a number": {"u": np.float64(1.0)},
    "times that fall": {"t": -np.arange(FRAMES)},
    "times that are NaN": {"t": np.full(FRAMES, np.nan)},
    "uneven times": {"t": np.arange(FRAMES) ** 2},
    "too few times": {"t": np.arange(FRAMES - 1)},
    "positions that go back": {"x": np.array([0, 1, 3, 2, 4, 5])},
    "a mask of another grid": {"mask": np.ones(POINTS + 1)},
    "a mask of nothing": {"mask": np.zeros(POINTS)},
}

#: Content that can be looked at, though not converted.
SHOWN = {"some NaN", "infinity", "uneven times"}


@pytest.mark.parametrize("kind", CONTENTS)
def test_content_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    whole = {"u": values(), "x": np.arange(POINTS), "t": 0.5 * np.arange(FRAMES)}
    np.savez(folder / "a.npz", **{**whole, **CONTENTS[kind]})
    refuse(capsys, folder, "convert", "a.npz", *AXES, "--output", "made.h5", says="a.npz")
    if kind not in SHOWN:
        refuse(capsys, folder, "show", "a.npz", *AXES, "--output", "shown", says="a.npz")


def test_dimensions_that_no_machine_has_room_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File("huge.h5", "w") as file:  # chunks that were never written take no place
        file.create_dataset("u", (2, 4, 2**40), "f4", chunks=(1, 1, 2**20))
        file["t"] = 0.5 * np.arange(4)
    refuse(capsys, folder, "convert", "huge.h5", *AXES, "--output", "made.h5", says="huge.h5")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 1099511627776), }"
    (folder / "huge.npy").write_bytes(header.ljust(127) + b"\n" + b"\0" * 64)
    attack(capsys, folder, "huge.npy", *AXES, says="huge.npy")


def test_the_input_is_named_by_data_or_path_too_and_a_second_path_is_taken_for_the_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(folder / "a.npz")
    assert main(["convert", "--data", "a.npz", *AXES, "--output", "one.h5"]) == 0
    assert main(["convert", "--path", "a.npz", *AXES, "--out", "two.h5"]) == 0
    refuse(capsys, folder, "convert", "a.npz", "three.h5", *AXES, says="did you mean '--output three.h5'?")
    refuse(capsys, folder, "convert", "a.npz", "-o", "three.h5", *AXES, says="did you mean '--output three.h5'?")
    refuse(capsys, folder, "convert", "a.npz", *AXES, says="required: output")


def test_the_well_s_layout_names_the_data_as_their_file(folder: Path) -> None:
    write_npz(folder / "vortices.npz")
    assert main(["convert", "vortices.npz", *AXES, "--output", "well.h5", "--to", "well"]) == 0
    with h5py.File("well.h5") as file:
        assert file.attrs["dataset_name"] == "vortices"
