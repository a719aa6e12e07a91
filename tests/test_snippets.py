"""Pages are run as their readers would run them."""

from __future__ import annotations

from pathlib import Path

import pytest
from problems import wait_until
from snippets import blocks, run_page, run_pages

PAGE = """\
# A page

```c title=src/a.c
int a;
```

```sh
python -c "import sys; sys.exit(int(open('src/a.c').read() != 'int a;\\n'))"  # a comment
python -c \\
    "open('there', 'w')"
```

Words, and `code`.

```python
import pathlib

left = pathlib.Path("there").exists()
```

```python
both = (left, 1)
```

```text
$ not run
```
"""


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_a_page_runs_in_its_order(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    assert run_page(page(tmp_path, PAGE), folder)["both"] == (True, 1)
    assert (folder / "src" / "a.c").read_text() == "int a;\n"


def test_pages_that_continue_each_other_share_folder_and_names(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    (second := tmp_path / "second.md").write_text("```python\nfound = (both, pathlib.Path('src/a.c').exists())\n```\n")
    assert run_pages([page(tmp_path, PAGE), second], folder)["found"] == ((True, 1), True)


def test_blocks_know_where_they_stand(tmp_path: Path) -> None:
    found = blocks(page(tmp_path, PAGE))
    assert [(block.language, block.title, block.line) for block in found[:2]] == [("c", "src/a.c", 3), ("sh", None, 7)]
    assert [block.language for block in found] == ["c", "sh", "python", "python", "text"]


@pytest.mark.parametrize("code", ["sh\nfalse", "python\nassert False"])
def test_a_line_that_fails_fails_the_page(tmp_path: Path, code: str) -> None:
    with pytest.raises(AssertionError):
        run_page(page(tmp_path, f"```{code}\n```\n"), tmp_path)


def test_what_runs_in_the_background_ends_with_the_page(tmp_path: Path) -> None:
    waiting = "import os, time; open('started', 'w').write(str(os.getpid())); time.sleep(600)"
    until = "import pathlib, time\nwhile not any(p.read_text() for p in pathlib.Path().glob('started')): time.sleep(0.01)"
    run_page(page(tmp_path, f'```sh\npython -c "{waiting}" &\n```\n```python\n{until}\n```\n'), tmp_path)
    assert wait_until(lambda: not Path(f"/proc/{(tmp_path / 'started').read_text()}").exists(), 5)
