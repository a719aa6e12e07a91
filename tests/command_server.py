"""Commands of pages, each in a process of its own that is forked from this one, which has imported already what they import.

A start of Python with torch takes seconds of a core, and the pages have dozens of commands. A request is a line of JSON on
standard input; the answer is a line with the exit status, once the process has ended.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

#: What commands import when they need it.
MODULES = ("deepzero_sim.cli.main", "deepzero_sim.training.runs.training", "h5py", "matplotlib.pyplot", "tensorboard", "xarray")

PROGRAM = "deepzero-sim"


def is_served(words: Sequence[str]) -> bool:
    """Whether a command is run here: one of the package, or a script in Python."""
    return words[0] == PROGRAM or (words[0] == "python" and words[1].endswith(".py"))


def run_command(words: Sequence[str], environment: Mapping[str, str], seconds: int, output: Path) -> int:
    """Run a command in this folder, in a fork of the session's server.

    Args:
        words: Program and arguments; see :func:`is_served`.
        environment: All its variables.
        seconds: Time after which it is killed.
        output: File of what it prints.

    Returns:
        Exit status; that of a signal is negative.
    """
    server = _server()
    request = {"words": list(words), "environment": dict(environment), "seconds": seconds, "folder": str(Path.cwd())}
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps({**request, "output": str(output)}), file=server.stdin, flush=True)
    return int(server.stdout.readline())


@cache
def _server() -> subprocess.Popen[str]:
    """Start the session's server, which ends when the session does: its standard input is closed then."""
    command, environment = [sys.executable, "-P", __file__], {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def serve() -> None:
    """Answer requests; ends in the forked processes too, with their commands."""
    for name in MODULES:
        with suppress(ImportError):  # of an extra that is not installed
            import_module(name)
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            _become(json.loads(line))
            break
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n")
        sys.stdout.flush()


def _become(request: dict[str, Any]) -> None:
    """Run a command in place of the server, as if it had been started."""
    signal.alarm(request["seconds"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    printed, nothing = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, printed, printed)):
        os.dup2(source, target)
    if request["words"][0] == PROGRAM:
        sys.argv = request["words"]
        sys.exit(import_module("deepzero_sim.cli.start").main())
    sys.argv = request["words"][1:]
    sys.path.insert(0, request["folder"])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()
