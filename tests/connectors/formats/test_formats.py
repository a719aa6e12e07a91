"""Formats: what is written is read again, bit for bit; what is no whole file is refused."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from programs import compiled
from scipy.io import FortranFile

import deepzero_sim as dz
from deepzero_sim.connectors.formats import FORMATS, Format, Fortran, Hdf5, Npy, OpenFoam, Raw, Text

#: Ways to hold an array of any shape.
ROUND: dict[str, Format] = {
    "npy": Npy(),
    "raw": Raw(),
    "raw, Fortran's order": Raw(order="F"),
    "raw, a header": Raw(header=7),
    "raw, big-endian": Raw(dtype=">f8"),
    "fortran": Fortran(),
    "fortran's order": Fortran(order="F"),
    "fortran, big-endian": Fortran(dtype=">f8"),
    "text": Text(),
    "text, commas": Text(delimiter=",", header=2, comments="%"),
    "text, a header": Text(delimiter=",", header=["u,v", "m/s,m/s"]),
    "hdf5": Hdf5("a/b"),
}

DTYPES = st.sampled_from([np.float32, np.float64])
SHAPES = arrays.array_shapes(min_dims=2, max_dims=4, max_side=5)
ANY = arrays.arrays(DTYPES, SHAPES)


def decode(way: Format, content: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    return way.decode(bytes(content), shape, np.dtype(dtype))


@pytest.mark.parametrize("name", ROUND)
@given(values=ANY)
def test_what_is_written_is_read_again(name: str, values: np.ndarray) -> None:
    way = ROUND[name]
    content = bytes(way.encode(values))
    assert len(content) <= way.largest(values.size)
    found = decode(way, content, values.shape, values.dtype)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)  # NaN, infinity and all


@pytest.mark.parametrize("name", ROUND)
@given(data=st.data(), values=arrays.arrays(np.float64, SHAPES, elements=st.floats(0.1, 1)))
def test_what_is_cut_or_goes_on_is_refused(name: str, data: st.DataObject, values: np.ndarray) -> None:
    way = ROUND[name]
    content = bytes(way.encode(values))
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(dz.UnreadableOutputError):
        decode(way, content[:end], values.shape)
    if "hdf5" not in name:  # which says itself how long it is
        with pytest.raises(dz.UnreadableOutputError):
            decode(way, content + content[-9:], values.shape)


@pytest.mark.parametrize("name", ROUND)
@given(content=st.binary(max_size=200))
def test_garbage_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(dz.SolverError):
        decode(ROUND[name], content, (3, 41))


@pytest.mark.parametrize("way", [Npy(), Hdf5()])
def test_what_describes_itself_is_held_to_shape_and_dtype(way: Format) -> None:
    content = way.encode(np.ones((2, 3)))
    with pytest.raises(dz.InvalidStateError, match=r"shape \(2, 3\), not \(3, 2\)"):
        decode(way, content, (3, 2))
    for values in (np.ones((2, 3), dtype=int), np.ones((2, 3), dtype=complex)):
        file = io.BytesIO()
        if isinstance(way, Npy):
            np.save(file, values)
        else:
            with h5py.File(file, "w") as container:
                container["state"] = values
        with pytest.raises(dz.InvalidStateError, match="not floating-point"):
            decode(way, file.getvalue(), (2, 3))


def test_objects_are_not_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(dz.UnreadableOutputError, match="Object arrays cannot be loaded"):
        decode(Npy(), file.getvalue(), (2,))


def test_precision_is_converted() -> None:
    values = np.array([[0.1, 1e300]])
    content = bytes(Npy().encode(values))
    np.testing.assert_array_equal(decode(Npy(), content, (1, 2), np.float32), [[np.float32(0.1), np.inf]])
    assert np.load(io.BytesIO(bytes(Npy(dtype="float32").encode(np.ones((1, 2)))))).dtype == np.float32


def test_text_reads_what_programs_write() -> None:
    text = "# x y\n\n 1.5\t-nan # so\n inf  NaN\n"
    np.testing.assert_array_equal(decode(Text(), text.encode(), (2, 2)), [[1.5, np.nan], [np.inf, np.nan]])
    for wrong in ("", "# nothing\n", "1 2\n3\n", "1 2\n3 4\n5 6\n", "1 2 3\n4 5 6\n", "1 2\n3 ****\n", "\xff"):
        with pytest.raises(dz.UnreadableOutputError):
            decode(Text(), wrong.encode("latin-1"), (2, 2))


def test_text_has_a_header_as_it_is_said() -> None:
    assert Text(header="u v\nm m").encode(np.ones((1, 1), np.float32)) == b"u v\nm m\n1.00000000e+00\n"
    assert Text(header=2, comments="!").encode(np.ones((0, 1))) == b"!\n!\n"
    np.testing.assert_array_equal(decode(Text(skiprows=2, header="u"), b"step 1\nu v\n1 2\n", (1, 2)), [[1, 2]])
    np.testing.assert_array_equal(decode(Text(skiprows=0, header=["3 4"]), b"1 2\n", (1, 2)), [[1, 2]])
    with pytest.raises(dz.UnreadableOutputError, match="no table of numbers"):
        decode(Text(), b"u v\n1 2\n", (1, 2))


#: Tables that are [[1, -2.5], [1e-150, 4]] to whoever wrote them.
TABLES: dict[str, tuple[dict[str, Any], bytes]] = {
    "exponents of Fortran": ({}, b"1.0D+00 -0.25D+01\n0.100000-149 4.0Q0\n"),
    "repeat counts": ({}, b"1.0 -2.5\n1*1E-150 1*4.0\n"),
    "trailing delimiters": ({"delimiter": ","}, b"1.0,-2.5,\n1e-150,4,\n"),
    "a trailing delimiter now and then": ({"delimiter": ";"}, b"1.0;-2.5\n1e-150;4; \n"),
    "delimiters in blanks": ({"delimiter": ","}, b" 1.0 , -2.5\n\t1e-150\t,4 ,\n"),
    "a blank as delimiter": ({"delimiter": " "}, b"  1.0  -2.5 \n1e-150 4\n"),
    "tabulators": ({"delimiter": "\t"}, b"1.0\t-2.5\t\n1e-150\t4\n"),
    "comments behind": ({}, b"# u v\n1.0 -2.5 # 3\n\n  #\n1e-150 4 #5#6\n"),
    "comments behind delimiters": ({"delimiter": ","}, b"1.0,-2.5,#3\n#\n1e-150,4 # 5\n"),
    "long comments": ({"comments": "//"}, b"// u v\n1.0 -2.5 //3\n1e-150 4\n"),
    "comments of two signs": ({"comments": "--"}, b"-- u v\n1.0 -2.5 --3\n1e-150 4\n"),
    "comments with blanks": ({"comments": " ! "}, b"! u\n1.0 -2.5 !3\n1e-150 4\n"),
    "comments in Latin-1": ({}, b"# temp\xe9rature\n1.0 -2.5\n1e-150 4 # \xb0C\n"),
    "a heading in Latin-1": ({"skiprows": 1}, b"temp\xe9rature \xb0C\n1.0 -2.5\n1e-150 4\n"),
    "a byte order mark": ({}, b"\xef\xbb\xbf1.0 -2.5\n1e-150 4\n"),
    "lines of Windows": ({}, b"\r\n1.0 -2.5\r\n1e-150 4\r\n"),
    "hexadecimal": ({}, b"0x1p+0 -0x1.4p+1\n1e-150 0X1P2\n"),
}


@pytest.mark.parametrize("table", TABLES)
def test_text_is_read_as_it_is_found(table: str) -> None:
    options, content = TABLES[table]
    np.testing.assert_array_equal(decode(Text(**options), content, (2, 2)), [[1, -2.5], [1e-150, 4]])


@pytest.mark.parametrize(
    ("options", "content", "words"),
    [
        ({}, b"1 2\n3 ****\n", "too wide for its format"),
        ({}, b"1 2\n3 4#5\n", "'4#5' is no number"),
        ({}, b"1 2\n3 4,5\n", "decimal commas are not read"),
        ({}, b"1, 2\n3, 4\n", "say so by a delimiter ','"),
        ({}, b"1 2\n3 (4,0)\n", "real and imaginary parts"),
        ({}, b"1 2\n3 4_0\n", "'4_0' is no number"),
        ({}, b"1 2\n3 \xd9\xa1\n", "is no number"),
        ({}, b"1 2\n3\n", "holds 1 columns in line 2, not 2"),
        ({"skiprows": 1}, b"u v\n1 2\n#\n3 4 5\n", "holds 3 columns in line 4, not 2"),
        ({}, b"1 2\n2*3 4\n", "holds 3 columns in line 2, not 2"),
        ({}, b"1 2\n99999999999999999999*3\n", "holds 3 columns in line 2, not 2"),
        ({}, b"1 2\n0*3 4\n", "'0*3' is no number"),
        ({}, b"1 2\n2* 4\n", "is no number"),
        ({"delimiter": ","}, b"1,2\n3,\n", "holds 1 columns in line 2, not 2"),
        ({"delimiter": ","}, b"1,2\n3,4,,\n", "missing between two delimiters"),
        ({"delimiter": ","}, b"1,2\n,4\n", "missing between two delimiters"),
        ({"delimiter": ","}, b"1,2\n,\n", "missing between two delimiters"),
        ({"delimiter": ","}, b"1,2\n3,,4\n", "missing between two delimiters"),
        ({"delimiter": ","}, b"1,2\n3 4,5\n", "'3 4' is no number"),
        ({"delimiter": ";"}, b"1,5;2\n3;4\n", "decimal commas are not read"),
        ({"delimiter": ","}, b'"1","2"\n3,4\n', "is no number"),
        ({}, "1 2\n3 4\n".encode("utf-16"), "ends within a line"),
        ({}, "1 2\n3 4\n".encode("utf-16-be"), "is no number"),
    ],
)
def test_text_that_would_lose_numbers_is_refused_with_what_is_wrong(
    options: dict[str, Any], content: bytes, words: str
) -> None:
    with pytest.raises(dz.UnreadableOutputError, match=re.escape(words)):
        decode(Text(**options), content, (2, 2))


def test_a_program_that_writes_nan_in_any_spelling_is_not_finite(tmp_path: Path) -> None:
    spec = {"name": "nan", "state_shape": [1, 2], "dt": 1.0, "dtype": "float64"}
    for spelling in ("1.#QNAN", "-nan(ind)", "Infinity", "-1.#IND", "1.#INF"):
        command = ["sh", "-c", f"printf '1.0\\n{spelling}\\n' > v"]
        files = [{"path": "v", "format": "text"}]
        solver = dz.ExecutableSolver(spec, command, [{"path": "u"}], files, keep="never")
        with pytest.raises(dz.StatesFailedError) as failed:
            solver.step(np.ones((1, 1, 2)))
        assert isinstance(failed.value.failures[0], dz.NonFiniteError)


def hdf5_file(**datasets: Any) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as container:
        for name, values in datasets.items():
            container[name] = values
    return file.getvalue()


U = np.arange(6.0).reshape(1, 2, 3)

TIMES = np.stack([U, 10 * U, 100 * U])


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (hdf5_file(u=h5py.SoftLink("/steps/last"), **{"steps/last": U}), {"dataset": "u"}),
        (hdf5_file(**{"run/u": h5py.SoftLink("steps/last"), "run/steps/last": U}), {"dataset": "run/u"}),
        (hdf5_file(u=h5py.SoftLink("/a"), a=h5py.SoftLink("/b"), b=U), {"dataset": "/u"}),
        (hdf5_file(u=h5py.SoftLink("/run"), **{"run/./last": U}), {"dataset": "u/last"}),
        (hdf5_file(state=U[None]), {}),
        (hdf5_file(state=U[None, None]), {}),
        (hdf5_file(state=U.astype(">f8")), {}),
        (hdf5_file(state=U.astype(">f4")), {}),
        (hdf5_file(state=U.astype("f2")), {}),
        (hdf5_file(state=TIMES[::-1]), {"index": -1}),
        (hdf5_file(state=TIMES), {"index": 0}),
        (hdf5_file(state=TIMES), {"index": -3}),
        (hdf5_file(state=TIMES[:, None]), {"index": 0}),
    ],
)
def test_hdf5_is_read_as_programs_write_it(content: bytes, options: dict[str, Any]) -> None:
    found = decode(Hdf5(**options), content, (1, 2, 3))
    np.testing.assert_array_equal(found, U)
    assert found.dtype == np.float64 and found.dtype.isnative


@pytest.mark.parametrize("storage", [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"chunks": (1, 1, 2)}])
@pytest.mark.parametrize("index", [0, -1])
def test_hdf5_is_read_in_every_storage(storage: dict[str, Any], index: int) -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as container:
        container.create_dataset("all", data=U, **storage)
        container.create_dataset("times", (0, 1, 2, 3), "f8", maxshape=(None, 1, 2, 3), compression="gzip")
        for place in range(3):
            container["times"].resize(place + 1, axis=0)
            container["times"][place] = TIMES[place]
    np.testing.assert_array_equal(decode(Hdf5("all"), file.getvalue(), (1, 2, 3)), U)
    np.testing.assert_array_equal(decode(Hdf5("times", index=index), file.getvalue(), (1, 2, 3)), TIMES[index])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("way", [Npy(), Hdf5()])
def test_a_single_number_may_have_any_axes(way: Format, shape: tuple[int, ...]) -> None:
    content = hdf5_file(state=np.full(shape, 2.5)) if isinstance(way, Hdf5) else bytes(way.encode(np.full(shape, 2.5)))
    np.testing.assert_array_equal(decode(way, content, (1, 1)), [[2.5]])


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (hdf5_file(state=U[0]), {}, "shape (2, 3), not (1, 2, 3)"),
        (hdf5_file(state=TIMES), {}, "shape (3, 1, 2, 3), not (1, 2, 3)"),
        (hdf5_file(state=TIMES), {"index": 3}, "which has no index 3"),
        (hdf5_file(state=TIMES), {"index": -4}, "which has no index -4"),
        (hdf5_file(state=U), {"index": 0}, "shape (2, 3), not (1, 2, 3)"),
        (hdf5_file(state=1.0), {"index": 0}, "which has no index 0"),
        (hdf5_file(state=U.astype("i4")), {}, "int32, not floating-point"),
        (hdf5_file(state=U + 0j), {}, "complex128, not floating-point"),
        (hdf5_file(state=h5py.Empty("f8")), {}, "no whole HDF5 file"),
        (hdf5_file(state=h5py.SoftLink("/state")), {}, "no whole HDF5 file"),
        (hdf5_file(state=h5py.SoftLink("/u"), u=h5py.SoftLink("state")), {}, "no whole HDF5 file"),
        (hdf5_file(state=h5py.SoftLink("/u"), u=h5py.ExternalLink("other.h5", "/u")), {}, "no whole HDF5 file"),
    ],
)
def test_hdf5_of_another_kind_is_refused(content: bytes, options: dict[str, Any], words: str) -> None:
    with pytest.raises(dz.SolverError, match=re.escape(words)):
        decode(Hdf5(**options), content, (1, 2, 3))


@pytest.mark.parametrize("what", ["packed", "never written", "missing"])
def test_hdf5_numbers_that_are_not_meant_are_refused(what: str) -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as container:
        made = container.create_dataset("state", U.shape, "f8", chunks=(1, 1, 3))
        made[:, 0] = U[:, 0]
        if what != "never written":
            made[...] = U
            made.attrs["scale_factor" if what == "packed" else "_FillValue"] = 2.0
    with pytest.raises(dz.SolverError, match=what):
        decode(Hdf5(), file.getvalue(), (1, 2, 3))


@pytest.mark.parametrize("kind", ["link", "outside", "virtual", "missing", "group", "raw elsewhere"])
def test_hdf5_reads_no_other_file(tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as container:
        container["state"] = np.ones((1, 2))
    file = io.BytesIO()
    with h5py.File(file, "w") as container:
        if kind == "outside":
            container["state"] = h5py.ExternalLink(str(other), "/state")
        elif kind == "link":
            container["state"] = h5py.SoftLink("/nowhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((1, 2), float)
            layout[:] = h5py.VirtualSource(str(other), "state", (1, 2))
            container.create_virtual_dataset("state", layout)
        elif kind == "group":
            container.create_group("state")
        elif kind == "raw elsewhere":
            container.create_dataset("state", (1, 2), float, external=[(str(other), 0, 16)])
    with pytest.raises(dz.UnreadableOutputError, match="no whole HDF5 file with a dataset 'state'"):
        decode(Hdf5(), file.getvalue(), (1, 2))


@given(values=ANY, order=st.sampled_from(["C", "F"]))
def test_fortran_records_are_scipys(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, order: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "records"
    with FortranFile(path, "w") as file:
        file.write_record(values.ravel(order))
    assert path.read_bytes() == bytes(Fortran(order=order).encode(values))


FORTRAN = """
program step
  implicit none
  real(8) :: u(3, 2, 2)
  integer :: i
  open(10, file='u.dat', form='unformatted', status='old')
  read(10) u(:, :, 1)
  read(10) u(:, :, 2)
  close(10)
  u(3, 1, 2) = 2 * u(3, 1, 2)
  open(11, file='v.dat', form='unformatted')
  write(11) u
  close(11)
  open(12, file='v.raw', access='stream', form='unformatted')
  write(12) u
  close(12)
  open(13, file='v.txt')
  do i = 1, 6
    write(13, *) u(1 + mod(i - 1, 3), 1 + (i - 1) / 3, 1), u(1 + mod(i - 1, 3), 1 + (i - 1) / 3, 2)
  end do
  close(13)
