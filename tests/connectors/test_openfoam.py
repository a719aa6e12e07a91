"""OpenFOAM's field files: by hand, and through icoFoam where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import deepzero_sim as dz
from deepzero_sim.connectors.formats import OpenFoam

FIELD = """FoamFile
{{
    version     2.0;
    format      {format};
    {arch}class       vol{kind}Field;
    location    "0";
    object      U;
}}
// internalField is below

dimensions      [0 1 -1 0 0 0 0];

internalField   {internal};

boundaryField
{{
    wall {{ type fixedValue; value {value}; }}
    frontAndBack {{ type empty; }}
}}
"""

VALUES = {"Scalar": "uniform 0", "Vector": "uniform (1 2 3)", "SymmTensor": "uniform (1 2 3 4 5 6)"}


def field(kind: str = "Vector", form: str = "ascii", internal: str | None = None, arch: str = "") -> str:
    value = VALUES[kind]
    return FIELD.format(kind=kind, format=form, internal=internal or value, value=value, arch=arch)


def base(folder: Path, **options: Any) -> Path:
    (path := folder / "U").write_text(field(**options))
    return path


def decoded(content: str | bytes, shape: tuple[int, ...], **options: Any) -> np.ndarray:
    content = content if isinstance(content, bytes) else content.encode()
    return OpenFoam(**options).decode(content, shape, np.dtype(np.float64))


@pytest.mark.parametrize("form", ["ascii", "binary"])
@pytest.mark.parametrize(("kind", "channels"), [("Scalar", 1), ("Vector", 3), ("Vector", 2), ("SymmTensor", 6)])
@given(data=st.data())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, form: str, kind: str, channels: int, data: st.DataObject
) -> None:
    places = data.draw(st.permutations(range({"Scalar": 1, "Vector": 3, "SymmTensor": 6}[kind])))[:channels]
    way = OpenFoam(base(tmp_path_factory.getbasetemp(), kind=kind, form=form), places)
    values = data.draw(arrays.arrays(np.float64, (3, 2, channels)))
    content = bytes(way.encode(values))
    np.testing.assert_array_equal(way.decode(content, values.shape, values.dtype), values)
    assert content.endswith(field(kind, form).rpartition(VALUES[kind])[2].encode())  # the boundary is the base's
    end = data.draw(st.integers(0, content.rindex(b"boundaryField")))
    with pytest.raises(dz.UnreadableOutputError):
        way.decode(content[:end], values.shape, values.dtype)


def test_other_components_are_the_bases(tmp_path: Path) -> None:
    way = OpenFoam(base(tmp_path), [2])
    content = bytes(way.encode(np.full((2, 1), 7.0)))
    np.testing.assert_array_equal(decoded(content, (2, 3)), [[1, 2, 7], [1, 2, 7]])


@pytest.mark.parametrize(
    ("internal", "expected"),
    [
        ("uniform (1 2 3)", [[1, 2], [1, 2]]),
        ("nonuniform List<vector> 2((1 2 3) (4 5 6))", [[1, 2], [4, 5]]),
        ("nonuniform List<vector> \n2\n(\n(1 2 3)\n(4 nan 6)\n)\n", [[1, 2], [4, np.nan]]),
        ("nonuniform List<vector> 2{(1 2 3)}", [[1, 2], [1, 2]]),
    ],
)
def test_what_openfoam_writes_is_read(internal: str, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(decoded(field(internal=internal), (2, 2)), expected)


def test_binary_may_be_of_single_precision() -> None:
    before, after = field(
        form="binary", arch='arch "LSB;label=32;scalar=32";\n', internal="nonuniform List<vector> 2(@)"
    ).split("@")
    numbers = np.arange(6, dtype="<f4").tobytes()
    np.testing.assert_array_equal(decoded(before.encode() + numbers + after.encode(), (2, 3)), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ("nothing", dz.UnreadableOutputError, "is no field"),
        (field(internal="$internal"), dz.UnreadableOutputError, "is no field"),
        (field(internal="uniform (1 2)"), dz.UnreadableOutputError, "holds 2 numbers, not 3"),
        (field(internal="uniform (1 2 x)"), dz.UnreadableOutputError, "something else than numbers"),
        (field(internal="nonuniform List<vector> 2((1 2 3))"), dz.UnreadableOutputError, "holds 3 numbers, not 6"),
        (field(internal="nonuniform List<vector> 3((1 2 3)(1 2 3)(1 2 3))"), dz.InvalidStateError, "holds 3 cells, not 2"),
        (field("Scalar"), dz.InvalidStateError, "1 components, not 2"),
        (field().replace("volVector", "surfaceScalar"), dz.UnreadableOutputError, "is no field"),
        (field().replace("volVector", "volSphericalTensor"), dz.UnreadableOutputError, "is a field of 'sphericalTensor'"),
    ],
)
def test_other_content_is_refused(content: str, kind: type[dz.SolverError], words: str) -> None:
    with pytest.raises(kind, match=words):
        decoded(content, (2, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs a field file"),
        ({"base": "nowhere"}, "cannot be read"),
        ({"base": "garbage"}, "is no field"),
        ({"base": "U", "components": [0, 0]}, "components must be 2 different numbers from 0 to 2"),
        ({"base": "U", "components": [0]}, "components"),
        ({"base": "four"}, "as many cells as the state has points, 2, not 4"),
    ],
)
def test_settings_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str) -> None:
    base(tmp_path)
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "four").write_text(field(internal="nonuniform List<vector> 4{(1 2 3)}"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dz.ConfigError, match=words):
        dz.ExecutableSolver(
            {"name": "foam", "state_shape": [2, 1, 2], "dt": 1.0},
            ["true"],
            [{"path": "0/U", "format": "openfoam", **options}],
            [{"path": "1/U", "format": "openfoam"}],
        )


#: Where OpenFOAM's own settings are, if nobody has sourced its bashrc: Debian's packages.
OPENFOAM = {"WM_PROJECT_DIR": os.environ.get("WM_PROJECT_DIR", "/usr/share/openfoam")}

MESH = """FoamFile {{ version 2.0; format ascii; class dictionary; object blockMeshDict; }}
vertices ((0 0 0) (1 0 0) (1 1 0) (0 1 0) (0 0 0.1) (1 0 0.1) (1 1 0.1) (0 1 0.1));
blocks (hex (0 1 2 3 4 5 6 7) ({nx} {ny} 1) simpleGrading (1 1 1));
boundary
(
    lid {{ type wall; faces ((3 7 6 2)); }}
    walls {{ type wall; faces ((0 4 7 3) (2 6 5 1) (1 5 4 0)); }}
    frontAndBack {{ type empty; faces ((0 3 2 1) (4 5 6 7)); }}
);
"""

CONTROL = """FoamFile {{ version 2.0; format ascii; class dictionary; object controlDict; }}
application icoFoam; startFrom startTime; startTime 0; stopAt endTime; endTime 0.005; deltaT 0.005;
writeControl timeStep; writeInterval 1; writeFormat {form}; writePrecision 17; timeFormat general; timePrecision 6;
"""

DICTIONARIES = {
    "system/fvSchemes": "ddtSchemes { default Euler; } gradSchemes { default Gauss linear; } divSchemes { default none; "
    "div(phi,U) Gauss linear; } laplacianSchemes { default Gauss linear orthogonal; } interpolationSchemes { default linear; } "
    "snGradSchemes { default orthogonal; }",
    "system/fvSolution": "solvers { p { solver PCG; preconditioner DIC; tolerance 1e-10; relTol 0; } pFinal { $p; } "
    "U { solver smoothSolver; smoother symGaussSeidel; tolerance 1e-10; relTol 0; } } "
    "PISO { nCorrectors 2; nNonOrthogonalCorrectors 0; pRefCell 0; pRefValue 0; }",
    "constant/transportProperties": "nu {{ params.nu }};",
}

PLACES = {"U": ("Vector", "[0 1 -1 0 0 0 0]", "(0 0 0)"), "p": ("Scalar", "[0 2 -2 0 0 0 0]", "0")}

LID = {"U": "fixedValue; value uniform (1 0 0)", "p": "zeroGradient"}

WALLS = {"U": "noSlip", "p": "zeroGradient"}


def cavity(folder: Path, nx: int, ny: int, form: str) -> Path:
    """A case of a lid-driven cavity with its mesh."""
    for part in ("system", "constant", "0"):
        (folder / part).mkdir()
    for path, text in DICTIONARIES.items():
        name = path.partition("/")[2]
        (folder / path).write_text(f"FoamFile {{ version 2.0; format ascii; class dictionary; object {name}; }}\n{text}\n")
    (folder / "system/blockMeshDict").write_text(MESH.format(nx=nx, ny=ny))
    (folder / "system/controlDict").write_text(CONTROL.format(form=form))
    for name, (kind, dimensions, zero) in PLACES.items():
        (folder / "0" / name).write_text(
            f"FoamFile {{ version 2.0; format {form}; class vol{kind}Field; object {name}; }}\n"
            f"dimensions {dimensions};\ninternalField uniform {zero};\n"
            f"boundaryField {{ lid {{ type {LID[name]}; }} walls {{ type {WALLS[name]}; }} frontAndBack {{ type empty; }} }}\n"
        )
    (folder / "constant/transportProperties").rename(folder / "transport.j2")
    subprocess.run(["blockMesh"], cwd=folder, env={**os.environ, **OPENFOAM}, check=True, capture_output=True, timeout=60)  # noqa: S607
    return folder


@pytest.mark.skipif(shutil.which("icoFoam") is None, reason="OpenFOAM is not installed")
@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_icofoam_takes_a_step(tmp_path: Path, form: str) -> None:
    case = cavity(tmp_path, 6, 4, form)
    spec = dz.SolverSpec(
        name="cavity", state_shape=(3, 4, 6), dt=0.005, dtype="float64", channels=("u", "v", "p"), parameters=("nu",)
    )
    solver = dz.ExecutableSolver(
        spec,
        ["icoFoam"],
        [
            {"path": "0/U", "format": "openfoam", "base": case / "0/U", "channels": ["u", "v"]},
            {"path": "0/p", "format": "openfoam", "base": case / "0/p", "channels": ["p"]},
        ],
        [
            {"path": "0.005/U", "format": "openfoam", "channels": ["u", "v"]},
            {"path": "0.005/p", "format": "openfoam", "channels": ["p"]},
        ],
        external_input_files=[case / "system"],
        external_input_links={"constant/polyMesh": case / "constant/polyMesh"},
        templates={"constant/transportProperties": case / "transport.j2"},
        environment={**OPENFOAM, "FOAM_SIGFPE": "true"},
        kept_folder=tmp_path / "kept",
    )
    states, params = np.zeros((2, 3, 4, 6)), np.array([[0.01], [0.1]])
    for _ in range(3):
        states = solver.step(states, params)
    assert (states[:, 0, -1] > 0).all() and (
        states[:, 0, -1].mean(-1) > 5 * np.abs(states[:, 0, 0]).mean(-1)
    ).all()  # the lid's row
    assert states[1, 0, -1].mean() > 2 * states[0, 0, -1].mean()  # the more viscous it is, the more it is dragged along
    np.testing.assert_allclose(states[:, 1].sum((1, 2)), 0, atol=1e-4)  # what goes up comes down
    wild = np.full((1, 3, 4, 6), 1e200)
    with pytest.raises(dz.StatesFailedError) as failed:
        solver.step(wild, params[:1])
    assert isinstance(failed.value.failures[0], dz.SolverKilledError) and failed.value.failures[0].diverged
