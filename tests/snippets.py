"""Pages whose code is run: the fenced blocks of a page, in their order, in a folder of their own.

A block with a title, as in ```` ```c title=heat.c ````, is written to a file of that name. A block of `sh` is run line by line,
without a shell, and every line must exit with 0; one that ends with `&` runs in the background until the page ends. A block of
`python` without a title is run here; all of a page share their names.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FENCED = re.compile(r"^```(\w*)[ \t]*(.*?)\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)

#: Seconds that one line of a page may take.
LONGEST = 300.0


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        language: Word behind the fence; empty if there is none.
        title: File that the block is written to; None if it is not.
        code: Text of the block.
        line: Line of the page where the block starts.
    """

    language: str
    title: str | None
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    """List the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(language, _title(more), code, text.count("\n", 0, found.start()) + 1)
        for found in FENCED.finditer(text)
        for language, more, code in [found.groups()]
    ]


def _title(words: str) -> str | None:
    found = re.search(r"\btitle=(\S+)", words)
    return None if found is None else found[1].strip("\"'")


def run_page(
    page: Path, folder: Path, environment: Mapping[str, str] | None = None, shorter: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a page as its reader would; see :func:`run_pages`."""
    return run_pages([page], folder, environment, shorter)


def run_pages(
    pages: Sequence[Path],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    shorter: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run pages that continue each other, in one folder and one Python session.

    Args:
        pages: Markdown files, in the order of reading.
        folder: Empty folder.
        environment: Variables for the lines of `sh`, in addition to this process's.
        shorter: Texts that make trainings short, in place of those of the pages, each of which must be there.

    Returns:
        Names that blocks of Python left.
    """
    names: dict[str, Any] = {"__name__": "page"}
    found = [(page, block) for page in pages for block in blocks(page)]
    for text, short in (shorter or {}).items():
        assert any(text in block.code for _, block in found), f"{text!r} is on none of the pages"
        found = [(page, replace(block, code=block.code.replace(text, short))) for page, block in found]
    with ExitStack() as stack:
        stack.enter_context(chdir(folder))
        for page, block in found:
            where = f"{page.name}, line {block.line}"
            if block.title is not None:
                _write(folder / block.title, block.code)
            elif block.language == "sh":
                _run_lines(block.code, where, _environment(environment), stack)
            elif block.language == "python":
                exec(compile(block.code, where, "exec"), names)  # noqa: S102 - our own text
    return names


def _write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(more or {})}


def _run_lines(code: str, where: str, environment: dict[str, str], stack: ExitStack) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[-1:] == ["&"]:
            stack.callback(_end, subprocess.Popen(words[:-1], env=environment, start_new_session=True))
        elif words:
            ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False)
            assert ended.returncode == 0, f"{where}: {line}\n{ended.stdout}\n{ended.stderr}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a background process of a page, with everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
