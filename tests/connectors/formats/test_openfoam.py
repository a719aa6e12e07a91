"""OpenFOAM's field files: by hand, and through icoFoam where it is installed."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
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


def decode(content: str | bytes, shape: tuple[int, ...], **options: Any) -> np.ndarray:
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
    np.testing.assert_array_equal(decode(content, (2, 3)), [[1, 2, 7], [1, 2, 7]])


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
    np.testing.assert_array_equal(decode(field(internal=internal), (2, 2)), expected)


def test_binary_may_be_of_single_precision() -> None:
    before, after = field(
        form="binary", arch='arch "LSB;label=32;scalar=32";\n', internal="nonuniform List<vector> 2(@)"
    ).split("@")
    numbers = np.arange(6, dtype="<f4").tobytes()
    np.testing.assert_array_equal(decode(before.encode() + numbers + after.encode(), (2, 3)), [[0, 1, 2], [3, 4, 5]])


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
        decode(content, (2, 2))


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


def around(raw: bytes, entry: bytes) -> tuple[bytes, bytes]:
    """Return the bytes before and behind an entry that is there once."""
    before, found, after = raw.partition(entry)
    assert found and entry not in after
    return before, after


#: Gaps that may stand between two words; much of it looks like something else.
GAPS = (
    " ",
    "\n    ",
    "\t",
    "\r\n",
    " // don't { ( ; \" internalField uniform 9;\n",
    ' /* internalField uniform 8; } ) // " **/ ',
    "/**/",
)

#: Entries that are not the internalField, although some of them look like it.
OTHERS = (
    "Uin (10 0 0);",
    "sub { internalField uniform 5; inner { internalField nonuniform List<vector> 1((1 2 3)); } }",
    'note "internalField uniform 4; } \\" { //";',
    "code #{ internalField uniform 3; } ) #};",
    "list (internalField uniform 4);",
    '#include "internalField"',
    '#includeEtc "caseDicts/any"',
    "div(phi,U) internalField;",
    "$common;",
    "dimensions [0 1 -1 0 0 0 0]; ;",
    "x $internalField;",
    "values #calc #{ 2*$x; } #};",
    "internalFields uniform 6; internal internalField;",
)

BOUNDARIES = (
    "boundaryField { wall { type fixedValue; value uniform (1 2 3); } }",
    "boundaryField { wall { type fixedValue; value $internalField; } }",
    "boundaryField { wall { internalField uniform (4 4 4); value nonuniform List<vector> 2((1 2 3) (4 5 6)); } }",
    'boundaryField { "(wall|lid)" { type noSlip; } #includeEtc "caseDicts/setConstraintTypes" } // end of file',
)

#: OpenFOAM reads less than 1e-300 as 0 and refuses more than 1e300, as text.
finite = st.floats(-1e299, 1e299).filter(lambda number: number == 0 or abs(number) > 1e-299)


@st.composite
def noisy(draw: st.DrawFn) -> tuple[bytes, bytes, np.ndarray]:
    """Draw a field file of vectors, its internalField, and the values of that."""
    gap = st.sampled_from(GAPS)

    def space_out(*words: str) -> str:
        return "".join(word + draw(gap) for word in words)

    def vector(row: np.ndarray) -> str:
        return space_out("(", *(repr(float(number)) for number in row)) + ")"

    values = draw(arrays.arrays(np.float64, (draw(st.integers(1, 4)), 3), elements=finite))
    form = draw(st.sampled_from(["uniform", "same", "counted", "bare", "uncounted"]))
    if form in ("uniform", "same"):
        values = np.repeat(values[:1], len(values), axis=0)
    rows = [vector(row) for row in values]
    said = {
        "uniform": ["uniform", rows[0]],
        "same": ["nonuniform", "List<vector>", str(len(rows)), "{", rows[0], "}"],
        "counted": ["nonuniform", "List<vector>", str(len(rows)), "(", *rows, ")"],
        "bare": ["nonuniform", str(len(rows)), "(", *rows, ")"],
        "uncounted": ["nonuniform", "List<vector>", "(", *rows, ")"],
    }[form]
    entry = "internalField" + draw(gap) + space_out(*said) + ";"
    words = draw(st.permutations(["version 2.0;", "class volVectorField ;", "object U;", 'arch "LSB;label=32;scalar=64";']))
    header = draw(st.sampled_from(["", "// FoamFile\n", "/* C++ */"])) + space_out(
        "FoamFile", "{", "format", "ascii", ";", *words
    )
    others = draw(st.lists(st.sampled_from(OTHERS), max_size=3))
    before = header + "}" + "".join(draw(gap) + "\n" + other + "\n" for other in others) + draw(gap)
    after = draw(gap) + draw(st.sampled_from(BOUNDARIES)) + draw(st.sampled_from(["", "\n", "\n// ***** //"]))
    return (before + entry + after).encode(), entry.encode(), values


@given(noisy(), st.integers(0, 10**6))
def test_comments_blanks_and_what_only_looks_like_it_hide_nothing(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[bytes, bytes, np.ndarray], cut: int
) -> None:
    raw, entry, values = made
    np.testing.assert_array_equal(decode(raw, values.shape), values)
    (path := tmp_path_factory.getbasetemp() / "noisy").write_bytes(raw)
    other = np.arange(values.size, dtype=np.float64).reshape(values.shape) / 7
    written = bytes(OpenFoam(path).encode(other))
    np.testing.assert_array_equal(decode(written, values.shape), other)
    before, after = around(raw, entry)
    assert written.startswith(raw if b"internalField" in after else before)
    assert b"internalField" in after or written.endswith(after)
    truncated = raw[: cut % raw.rindex(b"}")]
    with pytest.raises(dz.UnreadableOutputError):
        decode(truncated, values.shape)


@settings(max_examples=15)
@given(noisy())
def test_an_independent_reader_agrees(tmp_path_factory: pytest.TempPathFactory, made: tuple[bytes, bytes, np.ndarray]) -> None:
    dictionary = shutil.which("foamDictionary")
    if dictionary is None:
        pytest.skip("OpenFOAM is not installed")
    raw, _, values = made
    assume(not any(word in raw for word in (b"#include", b"$common", b"#calc", b"x $")))  # what they mean is in no file
    folder = tmp_path_factory.getbasetemp()
    (folder / "read").write_bytes(raw)
    other = np.linspace(-1e200, 1 / 3, values.size).reshape(values.shape)
    (folder / "written").write_bytes(OpenFoam(folder / "read").encode(other))
    for name, expected in (("read", values), ("written", other)):
        arguments = [dictionary, "-precision", "17", "-entry", "internalField", "-value", str(folder / name)]
        said = subprocess.run(arguments, env={**os.environ, **OPENFOAM}, check=True, capture_output=True, text=True).stdout
        np.testing.assert_array_equal(decode(field(internal=said.strip()), values.shape), expected)


@pytest.mark.parametrize("arch", ["LSB;label=32;scalar=64", "LSB;label=64;scalar=32", "MSB;label=32;scalar=64"])
@given(data=st.data())
def test_bytes_may_look_like_anything(tmp_path_factory: pytest.TempPathFactory, arch: str, data: st.DataObject) -> None:
    number = np.dtype((">" if "MSB" in arch else "<") + ("f4" if "scalar=32" in arch else "f8"))
    label = 8 if "label=64" in arch else 4
    odd = st.sampled_from([b'// }{;")(', b"/* #{ ;;", b'"))) ;\n}', b");\n//**/", b"interna", b"lField u"])
    bytes_of = st.one_of(odd, st.binary(min_size=8, max_size=8))
    payload = b"".join(data.draw(st.lists(bytes_of, min_size=6, max_size=6))) + b"\0" * 24
    payload = payload[: 6 * number.itemsize]
    text = field(form="binary", arch=f'arch "{arch}";\n', internal="nonuniform List<vector> 2(@)")
    before, after = text.replace("{ type empty; }", "").encode().split(b"@")
    sides = b"{ faces List<label> 3(" + b"}" * (3 * label) + b"); value nonuniform List<vector> 2(" + payload + b"); }\n}\n"
    raw = before + payload + after.rstrip().removesuffix(b"}") + sides
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = np.frombuffer(payload, number).reshape(2, 3).astype(np.float64)
    np.testing.assert_array_equal(decode(raw, (2, 3)), expected)
    (path := tmp_path_factory.getbasetemp() / "binary").write_bytes(raw)
    written = bytes(OpenFoam(path, [0]).encode(np.ones((2, 1))))
    np.testing.assert_array_equal(decode(written, (2, 3)), np.column_stack([np.ones(2), expected[:, 1:]]))
    assert sides in written


@pytest.mark.parametrize(
    ("internal", "words"),
    [
        ("uniform $Uin;", "`uniform|'uniform \\$Uin'"),
        ("uniform ($x 0 0)", r"'uniform \(\$x 0 0\)'"),
        ("#calc #{ 1; #}", "#calc"),
        ("uniform (#eval{ 1 } 0 0)", "#eval"),
        ("$init", r"'\$init'"),
        ("nonuniform #codeStream { code #{ ; } #}; }", "#codeStream"),
    ],
)
def test_macros_do_no_harm_where_their_values_are_not_needed(tmp_path: Path, internal: str, words: str) -> None:
    path = base(tmp_path, internal=internal.removesuffix(";"))
    values = np.arange(6.0).reshape(2, 3)
    written = bytes(OpenFoam(path).encode(values))
    np.testing.assert_array_equal(decode(written, (2, 3)), values)
    with pytest.raises(dz.ConfigError, match=rf"written out in numbers, because the components \[2\] are .*{words}"):
        OpenFoam(path).encode(values[:, :2])
    with pytest.raises(dz.UnreadableOutputError, match="is no field of OpenFOAM with its internalField written out"):
        decode(path.read_text(), (2, 3))


@pytest.mark.parametrize(
    "noise",
    ['#include "include/more"', "#if 0\n#endif\n", "$more;", "#inputMode protect"],
)
def test_where_another_file_may_have_a_word_the_last_one_is_ours(tmp_path: Path, noise: str) -> None:
    path = base(tmp_path)
    path.write_text(raw := path.read_text().replace("boundaryField", f"{noise}\nboundaryField"))
    written = bytes(OpenFoam(path).encode(np.ones((2, 3)))).decode()
    assert written.startswith(raw) and written.count("internalField nonuniform") == 1
    assert ("#inputMode merge" in written) == ("#inputMode" in noise)
    with pytest.raises(dz.ConfigError) if "inputMode" not in noise else contextlib.nullcontext():
        OpenFoam(path).encode(np.ones((2, 2)))


def test_an_internal_field_of_an_included_file_is_overridden(tmp_path: Path) -> None:
    path = base(tmp_path)
    path.write_text(raw := path.read_text().replace("internalField   uniform (1 2 3);", '#include "initialConditions"'))
    assert bytes(OpenFoam(path).encode(np.ones((2, 3)))).decode().startswith(raw)
    path.write_text(raw.replace("#include", "#includeEtc"))
    with pytest.raises(dz.ConfigError, match="internalField written out: it has none"):
        OpenFoam(path)


def test_compressed_files_are_read_also_where_they_are_not_named(tmp_path: Path) -> None:
    (tmp_path / "U.gz").write_bytes(gzip.compress(field().encode()))
    values = np.arange(6.0).reshape(2, 3)
    for name in ("U", "U.gz"):
        written = bytes(OpenFoam(tmp_path / name).encode(values))
        np.testing.assert_array_equal(decode(gzip.compress(written), (2, 3)), values)
    base(tmp_path, internal="uniform (7 8 9)")  # OpenFOAM takes U where both are there
    np.testing.assert_array_equal(decode(bytes(OpenFoam(tmp_path / "U").encode(values[:, :1])), (2, 3))[:, 1:], [[8, 9]] * 2)
    packed = gzip.compress(written)
    for torn in (packed[:-9], packed[:20], packed[:2], packed[:12] + b"\0\0" + packed[14:]):
        with pytest.raises(dz.UnreadableOutputError, match="is compressed"):
            decode(torn, (2, 3))
    with pytest.raises(dz.UnreadableOutputError, match="when uncompressed, far more"):
        decode(gzip.compress(written + b" " * 2**25), (2, 3))


def test_what_a_program_compresses_is_its_output(tmp_path: Path) -> None:
    base(tmp_path)
    script = tmp_path / "solver"
    script.write_text("#!/bin/sh\nmkdir 1 && gzip < 0/U > 1/U.gz\n")
    script.chmod(0o755)
    spec = {"name": "foam", "state_shape": [3, 1, 2], "dt": 1.0, "dtype": "float64"}
    inputs = [{"path": "0/U", "format": "openfoam", "base": tmp_path / "U"}]
    solver = dz.ExecutableSolver(spec, [script], inputs, [{"path": "1/U", "format": "openfoam"}], kept_folder=tmp_path / "kept")
    states = np.random.default_rng(0).standard_normal((2, 3, 1, 2))
    np.testing.assert_array_equal(solver.step(states), states)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (field().replace("volVector", "pointScalar"), "is no field of OpenFOAM at cell centres.*its class is pointScalarField"),
        (field().replace("class  ", "clas  ").replace("class", "clas"), "its class is none"),
        (field().replace("volVectorField", "volVectorField::Internal"), "its class is volVectorField::Internal"),
        ("\ufeff" + field(), "begins with a byte-order mark"),
        ("U 1;\n" + field(), "does not begin with its header"),
        (field().replace("dimensions", "}\ndimensions"), r"has '}\\ndimensions.* where the name of an entry should be"),
        (field().replace("[0 1", "(0 1"), "has '}.* where '\\)' should come first|it is truncated"),
        (field(form="binary", arch="arch LSB;"), "is binary, but of an unknown arch 'LSB'"),
        (field(form="binary", arch='arch "LSB;label=32;scalar=80";'), "unknown arch 'LSB;label=32;scalar=80'"),
        (field(internal="nonuniform List<scalar> 2(1 2)"), "is a field of 'vector', but holds a list of 'scalar'"),
        (field(internal="nonuniform List<vector> 2((1 2) (3 4 5 6))"), "not all of 3 components"),
        (field(internal="nonuniform List<vector> 2(1 2 3 4 5 6)"), "not all of 3 components"),
        (field(internal="nonuniform List<vector> 2((1 2 3) (4 5 6)) 7"), "more than a list"),
        (field(internal="nonuniform List<vector> 2((1_0 2 3) (4 5 6))"), "something else than numbers"),
        (field(internal="nonuniform List<vector> 99999999999999999999((1 2 3))"), "is no field|written out"),
        (field(internal="(1 2 3)"), "written out as uniform or nonuniform"),
        (field(internal="{ value uniform (1 2 3); }"), "written out as uniform or nonuniform|should come first"),
        (field("Scalar", internal="uniform (1)"), "something else than numbers"),
    ],
)
def test_what_is_not_such_a_field_is_refused_in_words(tmp_path: Path, raw: str, words: str) -> None:
    with pytest.raises(dz.UnreadableOutputError, match=words):
        decode(raw, (2, 1 if "Scalar" in raw else 3))
    (tmp_path / "U").write_text(raw)
    with pytest.raises(dz.ConfigError, match=f"base must be a field file of OpenFOAM, but .*U .*({words})"):
        OpenFoam(tmp_path / "U")


def test_a_base_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(dz.ConfigError, match=r"base must be a field file of OpenFOAM, but .* is no file"):
            OpenFoam(path)


def test_one_value_for_very_many_cells_takes_no_memory() -> None:
    with pytest.raises(dz.InvalidStateError, match="holds 99999999999999 cells, not 2"):
        decode(field(internal="nonuniform List<vector> 99999999999999{(1 2 3)}"), (2, 3))


def test_brackets_without_end_take_no_more_time_than_others() -> None:
    begun = time.monotonic()
    for piece in ("List<vector> 2(", "List<vector> (/", "/*", '"', "#{", "{", "("):
        with pytest.raises(dz.UnreadableOutputError):
            decode(field(internal="uniform " + piece * 30_000), (2, 3))
    assert time.monotonic() - begun < 5


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
    """Make a case of a lid-driven cavity with its mesh."""
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


@pytest.mark.skipif(shutil.which("icoFoam") is None, reason="OpenFOAM is not installed")
@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_icofoam_reads_bases_as_people_have_them(tmp_path: Path, form: str) -> None:
    case = cavity(tmp_path, 6, 4, form)
    control = case / "system/controlDict"
    control.write_text(control.read_text() + "writeCompression on;\n")
    plain = (case / "0/U").read_text()
    odd = "Ulid (1 0 0);\n" + "  internalField // where it starts\n /* ; */ uniform\t$Ulid ;"
    others = plain.replace("internalField uniform (0 0 0);", odd).replace("value uniform (1 0 0)", "value $internalField")
    assert others.count("internalField") == 2
    (case / "others.gz").write_bytes(gzip.compress(others.encode()))

    def step(base: Path, states: np.ndarray) -> np.ndarray:
        solver = dz.ExecutableSolver(
            {"name": "cavity", "state_shape": [3, 4, 6], "dt": 0.005, "dtype": "float64", "parameters": ["nu"]},
            ["icoFoam"],
            [{"path": "0/U", "format": "openfoam", "base": base}],
            [{"path": "0.005/U", "format": "openfoam"}],
            external_input_files=[case / "system"],
            external_input_links={"constant/polyMesh": case / "constant/polyMesh", "0/p": case / "0/p"},
            templates={"constant/transportProperties": case / "transport.j2"},
            environment=OPENFOAM,
            kept_folder=tmp_path / "kept",
        )
        return solver.step(states, np.full((2, 1), 0.01))

    states = np.random.default_rng(0).standard_normal((2, 3, 4, 6)) * [[[[0.1]], [[0.1]], [[0.0]]]]
    np.testing.assert_array_equal(step(case / "others", states), step(case / "0/U", states))


#: The tutorials, as Debian's package openfoam-examples has them.
TUTORIALS = Path("/usr/share/doc/openfoam-examples/examples")


def tutorial_fields() -> Iterator[tuple[Path, bytes, int]]:
    """Find all fields at cell centres: their paths, their contents, and their numbers of components."""
    for path in sorted(path for path in TUTORIALS.rglob("*") if {"0", "0.orig"} & set(path.parts) and path.is_file()):
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        if found := re.search(rb"class\s+vol(Scalar|Vector|SymmTensor|Tensor)Field\s*;", raw):
            yield path, raw, {"Scalar": 1, "Vector": 3, "SymmTensor": 6, "Tensor": 9}[found[1].decode()]


@pytest.mark.slow
@pytest.mark.skipif(not TUTORIALS.exists(), reason="the tutorials of OpenFOAM are not installed (openfoam-examples)")
def test_all_fields_of_the_tutorials_can_be_written_to_and_read() -> None:
    accepted, random = 0, np.random.default_rng(0)
    for path, raw, components in tutorial_fields():
        if b"internalField" not in raw:  # a part of a field, for others to include
            continue
        way = OpenFoam(path)
        accepted += 1
        if accepted % 5:  # each of them takes milliseconds
            continue
        counted = re.search(rb"internalField\s+nonuniform\s+List<\w+>\s*(\d+)", raw)
        cells = 5 if counted is None else int(counted[1])
        values = random.standard_normal((cells, components)) * 10.0 ** random.integers(-200, 200, (cells, components))
        written = bytes(way.encode(values))
        np.testing.assert_array_equal(decode(written, values.shape), values)
        assert written.startswith(raw[: raw.index(b"internalField")]) and raw[raw.index(b"boundaryField") :] in written
    assert accepted >= 2380


@pytest.mark.slow
@pytest.mark.skipif(not TUTORIALS.exists(), reason="the tutorials of OpenFOAM are not installed (openfoam-examples)")
@pytest.mark.parametrize(
    "case",
    [
        "multiphase/interFoam/laminar/damBreak/damBreak",  # values of boundaries that refer to the internalField
        "heatTransfer/buoyantPimpleFoam/hotRoom",  # pressures, turbulence, temperatures
        "basic/scalarTransportFoam/pitzDaily",  # compressed, with a value for each cell
    ],
)
def test_openfoam_reads_fields_of_tutorials_after_they_were_written_to(tmp_path: Path, case: str) -> None:
    shutil.copytree(TUTORIALS / case, tmp_path / "case")
    folder = tmp_path / "case"
    if not (folder / "0").exists():
        shutil.copytree(folder / "0.orig", folder / "0")
    control = folder / "system/controlDict"
    control.write_text(control.read_text().partition("functions")[0] + "\nwriteFormat ascii; writePrecision 17; startTime 0;\n")

    def run(*command: str) -> str:
        arguments = [*command, "-case", str(folder)]
        return subprocess.run(arguments, env={**os.environ, **OPENFOAM}, check=True, capture_output=True, text=True).stdout

    cells = int(re.findall(r"nCells: (\d+)", run("blockMesh"))[0])
    written = {}
    for path in [path for path in (folder / "0").iterdir() if path.is_file()]:
        components = 3 if path.name.startswith("U") else 1
        content = bytes(OpenFoam(path).encode(values := np.random.default_rng(cells).standard_normal((cells, components))))
        path.unlink()
        written[folder / "0" / path.name.removesuffix(".gz")] = values, content
    for path, (_, content) in written.items():
        path.write_bytes(content)
    run("foamFormatConvert", "-time", "0", "-noConstant")  # reads all fields with their boundaries, and writes them anew
    for path, (values, content) in written.items():
        assert path.read_bytes() != content
        np.testing.assert_array_equal(decode(path.read_bytes(), values.shape), values)
