"""The page of a report as one file of HTML: nothing is fetched from anywhere, and what others named is text."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deepzero_sim.cli.reports.html import write_html
from deepzero_sim.errors import ConfigError

PNG = b"\x89PNG\r\n\x1a\n and the rest"

PAGE = """# Heat & <b>cold</b>

Text with <script>alert(1)</script> and a name_with_underscores.

| method | error (K) |
| --- | --- |
| NON | 0.5 |

![Fields of <i>T</i> "here"](fields.png)

![Missing](missing.png)

![Elsewhere](../secret.png)

![Fetched](https://example.org/tracker.png)

```yaml
path: <a/b>
```
"""


class Tags(HTMLParser):
    """All tags and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def made(folder: Path, page: str = PAGE) -> tuple[str, Tags]:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "secret.png").write_bytes(PNG)
    (inner / "fields.png").write_bytes(PNG)
    (inner / "report.md").write_text(page, encoding="utf-8")
    path = write_html(inner)
    assert path == inner / "report.html"
    text, tags = path.read_text(encoding="utf-8"), Tags()
    tags.feed(text)
    return text, tags


def test_a_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    text, tags = made(tmp_path)
    pictures = [attributes for tag, attributes in tags.tags if tag == "img"]
    assert [attributes["src"] for attributes in pictures] == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert pictures[0]["alt"] == 'Fields of <i>T</i> "here"'
    assert {"script", "link", "iframe", "object"} & {tag for tag, _ in tags.tags} == set()
    assert not [
        a for _, a in tags.tags for key, value in a.items() if key in ("src", "href") and not str(value).startswith("data:")
    ]
    assert "url(" not in text and "@import" not in text
    assert text.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in text
    for word in ("Missing", "Elsewhere", "Fetched"):  # their captions stay
        assert word in tags.text


def test_what_others_named_is_text(tmp_path: Path) -> None:
    text, tags = made(tmp_path)
    assert "<title>Heat &amp; &lt;b&gt;cold&lt;/b&gt;</title>" in text
    assert "<script>alert(1)</script>" in tags.text and "name_with_underscores" in tags.text and "path: <a/b>" in tags.text


def test_tables_are_tables(tmp_path: Path) -> None:
    text, _ = made(tmp_path)
    cells = re.findall(r"<t([hd])>([^<]*)</t[hd]>", text)
    assert cells == [("h", "method"), ("h", "error (K)"), ("d", "NON"), ("d", "0.5")]


def test_without_a_page_there_is_none_of_html(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a page of Markdown at .*report\.md, but there is none"):
        write_html(tmp_path)
    assert list(tmp_path.iterdir()) == []
