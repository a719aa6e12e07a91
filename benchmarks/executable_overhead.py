"""Overhead of ExecutableSolver: a step of one state against `subprocess.run` of the same program.

The program is C: it reads the state's numbers, computes for some milliseconds, and writes the next ones. Compared are a step
of ExecutableSolver; the same by hand, in a fresh temporary folder with files written and read by numpy; and the bare program,
which is run again and again on the same files. The three take turns, and the medians are printed.

Run: python benchmarks/executable_overhead.py [--calls 200]   (needs a C compiler)
Prints one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import deepzero_sim as dz

SIZES = (64, 65536)
WORK = (5, 20)  # milliseconds

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e3 * t.tv_sec + 1e-6 * t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    size_t n = strtoul(argv[1], NULL, 10);
    double end = now() + atof(argv[2]), *u = malloc(n * sizeof *u);
    FILE *in = fopen("u.raw", "rb");
    if (!in || fread(u, sizeof *u, n, in) != n) return 1;
    fclose(in);
    while (now() < end)
        for (size_t i = 1; i < n; i++) u[i] = 0.5 * (u[i] + u[i - 1]);
    FILE *out = fopen("v.raw", "wb");
    if (!out || fwrite(u, sizeof *u, n, out) != n) return 1;
    return fclose(out) ? 1 : 0;
}
"""


def compile_program(folder: Path) -> Path:
    source, program = folder / "work.c", folder / "work"
    source.write_text(PROGRAM)
    command = ["cc", "-O2", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=60)  # noqa: S603 - our own
    return program


def run_bare(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)  # noqa: S603 - our own


def step_by_hand(command: list[str], states: np.ndarray) -> np.ndarray:
    folder = Path(tempfile.mkdtemp())
    try:
        states.tofile(folder / "u.raw")
        run_bare(command, folder)
        return np.fromfile(folder / "v.raw").reshape(states.shape)
    finally:
        shutil.rmtree(folder)


def medians(ways: dict[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """Time each way in milliseconds, taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(calls):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(program: Path, folder: Path, numbers: int, work: int, calls: int) -> dict[str, float]:
    states = np.random.default_rng(0).normal(size=(1, 1, numbers))
    command = [str(program), str(numbers), str(work)]
    spec = dz.SolverSpec(name="work", state_shape=(1, numbers), dt=1.0, dtype="float64")
    files = {name: [{"path": f"{path}.raw", "format": "raw"}] for name, path in (("inputs", "u"), ("outputs", "v"))}
    solver = dz.ExecutableSolver(spec, command, files["inputs"], files["outputs"])
    states.tofile(folder / "u.raw")
    ways: dict[str, Callable[[], object]] = {
        "step": lambda: solver.step(states),
        "by_hand": lambda: step_by_hand(command, states),
        "bare": lambda: run_bare(command, folder),
    }
    medians(ways, 5)  # first calls start the guard, fill caches
    milliseconds = medians(ways, calls)
    return {
        "numbers": numbers,
        "work_ms": work,
        **{f"{name}_ms": round(value, 2) for name, value in milliseconds.items()},
        "step_over_by_hand": round(milliseconds["step"] / milliseconds["by_hand"], 3),
        "step_over_bare": round(milliseconds["step"] / milliseconds["bare"], 3),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--calls", type=int, default=200)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(Path(folder))
        results = [measure(program, Path(folder), size, work, given.calls) for size in SIZES for work in WORK]
    print(json.dumps({"cores": os.cpu_count(), "calls": given.calls, "results": results}, indent=2))


if __name__ == "__main__":
    main()
