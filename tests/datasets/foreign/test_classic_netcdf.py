"""netCDF's classic formats: files cut short anywhere are found, which the library itself reads as zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepzero_sim.datasets.foreign.classic_netcdf import require_whole
from deepzero_sim.errors import DataError

netCDF4 = pytest.importorskip("netCDF4")  # noqa: N816


def write(path: Path, form: str, records: bool, variables: int, kind: str) -> Path:
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.title = "made"
        file.createDimension("time", None if records else 5)
        file.createDimension("x", 3)
        for number in range(variables):
            variable = file.createVariable(f"u{number}", kind, ("time", "x"))
            variable.units = "m"
            variable[:] = np.arange(15).reshape(5, 3)
        file.createVariable("g", "f8", ())[...] = 9.81
    return path


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("variables", [1, 2])
@pytest.mark.parametrize("kind", ["f8", "i1", "i2"])
def test_a_whole_file_passes_and_one_without_its_end_does_not(
    tmp_path: Path, form: str, records: bool, variables: int, kind: str
) -> None:
    path = write(tmp_path / "a.nc", form, records, variables, kind)
    require_whole(path)
    content = path.read_bytes()
    path.write_bytes(content[:-4])  # more than the padding of the last value
    with pytest.raises(DataError, match="was cut short: it has"):
        require_whole(path)
    for length in (5, 20, 60):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"its header is damaged\): copy it again"):
            require_whole(path)


def test_other_files_pass(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"anything")
    require_whole(tmp_path / "a")
