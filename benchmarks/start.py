"""Seconds until the command line answers: help, and errors in settings.

Run: python benchmarks/start.py [--repeats 5]
Prints a table; each time is the least of several.
"""

from __future__ import annotations

import argparse
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


def seconds(words: tuple[str, ...], repeats: int) -> float:
    """Time the program from start to end, at its fastest."""
    return min(_seconds(words) for _ in range(repeats))


def _seconds(words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "deepzero_sim.cli", *words], capture_output=True, check=False)  # noqa: S603 - our own
    return time.perf_counter() - began


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="calls of each, of which the fastest counts")
    repeats = parser.parse_args().repeats
    for words in CALLS:
        print(f"{seconds(words, repeats):6.2f} s  deepzero-sim {' '.join(words)}")


if __name__ == "__main__":
    main()
