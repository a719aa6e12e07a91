"""Unformatted records, as gfortran itself writes and reads them in all its layouts."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import compiled

import deepzero_sim as dz
from deepzero_sim.connectors.formats import Fortran

#: Doubles 24 numbers in so many records. A record of an integer and a time is in front in both files, one of text behind.
COPY = """
program copy
  implicit none
  real(8) :: u(24), t
  integer :: records, length, k, step
  character(8) :: word
  call get_command_argument(1, word)
  read(word, *) records
  length = 24 / records
  open(11, file='u.dat', form='unformatted', status='old')
  read(11) step, t
  do k = 1, records
    read(11) u((k - 1) * length + 1 : k * length)
  end do
  read(11) word
  close(11)
  if (word /= 'the end ') stop 3
  open(12, file='v.dat', form='unformatted', status='replace')
  write(12) step + 1, t + 0.5d0
  do k = 1, records
    write(12) 2 * u((k - 1) * length + 1 : k * length)
  end do
  write(12) word
  close(12)
end program
"""

ORDERS = {"little-endian": "<f8", "big-endian": ">f8"}

U = np.random.default_rng(0).normal(size=(2, 3, 4))


def decode(way: Fortran, content: Any, shape: tuple[int, ...] = (2, 3, 4)) -> np.ndarray:
    return way.decode(bytes(content), shape, np.dtype("f8"))


def record(content: bytes, marker: int = 4, order: Any = "little") -> bytes:
    length = len(content).to_bytes(marker, order)
    return length + content + length


def write_by_hand(records: int, marker: int, dtype: str) -> bytes:
    """Make a file as the program reads it, from the description of its records in the compilers' manuals."""
    order = "big" if dtype.startswith(">") else "little"
    front = np.array(7, dtype[0] + "i4").tobytes() + np.array(0.25, dtype).tobytes()
    inside = [front, *(part.tobytes() for part in np.split(np.zeros(24, dtype), records)), b"the end "]
    return b"".join(record(part, marker, order) for part in inside)


@pytest.mark.slow
@pytest.mark.parametrize(("marker", "subrecord", "order"), [*itertools.product((4, 8), (None, 64), ORDERS)])
def test_gfortran_reads_what_is_written_and_its_records_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: Any, subrecord: int | None, order: str
) -> None:
    (tmp_path / "copy.f90").write_text(COPY)
    flags = [f"-frecord-marker={marker}", f"-fconvert={order}"]
    flags += [] if subrecord is None else [f"-fmax-subrecord-length={subrecord}"]
    program = compiled(tmp_path / "copy.f90", tmp_path, "gfortran", *flags)
    monkeypatch.setattr(Fortran, "longest_piece", subrecord or Fortran.longest_piece)
    for records in (1, 2, 24):
        (tmp_path / "base.dat").write_bytes(write_by_hand(records, marker, ORDERS[order]))
        options: Any = {"dtype": ORDERS[order], "records": records, "marker": marker}
        for place in (1, -1 - records):
            way = Fortran(**options, record=place, base=tmp_path / "base.dat")
            (tmp_path / "u.dat").write_bytes(way.encode(U))
            subprocess.run([program, str(records)], cwd=tmp_path, check=True, timeout=60)
            content = (tmp_path / "v.dat").read_bytes()
            np.testing.assert_array_equal(decode(way, content), 2 * U)
            assert np.array(8, ORDERS[order][0] + "i4").tobytes() + np.array(0.75, ORDERS[order]).tobytes() in content
        with pytest.raises(dz.UnreadableOutputError, match=rf"holds {records + 2} records of 12, .*say by record"):
            decode(Fortran(**options), content)


@settings(max_examples=50)
@given(data=st.data(), marker=st.sampled_from([4, 8]), order=st.sampled_from(["little", "big"]))
def test_subrecords_of_any_length_are_one_record(data: st.DataObject, marker: int, order: Any) -> None:
    content = b""
    for values in (U[:1], U[1:]):
        inside = values.astype(">f8" if order == "big" else "<f8").tobytes()
        cuts = sorted({0, len(inside), *data.draw(st.lists(st.integers(1, len(inside) - 1), max_size=4))})
        for start, end in itertools.pairwise(cuts):
            leading = (start - end) if end < len(inside) else end - start
            trailing = (start - end) if start else end - start
            content += leading.to_bytes(marker, order, signed=True) + inside[start:end]
            content += trailing.to_bytes(marker, order, signed=True)
    way = Fortran(dtype=">f8" if order == "big" else "<f8", records=2, marker=marker)  # type: ignore[arg-type]
    np.testing.assert_array_equal(decode(way, content), U)
    with pytest.raises(dz.UnreadableOutputError):
        decode(way, content[: data.draw(st.integers(0, len(content) - 1))])


