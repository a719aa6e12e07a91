"""The pages about solvers behind HTTP, and about serving, do what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from http_servers import free_port
from snippets import run_page

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "wrap" / "http.md"
SERVING = DOCS / "training" / "serving.md"  # goes on with the run that PAGE trains
TESSERACT = DOCS / "wrap" / "tesseract.md"

#: Whoever reads the page has seen the server start before they go on.
WAIT = "```python\nfrom http_servers import wait_for\n\nwait_for({port})\n```\n"


def prepared(text: str, path: Path) -> Path:
    """The page with free ports, and with patience for its servers."""
    for port in ("4242", "4243", "4244", "8000"):
        free = str(free_port())
        text = re.sub(rf"\b{port}\b", free, text)
        text = re.sub(
            rf"(^```sh\n[^`]*{started_by(port)}[^`]*&\n```\n)",
            lambda found, p=free: found[1] + WAIT.format(port=p),
            text,
            flags=re.M,
        )
    path.write_text(text, encoding="utf-8")
    return path


def started_by(port: str) -> str:
    """A word of the line that starts the server of a port."""
    return {
        "4242": r"python server\.py",
        "4243": "deepzero-sim serve",
        "4244": r"python serve_mine\.py",
        "8000": "tesseract-runtime",
    }[port]


@pytest.mark.slow
def test_the_pages_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8") + SERVING.read_text(encoding="utf-8")
    assert "tesseract-runtime" not in text
    (tmp_path / "reader").mkdir()
    run_page(prepared(text, tmp_path / "http.md"), tmp_path / "reader")
    assert capsys.readouterr().out.splitlines() == ["(1, 1, 32)", "32", "True", "[[15.5]]"]  # as the page says


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("tesseract-runtime") is None,
    reason="tesseract-runtime is not on the PATH: pip install 'tesseract-core[runtime]' in an environment of its own",
)
def test_the_page_on_tesseract_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TESSERACT.read_text(encoding="utf-8")
    (tmp_path / "reader").mkdir()
    run_page(prepared(text, tmp_path / "tesseract.md"), tmp_path / "reader")
    assert capsys.readouterr().out == "(1, 1, 32)\n"


def test_the_pages_yaml_is_one() -> None:
    """What is shown twice is the same."""
    text = PAGE.read_text(encoding="utf-8")
    shown, trained = re.findall(r"^solver:\n(?:  .*\n)+", text, re.M)
    assert shown == trained
