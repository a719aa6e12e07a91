"""Time of a small training script with torch's default threads, and with each number of threads that a user may fix.

The script is a training loop of one's own: a two-dimensional solver in numpy, a small network, SolverLayer and Adam. It runs in
a process of its own, without OMP_NUM_THREADS for the default and with it for every fixed number. The settings take turns, and
the medians are printed. A fixed number that takes five times as long as the default is given up: null. With --load, as many
busy processes run beside it as there are cores.

Run: python benchmarks/default_threads.py [--updates 400] [--repeats 3] [--load]
Prints one JSON object.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

import deepzero_sim as dz
from deepzero_sim.models import small

#: Multiple of the default's time, beyond which a fixed number of threads is given up.
GIVEN_UP = 5.0

CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def diffuse(states: np.ndarray) -> np.ndarray:
    """Take a step of the heat equation, periodic, `(B, 1, n, n)`."""
    around = sum(np.roll(states, shift, axis) for shift in (1, -1) for axis in (2, 3))
    return np.asarray(states + 0.2 * (around - 4 * states), dtype=states.dtype)


def train(updates: int) -> float:
    """Train a network to take two steps in one, and return the seconds of the loop."""
    torch.manual_seed(0)
    spec = dz.SolverSpec(name="heat", state_shape=(1, 32, 32), dt=1.0, stencil=1)
    layer = dz.SolverLayer(dz.as_solver(diffuse, spec), dz.vjp.StraightThrough())
    network = small(spec, width=16, blocks=2, padding="circular")
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    random = np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(updates):
        reference = random.normal(size=(8, 1, 32, 32)).astype("float32")
        states, loss = torch.from_numpy(reference), torch.zeros(())
        for _ in range(4):
            states = layer(states)
            states = states + network(states)
            reference = diffuse(diffuse(reference))
            loss = loss + (states - torch.from_numpy(reference)).square().mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return time.perf_counter() - started


def time_process(threads: int | None, updates: int, limit: float | None = None) -> float:
    """Run the script with a fixed number of threads, or with torch's default if None; infinite beyond so many seconds."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN_BY}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--script", "--updates", str(updates)]
    try:
        run = subprocess.run(  # noqa: S603 - our own
            command, env=environment, check=True, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return math.inf
    return float(run.stdout)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep cores busy with something else."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def measure(updates: int, repeats: int, load: bool) -> dict[str, object]:
    """Let the settings take turns; seconds of each, and the default's time as a multiple of the best setting's."""
    cores = os.cpu_count() or 1
    settings = {"default": None, **{str(n): n for n in sorted({1, 2, cores // 2, cores} - {0})}}
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    with busy(cores if load else 0):
        for _ in range(repeats):
            started = time.perf_counter()
            seconds["default"].append(time_process(None, updates))
            limit = GIVEN_UP * (time.perf_counter() - started)
            for name, threads in settings.items():
                if threads is not None:
                    seconds[name].append(time_process(threads, updates, limit))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["default"] / min(value for name, value in medians.items() if name != "default")
    shown = {name: value if math.isfinite(value) else None for name, value in medians.items()}
    return {"cores": cores, "load": load, "updates": updates, "seconds": shown, "ratio_to_best": ratio}


def main() -> None:
    """Print the measurement as JSON, or the seconds of one run of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--script", action="store_true", help="run the script once in this process and print its seconds")
    options = parser.parse_args()
    if options.script:
        print(train(options.updates))
    else:
        print(json.dumps(measure(options.updates, options.repeats, options.load), indent=2))


if __name__ == "__main__":
    main()
