"""Of what a failed program said, the lines that tell why are shown, whatever its runtime puts behind them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import compiled

import deepzero_sim as dz
from deepzero_sim.connectors.programs.program_output import error_lines

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
    "MPICH's abort, and the reason on stdout": (
        "Abort(7) on node 0 (rank 0 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 7) - process 0\n",
        "the depth is negative in cell 12\n",
        "the depth is negative in cell 12",
    ),
    "MPICH's own error": (
        "Abort(470354446) on node 0 (rank 0 in comm 0): Fatal error in internal_Recv: Invalid rank, error stack:\n"
        "internal_Recv(127): MPI_Recv(buf=0x1, count=1) failed\ninternal_Recv(80).: Invalid rank has value 7\n",
        "",
        "internal_Recv(80).: Invalid rank has value 7",
    ),
    "Hydra's banner": (
        "forrtl: severe (24): end-of-file during read, unit 5, file stdin\n\n" + 83 * "=" + "\n"
        "=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n=   PID 4183 RUNNING AT node1\n=   EXIT CODE: 24\n"
        "=   CLEANING UP REMAINING PROCESSES\n=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES\n" + 83 * "=" + "\n",
        "",
        "forrtl: severe (24): end-of-file during read, unit 5, file stdin",
    ),
    "a program that is not there under Open MPI": (
        RULE + "mpirun was unable to launch the specified application as it could not access\nor execute an executable:\n\n"
        "Executable: ./solver\nNode: vm\n\nwhile attempting to start process rank 0.\n"
        + RULE
        + "2 total processes failed to start\n",
        "",
        "mpirun was unable to launch the specified application as it could not access",
    ),
    "Slurm": (
        "the pressure is negative\nsrun: error: n1: task 0: Exited with exit code 2\n"
        "slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026 ***\n",
        "",
        "the pressure is negative",
    ),
    "a stop, and the reason on stdout": (
        "Note: The following floating-point exceptions are signalling: IEEE_DIVIDE_BY_ZERO\nSTOP 3\n",
        " step 5\n negative depth in cell 4\n",
        "negative depth in cell 4",
    ),
    "Python under Open MPI": (
        'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n    f()\n    ^^^\n'
        + "ValueError: no mesh\n"
        + RULE
        + "Primary job  terminated normally, but 1 process returned\n"
        "a non-zero exit code. Per user-direction, the job has been aborted.\n" + RULE,
        "",
        "ValueError: no mesh",
    ),
    "Octave": ("error: 'x' undefined\nerror: called from\n    solve at line 3 column 5\n", "", "error: 'x' undefined"),
    "MATLAB": (
        "Error using sqrt\nNot enough input arguments.\n\nError in solve (line 3)\n    x = sqrt;\n",
        "",
        "Not enough input arguments.",
    ),
    "R": (
        "Error in solve(a) : \n  system is exactly singular\nCalls: main -> solve\nExecution halted\n",
        "",
        "system is exactly singular",
    ),
    "Java": (
        'Exception in thread "main" java.lang.IllegalStateException: no mesh\n' + "\tat a.B.c(B.java:12)\n" * 30,
        "",
        'Exception in thread "main" java.lang.IllegalStateException: no mesh',
    ),
    "Rust": (
        "thread 'main' panicked at src/main.rs:2:5:\nno mesh\nstack backtrace:\n   0: rust_begin_unwind\n"
        "             at /rustc/x/panicking.rs:645:5\n   1: core::panicking::panic_fmt\n"
        "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n",
        "",
        "no mesh",
    ),
    "a sanitizer": (
        65
        * "="
        + "\n==12==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602000000014\n    #0 0x4f in main x.c:3\n"
        "\nSUMMARY: AddressSanitizer: heap-buffer-overflow x.c:3 in main\nShadow bytes around the buggy address:\n"
        "  0x0c047fff7fb0: 00 00 00 00\n==12==ABORTING\n",
        "",
        "==12==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602000000014",
    ),
    "PETSc": (
        "[0]PETSC ERROR: --------------------- Error Message ---------------------------\n"
        "[0]PETSC ERROR: Argument out of range\n[0]PETSC ERROR: Inserting a new nonzero at (0,5)\n"
        "[0]PETSC ERROR: See https://petsc.org/release/faq/ for trouble shooting.\n"
        "[0]PETSC ERROR: #1 MatSetValues() at /x/matrix.c:1400\n",
        "",
        "[0]PETSC ERROR: Argument out of range",
    ),
    "CalculiX, whose first error tells": (
        "",
        " *ERROR reading *INITIAL CONDITIONS. Card image:\n        1,-6.777373346967305E-05\n\n"
        " *INFO reading the rest of the deck\n\n"
        " *ERROR in calinput: at least one fatal\n        error message while reading the\n"
        "        input deck: CalculiX stops.\n",
        "*ERROR reading *INITIAL CONDITIONS. Card image:",
    ),
    "words on errors that are none": (
        "error tolerance 1e-3 set\nreading mesh\nmesh read\nno residual below the limit\nthe depth is negative\n",
        "L2 error: 1e-3\n",
        "the depth is negative",
    ),
    "a last line behind chatter on an error": (
        "Error: limiter is off\n" + "".join(f"step {i}\n" for i in range(9)) + "the depth is negative\n",
        "",
        "the depth is negative",
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
    lines = error_lines(stderr, stdout)
    assert telling in lines and len(lines) <= 3 and len(set(lines)) == len(lines)


def test_the_first_error_is_told_with_what_it_says_and_the_last_one_too() -> None:
    said = SAID["CalculiX, whose first error tells"]
    told = ["*ERROR reading *INITIAL CONDITIONS. Card image:", "1,-6.777373346967305E-05"]
    assert error_lines(*said[:2]) == [*told, "*ERROR in calinput: at least one fatal"]


@pytest.mark.parametrize(
    ("code", "diverged"),
    [
        ("echo 'usage: burgers points nu' >&2; exit 2", False),
        ("echo '*ERROR reading *INITIAL CONDITIONS. Card image: 1,-6.7'; exit 201", False),
        ("cat /no/such/mesh.txt; exit 1", False),
        ("exit 127", False),
        ("echo 'the pressure is negative' >&2; exit 3", True),
        ("echo 'error reading nothing: residual is nan' >&2; exit 3", True),
        ("exit 3", True),
        ("kill -FPE $$", True),
    ],
)
def test_a_smaller_step_is_advised_only_where_it_may_help(tmp_path: Path, code: str, *, diverged: bool) -> None:
    solver = dz.ExecutableSolver(SPEC, ["/bin/sh", "-c", code], [{"path": "u.raw"}], [{"path": "v.raw"}], keep="never")
    with pytest.raises(dz.StatesFailedError) as failed:
        solver.step(np.ones((1, 1, 4)))
    said = str(failed.value.failures[0])
    assert ("where it diverged, use a smaller step" in said) == diverged and said.endswith(".") and "to find out why" in said


@pytest.mark.parametrize("end", ["STOP 1\n", RULE * 3, "", "#0  0x7f in main\n", "\n"])
def test_what_is_told_ends_with_the_last_own_line(end: str) -> None:
    for said in ("a", "a\nb\nc\nd\nthe last", " indented\n  the last"):
        assert error_lines(f"{said}\n{end}", "")[-1] == said.splitlines()[-1].strip()


@pytest.mark.parametrize(
    "text",
    [60000 * "(", 30000 * "A.", 20000 * "a: ", "x\n" * 30000, RULE * 800, 9000 * "thread ' ", 200 * ("(x[0x" * 64 + "\n")],
)
def test_whatever_is_said_is_looked_through_at_once(text: str) -> None:
    started = time.monotonic()
    assert all(len(line) <= 160 for line in error_lines(text, text))
    assert time.monotonic() - started < 3


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


def test_openfoam_is_understood(tmp_path: Path) -> None:
    if shutil.which("icoFoam") is None:
        pytest.skip("there is no icoFoam: install OpenFOAM")
    for path, key in {"system/controlDict": "startFrom startTime;", "constant/nothing": ""}.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(f"FoamFile {{ version 2.0; format ascii; class dictionary; object x; }}\n{key}\n")
    case = {"system": tmp_path / "system", "constant": tmp_path / "constant"}
    files = [{"path": "u.raw", "format": "raw"}], [{"path": "v.raw", "format": "raw"}]
    solver = dz.ExecutableSolver(SPEC, ["icoFoam"], *files, external_input_files=case, keep="never")
    with pytest.raises(dz.StatesFailedError) as failed:
        solver.step(np.ones((1, 1, 4)))
    said = str(failed.value.failures[0])
    assert "--> FOAM FATAL" in said and "exiting" not in said and "From" not in said, said


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
