"""Training on a file larger than memory: 20 GB of frames, nearly all of them holes of a sparse file, of which blocks are read.

The file is made in a temporary folder; it takes little of the disk, but is read like any other, all of it: for the scales of
the data and their digest, and frame by frame for the batches. Each method trains a few updates in a process of its own.

Run: python benchmarks/streamed_training.py [--gigabytes 20] [--updates 5]
Prints one JSON object: peak memory in GB and seconds, by method.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from deepzero_sim.common.components import Component
from deepzero_sim.common.machine import peak_memory_gb
from deepzero_sim.datasets.trajectory_file import FORMAT, VERSION
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.runs.comparison import cost
from deepzero_sim.training.runs.settings import TrainSettings, Workers
from deepzero_sim.training.runs.training import train

#: Points along an axis, and frames of a simulation; a frame takes 256 KiB.
POINTS, FRAMES = 256, 1000

#: Frames at the beginning of every simulation that are no holes.
WRITTEN = 3

#: Settings by method.
METHODS: dict[str, dict[str, Component]] = {
    "NON": {},
    "SolverLayer": {"vjp": Component("deepzero_sim.vjp.Detached")},
}


class Diffusion(Solver):
    """The heat equation on a periodic square, by explicit steps.

    Args:
        points: Number of points along an axis.
    """

    def __init__(self, points: int = POINTS) -> None:
        self.spec = SolverSpec(name="diffusion", state_shape=(1, points, points), dt=1.0, stencil=1)

    def step(self, states: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        around = sum(np.roll(states, shift, axis) for shift in (1, -1) for axis in (2, 3))
        return np.asarray(states + 0.2 * (around - 4 * states), dtype=states.dtype)


def write_sparse(path: Path, gigabytes: float) -> None:
    """Write a file of trajectories whose frames are holes but for the first ones, which HDF5 reads as zeros."""
    simulations = max(1, round(gigabytes * 1e9 / (FRAMES * POINTS**2 * 4)))
    with h5py.File(path, "w", libver="v110") as file:
        file.attrs["format"], file.attrs["version"], file.attrs["name"], file.attrs["dt"] = FORMAT, VERSION, "diffusion", 1.0
        allocated = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        allocated.set_chunk((1, 1, 1, POINTS, POINTS))
        allocated.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        allocated.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((simulations, FRAMES, 1, POINTS, POINTS))
        h5py.h5d.create(file.id, b"frames", h5py.h5t.IEEE_F32LE, space, allocated)
        file["params"] = np.zeros((simulations, 0), np.float32)
        file["mask"] = np.ones((1, POINTS, POINTS), np.uint8)
        solver, random = Diffusion(), np.random.default_rng(0)
        for simulation in range(simulations):
            states = random.normal(size=(1, 1, POINTS, POINTS)).astype(np.float32)
            for frame in range(WRITTEN):
                file["frames"][simulation, frame] = states[0]
                states = solver.step(solver.step(states))


def train_one(method: str, folder: Path, updates: int) -> dict[str, float]:
    """Train in this process; returns seconds, the peak memory of this process, and solver steps."""
    settings = TrainSettings(
        run=folder / method,
        train_data=folder / "sparse.h5",
        method=method,  # type: ignore[arg-type]
        solver=Component(f"{Path(__file__).resolve()}:Diffusion"),
        network=Component("small", {"width": 8, "blocks": 1, "padding": "circular"}),
        updates=updates,
        batch_size=2,
        unroll=3,
        workers=Workers("serial", 1),
        tensorboard=False,
        **METHODS[method],  # type: ignore[arg-type]
    )
    started = time.perf_counter()
    progress = train(settings)
    steps = cost(settings.run).solver_steps
    return {
        "seconds": time.perf_counter() - started,
        "seconds_of_updates": progress.seconds,
        "peak_gb": peak_memory_gb(),
        "solver_steps": steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--train", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train is not None:
        print(json.dumps(train_one(given.train[0], Path(given.train[1]), given.updates)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary), Path(temporary) / "sparse.h5"
        free = shutil.disk_usage(folder).free
        write_sparse(path, given.gigabytes)
        size = path.stat()
        result = {"file_gb": size.st_size / 1e9, "on_disk_gb": size.st_blocks * 512 / 1e9, "free_before_gb": free / 1e9}
        for method in METHODS:
            command = [sys.executable, __file__, "--updates", str(given.updates), "--train", method, temporary]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this file
            result[method] = json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