def test_long_records_are_written_as_subrecords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fortran, "longest_piece", 80)
    content = bytes(Fortran().encode(U))
    lengths = [int.from_bytes(content[place : place + 4], "little", signed=True) for place in (0, 84, 88, 172, 176, 212)]
    assert lengths == [-80, 80, -80, -80, 32, -32]
    np.testing.assert_array_equal(decode(Fortran(), content), U)
    assert bytes(Fortran(marker=8).encode(U)) == record(U.tobytes(), 8)  # which have room for any length


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (record(U.tobytes(), 8), {}, "markers of 8 bytes, little-endian: set marker: 8"),
        (record(U.tobytes(), 4), {"marker": 8}, "markers of 4 bytes, little-endian: set marker: 4"),
        (record(U.astype(">f8").tobytes(), 4, "big"), {}, "markers of 4 bytes, big-endian: set dtype: '>f8'"),
        (record(U.tobytes()), {"dtype": ">f8"}, "markers of 4 bytes, little-endian: set dtype: '<f8'"),
        (record(U.astype(">f8").tobytes(), 8, "big"), {}, "set marker: 8 and dtype: '>f8'"),
        (U.tobytes(), {}, "use the format raw"),
        (record(U.tobytes())[:-1], {}, "truncated, or of another format"),
        (record(U.tobytes()) + record(b"x" * 12), {}, "holds 2 records of 192, 12 bytes, not 1: say by record"),
        (record(U.tobytes()), {"records": 2}, "holds 1 records, not 2"),
        (record(U.tobytes()), {"record": 1}, "holds 1 record of 192 bytes: not 1 from the record 1"),
        (record(U.tobytes()), {"record": -2}, "not 1 from the record -2"),
        (record(U.tobytes()) * 2, {"record": -1, "records": 2}, "not 2 from the record -1"),
        (record(b"x" * 12) + record(U.tobytes()), {"record": 0}, "holds 12 bytes, no whole number of float64"),
        (record(U.astype("f4").tobytes()), {}, "holds 12 numbers, not 24"),
        (b"", {}, "holds 0 records, not 1"),
        ((-192).to_bytes(4, "little", signed=True) + U.tobytes() + (192).to_bytes(4, "little"), {}, "truncated"),
        ((192).to_bytes(4, "little") + U.tobytes() + (-192).to_bytes(4, "little", signed=True), {}, "truncated"),
    ],
)
def test_files_of_another_layout_are_refused_with_what_they_look_like(
    content: bytes, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(dz.UnreadableOutputError, match=re.escape(words)):
        decode(Fortran(**options), content)


@pytest.mark.parametrize(("place", "found"), [(0, 1), (1, 2), (2, 3), (-1, 3), (-3, 1)])
def test_a_record_is_named_by_its_place(place: int, found: int) -> None:
    content = b"".join(record((k * U).tobytes()) for k in (1, 2, 3))
    np.testing.assert_array_equal(decode(Fortran(record=place), content), found * U)
    np.testing.assert_array_equal(decode(Fortran(record=-2, records=2), content, (2, 2, 3, 4)), [2 * U, 3 * U])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"marker": 2}, "marker must be 4 or 8"),
        ({"marker": True}, "marker must be 4 or 8"),
        ({"marker": "8"}, "marker must be 4 or 8"),
        ({"record": 1.5}, "record must be the place"),
        ({"record": "last"}, "record must be the place"),
        ({"record": 1}, "record 1 needs a base"),
        ({"record": -1}, "record -1 needs a base"),
        ({"base": 3}, "base must be the path"),
        ({"base": "no such file"}, "base must be a file of unformatted records"),
        ({"base": "."}, "base must be a file of unformatted records"),
        ({"base": "base.dat"}, "base holds 2 records of 12, 192 bytes, not 1: say by record"),
        ({"base": "base.dat", "record": 0}, "base must have records of 192 bytes where the array is written"),
        ({"base": "base.dat", "record": 2}, "base holds 2 records of 12, 192 bytes: not 1 from the record 2"),
        ({"base": "base.dat", "record": 1, "marker": 8}, "base holds no whole records with markers of 8 bytes"),
        ({"base": "base.dat", "record": 1, "dtype": ">f8"}, "set dtype: '<f8'"),
    ],
)
def test_options_of_inputs_are_refused_when_the_solver_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.dat").write_bytes(record(b"x" * 12) + record(U.tobytes()))
    spec = {"name": "f", "state_shape": [2, 3, 4], "dt": 1.0, "dtype": "float64"}
    with pytest.raises(dz.ConfigError, match=re.escape(words)):
        dz.ExecutableSolver(spec, ["cp", "u", "v"], [{"path": "u", "format": "fortran", **options}], [{"path": "v"}])


def test_a_program_with_other_records_is_a_solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("copy.f90").write_text(COPY)
    program = compiled(Path("copy.f90"), tmp_path, "gfortran")
    Path("base.dat").write_bytes(write_by_hand(2, 4, "<f8"))
    solver = dz.ExecutableSolver(
        {"name": "copy", "state_shape": [2, 3, 4], "dt": 1.0, "dtype": "float64"},
        [str(program), "2"],
        [{"path": "u.dat", "format": "fortran", "records": 2, "record": 1, "base": "base.dat"}],
        [{"path": "v.dat", "format": "fortran", "records": 2, "record": 1}],
    )
    np.testing.assert_array_equal(solver.step(np.stack([U, 3 * U])), np.stack([2 * U, 6 * U]))
