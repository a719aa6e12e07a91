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

from deepzero_sim.common.files import replace_file, require_writable, write_text
from deepzero_sim.errors import RunError

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


def test_writers_of_one_file_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replace_file(path) as first, replace_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and not unfinished(tmp_path)


@pytest.mark.parametrize("name", ["n" * 250, "a\0b", "folder/a\ud800b"])
def test_a_path_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    require_writable(tmp_path / "a.txt", "answers")
    assert not list(tmp_path.iterdir()), "nothing is left of a trial"
    with pytest.raises(RunError, match=r"answers cannot be kept in '.*' \(.*\): name a file in a folder that can be written\."):
        require_writable(tmp_path / name, "answers")
