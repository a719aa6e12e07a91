"""Examples whose solver is a program in C, compiled where their recipes look for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def compile_example(example: Path, program: str, folder: Path) -> None:
    """Copy an example into a folder as `examples/NAME`, and compile its program there as `runs/NAME/PROGRAM`.

    Args:
        example: Folder of the example.
        program: Name of the program, and of its source without `.c`.
        folder: Folder.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    shutil.copytree(example, folder / "examples" / example.name)
    made = folder / "runs" / example.name / program
    made.parent.mkdir(parents=True)
    source = str(example / f"{program}.c")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(made), source, "-lm"], check=True)
