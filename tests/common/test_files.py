"""A file is whole or not there, whatever happens while it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from problems import wait_until
from training_cases import unfinished

from deepzero_sim.common.files import replace_file, write_text

WRITER = """
import sys, time
from pathlib import Path
from deepzero_sim.common.files import replace_file
with replace_file(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    time.sleep(60)
"""


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replace_file(path) as aside:
        aside.write_text("whole")
        assert not path.exists() and aside.parent == path.parent
    assert path.read_text() == "whole" and not unfinished(tmp_path)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ValueError, match="halfway"), replace_file(tmp_path / "a.txt") as aside:
        aside.write_text("new")
        raise ValueError("halfway")
    assert (tmp_path / "a.txt").read_text() == "old" and not unfinished(tmp_path)


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Größe ∂u")
    assert (tmp_path / "a.txt").read_bytes() == "Größe ∂u".encode()


def test_a_kill_leaves_the_old_file_and_what_it_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    assert wait_until(lambda: bool(unfinished(tmp_path)), 60)
    with replace_file(path) as aside:  # beside a writer that lives
        aside.write_text("newer")
    assert len(unfinished(tmp_path)) == 1
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert path.read_text() == "newer"
    write_text(path, "newest")
    assert path.read_text() == "newest" and not unfinished(tmp_path)
