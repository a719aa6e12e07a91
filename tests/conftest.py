"""What every test needs: one torch thread, reproducible draws, hypothesis without a clock."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.tasks import SerialExecutor

settings.register_profile(
    "deepzero", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("deepzero")

# what tests trust is forgotten, and their programs know it too
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="deepzero-sim-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def executors() -> Iterator[dict[str, Executor]]:
    """One executor of each kind, shared: worker processes take seconds to start. A test that kills workers opens its own."""
    with ExitStack() as stack:
        opened = {"thread": ("thread", 3), "one process": ("process", 1), "two processes": ("process", 2)}
        shared = {name: stack.enter_context(open_executor(*how)) for name, how in opened.items()}  # type: ignore[arg-type]
        yield {"serial": SerialExecutor(), **shared}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S607
