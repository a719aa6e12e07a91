"""Of what a failed program said, the lines that tell why are shown, whatever its runtime puts behind them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import compiled

import deepzero_sim as dz
from deepzero_sim.connectors.last_words import telling_lines

RULE = "-" * 74 + "\n"

TWO_LINES = "At line 4 of file r.f90\nFortran runtime error: End of file\n"

#: What programs say on stderr and stdout, and the line that must be told.
SAID = {
    "ifort": (
        "forrtl: severe (24): end-of-file during read, unit 5, file /proc/self/fd/0\n"
        "Image              PC                Routine            Line        Source             \n"
        "solver             000000000040A1F3  Unknown               Unknown  Unknown\n"
        "libc-2.31.so       00007F1D2C3A50B3  __libc_start_main     Unknown  Unknown\n",
        "",
        "forrtl: severe (24): end-of-file during read, unit 5, file /proc/self/fd/0",
    ),
    "Open MPI's abort": (
        "the pressure is negative in cell 17\n" + RULE + "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n"
        "with errorcode 7.\n\nNOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.\n"
        "You may or may not see output from other processes, depending on\nexactly when Open MPI kills them.\n" + RULE,
        "",
        "the pressure is negative in cell 17",
    ),
    "a banner, and the reason on stdout": (
        RULE + "mpirun detected that one or more processes exited with non-zero status, thus causing\n"
        "the job to be terminated. The first process to do so was:\n\n  Process name: [[7437,1],1]\n  Exit code:    2\n" + RULE,
        " L2 error = 1e-3\n ERROR: the CFL number is 3.2\n Writing restart\n Good bye\n See you\n",
        "ERROR: the CFL number is 3.2",
    ),
    "a signal under Open MPI": (
        "[node1:4711] *** Process received signal ***\n[node1:4711] Signal: Segmentation fault (11)\n"
        "[node1:4711] [ 0] /lib/libc.so.6(+0x42520)[0x7f5c]\n[node1:4711] [ 1] ./solver(+0x1189)[0x5581]\n"
        "[node1:4711] *** End of error message ***\n",
        "",
        "[node1:4711] Signal: Segmentation fault (11)",
    ),
    "OpenFOAM": (
        '\n\n--> FOAM FATAL IO ERROR: \nkeyword nu is undefined in dictionary "constant/transportProperties"\n\n'
        "file: constant/transportProperties from line 18 to line 20.\n\n"
        "    From function const Foam::entry& Foam::dictionary::lookupEntry(const Foam::word&, bool, bool) const\n"
        "    in file db/dictionary/dictionary.C at line 512.\n\nFOAM exiting\n\n",
        "Create time\n",
        'keyword nu is undefined in dictionary "constant/transportProperties"',
    ),
    "OpenFOAM in parallel": (
        "[0] --> FOAM FATAL ERROR: \n[0] Unknown patchField type fixedvalue\n[0] \n"
        "[0]     From function static Foam::tmp<T> Foam::fvPatchField<Type>::New(const Foam::word&)\n"
        "[0]     in file fvPatchFieldNew.C at line 55.\n[0] \nFOAM parallel run exiting\n[0] \n",
        "",
        "[0] Unknown patchField type fixedvalue",
    ),
    "OpenFOAM's stack": (
        "#0  Foam::error::printStack(Foam::Ostream&) at ??:?\n#1  Foam::sigFpe::sigHandler(int) at ??:?\n"
        "#2  ? in /lib/libc.so.6\nFloating point exception (core dumped)\n",
        "",
        "Floating point exception (core dumped)",
    ),
    "glibc": (
        "*** stack smashing detected ***: terminated\n======= Backtrace: =========\n./solver(main+0x2f)[0x55d5]\n",
        "",
        "*** stack smashing detected ***: terminated",
    ),
    "C++": (
        "terminate called after throwing an instance of 'std::runtime_error'\n  what():  no convergence\n",
        "",
        "what(): no convergence",
    ),
    "Julia": (
        "ERROR: LoadError: DomainError with -1.0:\nsqrt was called\nStacktrace:\n [1] throw_complex_domainerror(f::Symbol)\n"
        "   @ Base.Math ./math.jl:33\n [2] top-level scope\n   @ /tmp/a.jl:3\nin expression starting at /tmp/a.jl:3\n",
        "",
        "ERROR: LoadError: DomainError with -1.0:",
    ),
    "long dumps": (
        "Error: the grid is empty\n" + "".join(f"cell {i} of the dump\n" for i in range(100)),
        "",
        "Error: the grid is empty",
    ),
    "nothing that stands out": (
        "".join(f"line {i}\n" for i in range(9)) + "the pressure is negative\n",
        "",
        "the pressure is negative",
    ),
    "only frames": ("#0  0x7f in ???\n#1  0x7f in main\n", "", "#1 0x7f in main"),
    "places in words": ("at step 3 it is gone (p = -1)\n", "", "at step 3 it is gone (p = -1)"),
    "only stdout": ("", "1\n2\nstopped\n", "stopped"),
    "many processes": (TWO_LINES * 64, "", "Fortran runtime error: End of file"),
}


@pytest.mark.parametrize(("stderr", "stdout", "telling"), SAID.values(), ids=SAID.keys())
def test_the_telling_line_is_among_three(stderr: str, stdout: str, telling: str) -> None:
    lines = telling_lines(stderr, stdout)
    assert telling in lines and len(lines) <= 3 and len(set(lines)) == len(lines)


FORTRAN = {
    "reads": ("integer :: n\n namelist /deck/ n\n read(*, nml=deck)\n print *, n", "Fortran runtime error: End of file"),
    "traps": ("real(8) :: x = -1\n x = sqrt(x - rand(0))\n print *, x", "SIGFPE: Floating-point exception"),
    "stops": ("error stop 'the mesh is empty'", "ERROR STOP the mesh is empty"),
}


@pytest.mark.parametrize("what", FORTRAN)
def test_gfortran_is_understood(tmp_path: Path, what: str) -> None:
    code, telling = FORTRAN[what]
    (source := tmp_path / f"{what}.f90").write_text(f"program p\n implicit none\n {code}\nend program\n")
    if shutil.which("gfortran") is None:
        pytest.skip("there is no gfortran")
    command = ["gfortran", "-g", "-fbacktrace", "-ffpe-trap=invalid", "-o", str(tmp_path / what), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    solver = dz.ExecutableSolver(SPEC, [str(tmp_path / what)], [{"path": "u.raw"}], [{"path": "v.raw"}], keep="never")
    with pytest.raises(dz.StatesFailedError) as failed:
        solver.step(np.ones((1, 1, 4)))
    said = str(failed.value.failures[0])
    assert telling in said and "libc" not in said and "#" not in said


def test_python_is_understood(tmp_path: Path) -> None:
    code = "def step():\n    raise ValueError('the pressure is negative')\n\n\nstep()\n"
    (tmp_path / "step.py").write_text(code)
    solver = dz.ExecutableSolver(
        SPEC, [sys.executable, str(tmp_path / "step.py")], [{"path": "u.raw"}], [{"path": "v.raw"}], keep="never"
    )
    with pytest.raises(dz.StatesFailedError, match="said is 'ValueError: the pressure is negative'"):
        solver.step(np.ones((1, 1, 4)))


SPEC = dz.SolverSpec(name="said", state_shape=(1, 4), dt=1.0, dtype="float64")


def test_standard_input_is_any_file_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of gfortran that reads its deck from there, and one that reads the state, a template or a table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deck.nml").write_text("&deck\n nu = 0.0, u = 4*0.0\n/\n")
    (tmp_path / "read.f90").write_text(
        "program p\n real(8) :: nu, u(4)\n namelist /deck/ nu, u\n read(*, nml=deck)\n open(10, file='v.txt')\n"
        " write(10, '(es24.16)') nu * u\nend program\n"
    )
    spec = {"name": "stdin", "state_shape": [1, 4], "dt": 1.0, "dtype": "float64", "parameters": ["nu"]}
    states, params = np.arange(8.0).reshape(2, 1, 4), np.array([[2.0], [0.1]])
    text = [{"path": "v.txt", "format": "text"}]
    values = {"deck": {"nu": "{{ params.nu }}", "u": [f"{{{{ state[0][{i}] }}}}" for i in range(4)]}}
    if shutil.which("gfortran"):
        program = compiled(tmp_path / "read.f90", tmp_path, "gfortran")
        deck = {"deck.nml": {"file": "deck.nml", "values": values}}
        solver = dz.ExecutableSolver(spec, [str(program)], outputs=text, namelists=deck, stdin="deck.nml")
        np.testing.assert_allclose(solver.step(states, params), states * params[..., None], rtol=1e-15)
    (tmp_path / "state.j2").write_text("{% for u in state[0] %}{{ u }}\n{% endfor %}")
    (tmp_path / "table").write_text("1\n2\n3\n4\n")
    (tmp_path / "copy.sh").write_text("#!/bin/sh\ncat > v.txt\n")
    (tmp_path / "copy.sh").chmod(0o755)
    for stdin, more, expected in [
        ("u.txt", {}, states),
        ("case/./state", {"templates": {"case/state": "state.j2"}}, states),
        ("table", {"external_input_files": ["table"]}, np.tile(np.arange(1.0, 5.0), (2, 1, 1))),
        ("t", {"external_input_links": {"t": "table"}}, np.tile(np.arange(1.0, 5.0), (2, 1, 1))),
    ]:
        solver = dz.ExecutableSolver(spec, ["./copy.sh"], [{"path": "u.txt", "format": "text"}], text, stdin=stdin, **more)
        np.testing.assert_array_equal(solver.step(states, params), expected)
