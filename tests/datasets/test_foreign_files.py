"""Files of trajectories by other hands: what Julia, R, MATLAB, netCDF and C write is read, what is hostile is refused."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
from h5py import h5a, h5s, h5t
from test_metadata import SPEC, save_file
from training_cases import line_data

from deepzero_sim.cli.main import main
from deepzero_sim.common import hdf5_objects
from deepzero_sim.datasets import trajectories
from deepzero_sim.errors import DataError

FORMAT = "deepzero-sim trajectories"


def low_level(attributes: h5py.AttributeManager, key: str, text: str, padding: int, size: int) -> None:
    """Write text of fixed length as C programs do."""
    kind = h5t.C_S1.copy()
    kind.set_size(size)
    kind.set_strpad(padding)
    attribute = h5a.create(attributes._id, key.encode(), kind, h5s.create(h5s.SCALAR))
    attribute.write(np.array(text.encode().ljust(size, b" " if padding == h5t.STR_SPACEPAD else b"\0"), dtype=f"S{size}"))


Writer = Callable[[h5py.AttributeManager, str, str], None]


def by(convert: Callable[[str], Any]) -> Writer:
    return lambda attributes, key, text: attributes.__setitem__(key, convert(text))


TEXTS: dict[str, Writer] = {
    "h5py": by(str),
    "h5py, ASCII": lambda attributes, key, text: attributes.create(key, text, dtype=h5py.string_dtype("ascii")),
    "numpy's bytes": by(lambda text: np.bytes_(text.encode())),
    "Julia: fixed length": by(lambda text: np.array(text.encode(), dtype=f"S{len(text.encode())}")),
    "R: an array of one": by(lambda text: np.array([text], dtype=h5py.string_dtype())),
    "R: fixed length, an array of one": by(lambda text: np.array([text.encode()])),
    "two axes of one": by(lambda text: np.array([[text.encode()]])),
    "MATLAB: padded": by(lambda text: np.array(text.encode(), dtype="S100")),
    "C: with its NUL": lambda attributes, key, text: low_level(attributes, key, text, h5t.STR_NULLTERM, len(text.encode()) + 1),
    "C: NULs to the end": lambda attributes, key, text: low_level(attributes, key, text, h5t.STR_NULLPAD, 100),
    "Fortran: blanks to the end": lambda attributes, key, text: low_level(attributes, key, text, h5t.STR_SPACEPAD, 100),
}

STATED = ("format", "name", "channels", "channel_units", "parameters", "parameter_units", "axes")


def rewritten(path: Path, writer: Writer) -> Path:
    with h5py.File(path, "a") as file:
        for key in STATED:
            text = file.attrs[key]
            del file.attrs[key]
            writer(file.attrs, key, text)
    return path


@pytest.mark.parametrize("who", TEXTS)
def test_text_is_read_in_every_form(tmp_path: Path, who: str) -> None:
    path = rewritten(save_file(tmp_path / "a.h5"), TEXTS[who])
    found = trajectories.load(path, SPEC)
    assert found.frames.shape == (2, 5, 2, 4, 3)
    assert found.attributes["format"] == FORMAT and found.attributes["name"] == "flow"
    assert found.metadata is not None and found.metadata.channels == ("u", "v")
    with pytest.raises(DataError, match="made for solver 'flow', not 'other'"):
        trajectories.load(rewritten(save_file(tmp_path / "b.h5"), TEXTS[who]), _spec_named("other"))


def _spec_named(name: str) -> Any:
    from dataclasses import replace  # noqa: PLC0415 - only here

    return replace(SPEC, name=name)


LISTS: dict[str, Callable[[list[str]], Any]] = {
    "JSON": json.dumps,
    "JSON in bytes": lambda texts: np.bytes_(json.dumps(texts)),
    "an array": lambda texts: np.array(texts, dtype=h5py.string_dtype()),
    "an array of fixed length": lambda texts: np.array([text.encode() for text in texts]),
    "an array of two axes": lambda texts: np.array([[text.encode()] for text in texts]),
}


@pytest.mark.parametrize("how", LISTS)
def test_lists_of_names_are_read_in_every_form(tmp_path: Path, how: str) -> None:
    path = save_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        for key in STATED[2:]:
            file.attrs[key] = LISTS[how](list(getattr(SPEC, key)))
    assert trajectories.load(path, SPEC).metadata is not None
    with h5py.File(path, "a") as file:
        file.attrs["channels"] = LISTS[how](["v", "u"])
    with pytest.raises(DataError, match=r"its channels are \(v, u\), not \(u, v\)"):
        trajectories.load(path, SPEC)


@pytest.mark.parametrize("value", ["Temperatur in °C", "µ", "日本"])
@pytest.mark.parametrize("who", TEXTS)
def test_letters_of_all_languages_are_the_same_text(tmp_path: Path, value: str, who: str) -> None:
    if who == "h5py, ASCII":
        pytest.skip("ASCII has no such letters")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        TEXTS[who](file.attrs, "x", value)
        assert hdf5_objects.text(file.attrs["x"]) == value
        assert hdf5_objects.texts(file.attrs["x"]) == (value,)


@pytest.mark.parametrize("kind", [h5py.string_dtype("ascii", 2), h5py.string_dtype()])
def test_text_that_is_no_utf_8_is_taken_for_latin_1(tmp_path: Path, kind: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.create("x", b"\xb0C", dtype=kind)
        assert hdf5_objects.text(file.attrs["x"]) == "°C"


NUMBERS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "single": np.float32,
    "half": np.float16,
    "whole": int,
    "big-endian": lambda x: np.array(x, ">f8"),
    "big-endian array of one": lambda x: np.array([x], ">i4"),
    "MATLAB": lambda x: np.array([[x]]),
    "unsigned": np.uint8,
}


@pytest.mark.parametrize("how", NUMBERS)
def test_numbers_are_read_in_every_form(tmp_path: Path, how: str) -> None:
    from dataclasses import replace  # noqa: PLC0415 - only here

    spec = replace(SPEC, dt=2.0)
    path = save_file(tmp_path / "a.h5", spec)
    with h5py.File(path, "a") as file:
        file.attrs["version"], file.attrs["dt"] = NUMBERS[how](1), NUMBERS[how](2)
    assert trajectories.load(path, spec).attributes["dt"] == 2
    with h5py.File(path, "a") as file:
        file.attrs["dt"] = NUMBERS[how](4)
    with pytest.raises(DataError, match="its dt is 4, not 2"):
        trajectories.load(path, spec)


def test_a_file_that_netcdf_wrote_is_read(tmp_path: Path) -> None:
    path, names = tmp_path / "a.nc", ("simulation", "time", "channel", "y", "x")
    data = np.random.default_rng(0).normal(size=(2, 5, 2, 4, 3)) * SPEC.active()
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(names, data.shape, strict=True):
            file.createDimension(name, None if name == "time" else size)
        file.createDimension("parameter", 2)
        file.createVariable("frames", "f8", names, zlib=True)[:] = data
        file.createVariable("params", "f4", ("simulation", "parameter"))[:] = 1.0
        file.createVariable("mask", "i1", ("channel", "y", "x"))[:] = SPEC.active()
        for channel in SPEC.channels:
            group = file.createGroup(f"axes/{channel}")
            for a, axis in enumerate(("y", "x")):
                group.createVariable(axis, "f8", (axis,))[:] = SPEC.coordinates(SPEC.channels.index(channel), a)
        file.setncattr("format", FORMAT)
        file.version, file.dt = np.int32(1), 0.1
        file.setncattr("name", "flow")
        file.setncattr_string("channels", ["u", "v"])
        file.channel_units, file.axes = '["m/s", "m/s"]', ["y", "x"]
        file.parameters, file.spacing = ["nu", "speed"], list(SPEC.spacing)
    found = trajectories.load(path, SPEC)
    np.testing.assert_array_equal(found.frames, data.astype(np.float32))
    with netCDF4.Dataset(path, "a") as file:
        file["axes/u/y"][:] = np.arange(4) * 0.3
    with pytest.raises(DataError, match="its points of channel 0 along axis 0 are at"):
        trajectories.load(path, SPEC)


def test_values_that_netcdf_left_out_are_no_frames(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["frames"].attrs["_FillValue"] = np.array([9.96921e36])
        file["frames"][0, 1, 0, 0, 0] = 9.96921e36
    with pytest.raises(DataError, match=r"frames has values that are missing \(_FillValue is 9.96921e\+36\)"):
        trajectories.load(path, SPEC)


def test_packed_numbers_are_refused(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["frames"].attrs["scale_factor"] = 0.1
    with pytest.raises(DataError, match="frames holds packed numbers, as its attribute scale_factor says"):
        trajectories.load(path, SPEC)


def write_changed(change: Callable[[h5py.File, Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = save_file(folder / "a.h5")
        with h5py.File(path, "a") as file:
            change(file, folder)
        return path

    return make


def put(name: str, value: Any) -> Callable[[h5py.File, Path], object]:
    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        if callable(value):
            value(file, folder)
        else:
            file[name] = value

    return change


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(np.full(240, 7.0).tobytes())
    file.create_dataset("frames", (2, 5, 2, 4, 3), "f8", external=[(str(folder / "secret"), 0, 1920)])


def external_link(file: h5py.File, folder: Path) -> None:
    other = save_file(folder / "other.h5")
    file["frames"] = h5py.ExternalLink(str(other), "/frames")


def link_to_a_pipe(file: h5py.File, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    file["frames"] = h5py.ExternalLink(str(folder / "pipe"), "/frames")


def through_an_external_group(file: h5py.File, folder: Path) -> None:
    file["other"] = h5py.ExternalLink(str(save_file(folder / "other.h5")), "/")
    file["frames"] = h5py.SoftLink("/other/frames")


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((2, 5, 2, 4, 3), "f8")
    layout[:] = h5py.VirtualSource(str(save_file(folder / "other.h5")), "frames", (2, 5, 2, 4, 3))
    file.create_virtual_dataset("frames", layout)


def never_written(file: h5py.File, folder: Path) -> None:
    file.create_dataset("frames", (2, 5, 2, 4, 3), "f8")


def half_written(file: h5py.File, folder: Path) -> None:
    file.create_dataset("frames", (2, 5, 2, 4, 3), "f8", chunks=(1, 5, 2, 4, 3))[0] = 0.0


def claims(file: h5py.File, folder: Path) -> None:
    file.create_dataset("frames", (10**6, 10**6, 2, 4, 3), "f8", chunks=(1, 1, 2, 4, 3))


def soft_link_to_itself(file: h5py.File, folder: Path) -> None:
    file["frames"] = h5py.SoftLink("/frames")


def soft_links_in_a_circle(file: h5py.File, folder: Path) -> None:
    file["frames"], file["b"] = h5py.SoftLink("/b/x"), h5py.SoftLink("/frames")


def attribute(key: str, value: Any) -> Callable[[h5py.File, Path], object]:
    return lambda file, folder: file.attrs.__setitem__(key, value)


def with_mask(values: Any) -> Callable[[h5py.File, Path], object]:
    return put("mask", np.broadcast_to(values, (2, 4, 3)).copy())


HOSTILE: dict[str, tuple[Callable[[h5py.File, Path], object], str]] = {
    "external storage": (
        put("frames", external_storage),
        "frames has its values in other files, which are not read",
    ),
    "an external link": (put("frames", external_link), "frames is a link to another file"),
    "an external link to a pipe": (put("frames", link_to_a_pipe), "frames is a link to another file"),
    "an external group": (put("frames", through_an_external_group), "frames is a link to another file"),
    "a virtual dataset": (put("frames", virtual), "frames has its values in other files"),
    "a mask of another file": (
        put("mask", lambda f, p: f.__setitem__("mask", h5py.ExternalLink("b", "/m"))),
        "mask is a link",
    ),
    "positions of another file": (
        put("axes/u/x", lambda f, p: f.__setitem__("axes/u/x", h5py.ExternalLink("b", "/m"))),
        "is a link",
    ),
    "a soft link to itself": (put("frames", soft_link_to_itself), "frames is a link that leads back to itself"),
    "soft links in a circle": (put("frames", soft_links_in_a_circle), "frames is a link that leads back to itself"),
    "a soft link to nothing": (put("frames", h5py.SoftLink("/none")), "there is no frames"),
    "never written": (put("frames", never_written), "frames was never written"),
    "half written": (put("frames", half_written), "1 of 2 chunks of frames were never written"),
    "10^12 simulations": (
        put("frames", claims),
        r"frames of shape \(1000000, .* would take [\d,]+ GiB, more than this machine",
    ),
    "no array": (put("frames", h5py.Empty("f8")), "frames holds no array"),
    "one number": (put("frames", 1.0), r"must hold frames \(S, T, C, \*N\)"),
    "text": (put("params", np.array([[b"a", b"b"]] * 2)), "must hold floating-point frames and params"),
    "references": (
        put("frames", lambda f, p: f.__setitem__("frames", f["params"].ref)),
        "must hold frames|floating-point",
    ),
    "a compound": (put("params", np.zeros((2, 2), [("a", "f4")])), "must hold floating-point frames and params"),
    "complex numbers": (put("params", np.zeros((2, 2), complex)), "must hold floating-point frames and params"),
    "no simulations": (
        lambda f, p: (
            put("frames", np.zeros((0, 5, 2, 4, 3)))(f, p),
            put("params", np.zeros((0, 2)))(f, p),
        ),
        r"must hold simulations, each of one frame or more, not frames of shape \(0, 5, 2, 4, 3\)",
    ),
    "no frames": (
        put("frames", np.zeros((2, 0, 2, 4, 3))),
        r"must hold simulations, each of one frame or more, not .*\(2, 0, 2, 4, 3\)",
    ),
    "NaN where there is padding": (
        lambda f, p: f["frames"].__setitem__((0, 0, 1, 3, 2), np.nan),
        "where its mask is 0, and padding must be",
    ),
    "NaN in params": (lambda f, p: f["params"].__setitem__((0, 0), np.nan), "NaN or infinity among its params"),
    "a mask of zeros": (with_mask(0), "must have a mask that is 1 where a frame holds values, not 0 everywhere"),
    "a mask of twos": (with_mask(2), "its mask must hold 1 where a frame holds values and 0 elsewhere, and nothing else"),
    "a mask of NaN": (with_mask(np.nan), "its mask must hold 1"),
    "a mask of text": (with_mask(np.bytes_("1")), "its mask must hold 1"),
    "format: an array": (attribute("format", np.arange(3)), "is HDF5, but not a file of"),
    "format: empty": (attribute("format", h5py.Empty("S1")), "is HDF5, but not a file of"),
    "format: a number": (attribute("format", 1), "is HDF5, but not a file of"),
    "format: two texts": (
        attribute("format", np.array([FORMAT, FORMAT], dtype=h5py.string_dtype())),
        "is HDF5, but not a file of",
    ),
    "format: a reference": (lambda f, p: f.attrs.__setitem__("format", f["params"].ref), "is HDF5, but not a file of"),
    "version: an array": (attribute("version", np.array([1, 1])), r"is of version \[1 1\] of"),
    "version: empty": (attribute("version", h5py.Empty("i4")), "is of version .* expected 1"),
    "version: text": (attribute("version", "1"), "is of version 1 of"),
    "version: a fraction": (attribute("version", 1.5), r"is of version 1\.5 of"),
    "version: NaN": (attribute("version", np.nan), "is of version nan of"),
    "version: a compound": (attribute("version", np.array((1, 2.0), [("a", "i4"), ("b", "f8")])), "is of version"),
    "channels: references": (
        lambda f, p: f.attrs.__setitem__("channels", f["params"].ref),
        "its channels must be a list of names",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence_by_whoever_reads_it(tmp_path: Path, case: str) -> None:
    change, says = HOSTILE[case]
    path = write_changed(change)(tmp_path)
    for spec in (SPEC, None):
        with pytest.raises(DataError, match=says) as error:
            trajectories.load(path, spec)
        assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "case", ["external storage", "an external link to a pipe", "half written", "10^12 simulations", "a mask of zeros"]
)
def test_what_is_hostile_is_seen_without_reading_the_frames(tmp_path: Path, case: str) -> None:
    path = write_changed(HOSTILE[case][0])(tmp_path)
    if case == "a mask of zeros":
        assert trajectories.summarise(path).shape == (2, 5, 2, 4, 3)
        return
    with pytest.raises(DataError, match=HOSTILE[case][1]):
        trajectories.summarise(path)


def test_a_soft_link_within_the_file_is_followed(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.move("frames", "hidden/data")
        file["hidden/link"] = h5py.SoftLink("data")
        file["frames"] = h5py.SoftLink("/hidden/./link")
    assert trajectories.load(path, SPEC).frames.shape == (2, 5, 2, 4, 3)


def test_attributes_that_only_their_writer_knows_do_no_harm(tmp_path: Path) -> None:
    path = save_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs["reference"], file.attrs["opaque"] = file["params"].ref, np.void(b"\0\1")
        file.attrs["times"] = np.array(b"x", dtype="S1")
        low = h5a.create(file.id, b"time", h5t.UNIX_D32LE, h5s.create(h5s.SCALAR))
        del low
    assert trajectories.load(path, SPEC).attributes["times"] == "x"


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = line_data(tmp_path / "a.h5")
    content, needle = bytearray(path.read_bytes()), trajectories.load(path).frames[1, 3].tobytes()
    content[content.index(needle) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as HDF5 trajectories"):
        trajectories.load(path)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, says in {
        "pipe": "that is a named pipe",
        "socket": "that is a socket",
        "/dev/zero": "that is a device",
        ".": "that is a folder",
        "none": "there is none",
        "none/either": "there is none",
        "loop": "it is out of reach",
        "x" * 300: "it is out of reach",
        "a\0b": "that can be no path",
    }.items():
        for read in (trajectories.load, trajectories.summarise):
            with pytest.raises(DataError, match=rf"expected a file of trajectories at .*, but {says}"):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "command",
    [
        "train --run r --solver.name problems.Burgers --train_data",
        "check-gradient --output o --solver.name problems.Burgers --train_data",
    ],
)
def test_the_command_line_ends_with_a_sentence_whatever_is_named(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero", ".", "none", "x" * 300):
        assert main([*command.split(), str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("deepzero-sim: expected a ") and said.count("\n") == 1


def test_no_damage_passes_for_data(tmp_path: Path) -> None:
    path, generator = save_file(tmp_path / "a.h5"), np.random.default_rng(0)
    whole, frames, refused = path.read_bytes(), trajectories.load(path, SPEC).frames, 0
    for _ in range(200):
        content = bytearray(whole)
        for place in generator.integers(len(content), size=generator.integers(1, 5)):
            content[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
        try:
            assert np.array_equal(trajectories.load(path, SPEC).frames, frames)  # what was hit is of no use to anybody
        except DataError:
            refused += 1
    assert refused > 100
