"""Formats: what is written is read again, bit for bit; what is no whole file is refused."""

from __future__ import annotations

import io
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
from deepzero_sim.connectors.formats import FORMATS, Format, Fortran, Hdf5, Npy, Raw, Text

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


def decoded(way: Format, content: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    return way.decode(bytes(content), shape, np.dtype(dtype))


@pytest.mark.parametrize("name", ROUND)
@given(values=ANY)
def test_what_is_written_is_read_again(name: str, values: np.ndarray) -> None:
    way = ROUND[name]
    content = bytes(way.encode(values))
    assert len(content) <= way.largest(values.size)
    found = decoded(way, content, values.shape, values.dtype)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)  # NaN, infinity and all


@pytest.mark.parametrize("name", ROUND)
@given(data=st.data(), values=arrays.arrays(np.float64, SHAPES, elements=st.floats(0.1, 1)))
def test_what_is_cut_or_goes_on_is_refused(name: str, data: st.DataObject, values: np.ndarray) -> None:
    way = ROUND[name]
    content = bytes(way.encode(values))
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(dz.UnreadableOutputError):
        decoded(way, content[:end], values.shape)
    if "hdf5" not in name:  # which says itself how long it is
        with pytest.raises(dz.UnreadableOutputError):
            decoded(way, content + content[-9:], values.shape)


@pytest.mark.parametrize("name", ROUND)
@given(content=st.binary(max_size=200))
def test_garbage_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(dz.SolverError):
        decoded(ROUND[name], content, (3, 41))


@pytest.mark.parametrize("way", [Npy(), Hdf5()])
def test_what_describes_itself_is_held_to_shape_and_dtype(way: Format) -> None:
    content = way.encode(np.ones((2, 3)))
    with pytest.raises(dz.InvalidStateError, match=r"shape \(2, 3\), not \(3, 2\)"):
        decoded(way, content, (3, 2))
    for values in (np.ones((2, 3), dtype=int), np.ones((2, 3), dtype=complex)):
        file = io.BytesIO()
        if isinstance(way, Npy):
            np.save(file, values)
        else:
            with h5py.File(file, "w") as container:
                container["state"] = values
        with pytest.raises(dz.InvalidStateError, match="not floating-point"):
            decoded(way, file.getvalue(), (2, 3))


def test_objects_are_not_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(dz.UnreadableOutputError, match="Object arrays cannot be loaded"):
        decoded(Npy(), file.getvalue(), (2,))


def test_precision_is_converted() -> None:
    values = np.array([[0.1, 1e300]])
    content = bytes(Npy().encode(values))
    np.testing.assert_array_equal(decoded(Npy(), content, (1, 2), np.float32), [[np.float32(0.1), np.inf]])
    assert np.load(io.BytesIO(bytes(Npy(dtype="float32").encode(np.ones((1, 2)))))).dtype == np.float32


def test_text_reads_what_programs_write() -> None:
    text = "# x y\n\n 1.5\t-nan # so\n inf  NaN\n"
    np.testing.assert_array_equal(decoded(Text(), text.encode(), (2, 2)), [[1.5, np.nan], [np.inf, np.nan]])
    for wrong in ("", "# nothing\n", "1 2\n3\n", "1 2\n3 4\n5 6\n", "1 2 3\n4 5 6\n", "1 2\n3 ****\n", "\xff"):
        with pytest.raises(dz.UnreadableOutputError):
            decoded(Text(), wrong.encode("latin-1"), (2, 2))


def test_text_has_a_header_as_it_is_said() -> None:
    assert Text(header="u v\nm m").encode(np.ones((1, 1), np.float32)) == b"u v\nm m\n1.00000000e+00\n"
    assert Text(header=2, comments="!").encode(np.ones((0, 1))) == b"!\n!\n"
    np.testing.assert_array_equal(decoded(Text(skiprows=2, header="u"), b"step 1\nu v\n1 2\n", (1, 2)), [[1, 2]])
    np.testing.assert_array_equal(decoded(Text(skiprows=0, header=["3 4"]), b"1 2\n", (1, 2)), [[1, 2]])
    with pytest.raises(dz.UnreadableOutputError, match="no table of numbers"):
        decoded(Text(), b"u v\n1 2\n", (1, 2))


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
        decoded(Hdf5(), file.getvalue(), (1, 2))


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
        ("text", {"delimiter": 3}),
        ("text", {"delimiter": ""}),
        ("text", {"delimiter": "ab"}),
        ("text", {"delimiter": "."}),
        ("text", {"delimiter": "\n"}),
        ("npy", {"dtype": "complex64"}),
        ("hdf5", {"dtype": "int8"}),
    ],
)
def test_options_are_looked_at(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(dz.ConfigError, match="not"):
        FORMATS[name](**options)
