"""Seconds until the command line answers: help, and an error in the settings. Run by `python benchmarks/start.py`."""

from __future__ import annotations

import subprocess
import sys
import time

CALLS = (
    ("--help",),
    ("--version",),
    ("train", "--help"),
    ("train", "--config", "{updatess: 3}"),
    ("train", "--updatess", "3"),
    ("tarin",),
)


def seconds(words: tuple[str, ...], repeats: int = 5) -> float:
    """Time the program from start to end, at its fastest."""
    return min(_seconds(words) for _ in range(repeats))


def _seconds(words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "deepzero_sim.cli", *words], capture_output=True, check=False)  # noqa: S603 - our own
    return time.perf_counter() - began


def main() -> None:
    """Print a table."""
    for words in CALLS:
        print(f"{seconds(words):6.2f} s  deepzero-sim {' '.join(words)}")


if __name__ == "__main__":
    main()
