"""Scatter of the demo's methods over seeds: how much of its table is luck.

Uses the demo's data and trains every method anew for each seed, in runs/seeds/. Some five minutes a seed on 2 cores.

Run: python benchmarks/demo_seeds.py [--seeds 1 2] [--data runs/demo/data]   (after the demo)
Prints one JSON object: the mean absolute error over 250 steps by seed and method.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from deepzero_sim.cli.demo import METHODS, STEPS, training_settings
from deepzero_sim.training.runs.comparison import compare
from deepzero_sim.training.runs.settings import Workers
from deepzero_sim.training.runs.training import train


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options.add_argument("--data", type=Path, default=Path("runs/demo/data"))
    given = options.parse_args()
    errors = {}
    for seed in given.seeds:
        folder = Path("runs/seeds") / str(seed)
        for method in METHODS:
            settings = training_settings(folder, given.data / "wake_train.h5", method, Workers())
            train(replace(settings, seed=seed, tensorboard=False))
        comparison = compare({method: folder / method for method in METHODS}, given.data / "wake_test.h5", STEPS)
        errors[seed] = {name: round(result.evaluation.mae, 4) for name, result in comparison.methods.items()}
    print(json.dumps(errors, indent=2))


if __name__ == "__main__":
    main()