end program
"""


@pytest.mark.parametrize("output", ["v.dat", "v.raw", "v.txt"])
def test_a_fortran_program(tmp_path: Path, output: str) -> None:
    (source := tmp_path / "step.f90").write_text(FORTRAN)
    program = compiled(source, tmp_path, "gfortran")
    named = {"v.dat": "fortran", "v.raw": "raw", "v.txt": "text"}[output]
    solver = dz.ExecutableSolver(
        {"name": "fortran", "state_shape": [2, 2, 3], "dt": 1.0, "dtype": "float64"},
        [str(program)],
        [{"path": "u.dat", "format": "fortran", "records": 2}],
        [{"path": output, "format": named}],
    )
    states = np.random.default_rng(0).normal(size=(2, 2, 2, 3))
    expected = states.copy()
    expected[:, 1, 0, 2] *= 2
    np.testing.assert_array_equal(solver.step(states), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("raw", {"dtype": "int32"}),
        ("raw", {"dtype": "no such"}),
        ("raw", {"dtype": 3.5}),
        ("raw", {"order": "c"}),
        ("raw", {"header": -1}),
        ("raw", {"header": 1.5}),
        ("fortran", {"records": 0}),
        ("text", {"header": 2.5}),
        ("text", {"header": -1}),
        ("text", {"header": ["u", 3]}),
        ("text", {"header": ["u\nv"]}),
        ("text", {"skiprows": -1}),
        ("text", {"skiprows": "two"}),
        ("text", {"comments": ""}),
        ("text", {"comments": " "}),
        ("text", {"comments": "-"}),
        ("text", {"comments": "1"}),
        ("text", {"comments": "nan"}),
        ("text", {"delimiter": "#"}),
        ("text", {"delimiter": "D"}),
        ("text", {"delimiter": 3}),
        ("text", {"delimiter": ""}),
        ("text", {"delimiter": "ab"}),
        ("text", {"delimiter": "."}),
        ("text", {"delimiter": "\n"}),
        ("npy", {"dtype": "complex64"}),
        ("hdf5", {"dtype": "int8"}),
        ("hdf5", {"index": 1.5}),
        ("hdf5", {"index": "last"}),
        ("hdf5", {"index": True}),
    ],
)
def test_options_are_looked_at(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(dz.ConfigError, match="not"):
        FORMATS[name](**options)


@pytest.mark.parametrize("way", [lambda base: Fortran(record=0, base=base), OpenFoam], ids=["fortran", "openfoam"])
@pytest.mark.parametrize("base", ["huge", "pipe", "folder", "gone", "packed.gz", "/dev/zero"])
def test_a_base_is_a_plain_file_of_a_foreseen_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Path], Format], base: str
) -> None:
    monkeypatch.setattr("deepzero_sim.connectors.formats.openfoam.LARGEST_BASE", 10**6)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "packed.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(dz.ConfigError, match=r"^base (must be a f|holds no whole records).*\.$"):
        way(tmp_path / base).encode(np.zeros((1, 4)))
