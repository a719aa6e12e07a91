"""Programs that tests compile and run, and what is left of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def compiled(source: Path, folder: Path, compiler: str = "cc", *flags: str) -> Path:
    """A program made of one source file; without a compiler, the test is skipped."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} to compile {source.name} with")
    program = folder / source.stem
    command = [compiler, "-O1", *flags, "-o", str(program), str(source)]
    made = subprocess.run([*command, *(["-lm"] if compiler == "cc" else [])], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return program


def running(mark: str) -> list[str]:
    """The processes that have a mark among their arguments or in their environment, by what /proc says of them."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("there is no /proc to look for processes in")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            held = words + (process / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in held and int(process.name) != os.getpid():
            found.append(f"{process.name}: {words.decode(errors='replace')}")
    return found
