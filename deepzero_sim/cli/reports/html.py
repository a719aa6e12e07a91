"""A page of Markdown as one HTML file that needs no other: figures within, no scripts, nothing fetched from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt

from deepzero_sim.cli.reports.ownership import MARK
from deepzero_sim.common.files import read_text, write_text

#: Page of Markdown, and the file that is made of it.
PAGE, HTML = "report.md", "report.html"

#: First bytes of the pictures that are embedded.
_PNG, _GIF = b"\x89PNG", b"GIF8"

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { display: block; overflow-x: auto; border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; } th { border-bottom: 2px solid #999; }
th:first-child, td:first-child { text-align: left; }
img { display: block; max-width: 100%; height: auto; margin: 1.2rem 0 0.2rem; } .caption { color: #555; font-size: 0.9rem; }
pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; } code { font-size: 0.9em; }
"""


def write_html(folder: Path, page: str = PAGE) -> Path:
    """Write a folder's page of Markdown as one HTML file in the same folder, and return its path.

    Args:
        folder: Folder of the page and its figures.
        page: Name of the page.
    """
    path = (folder / page).with_suffix(".html")
    write_text(path, to_html(read_text(folder / page, "a page of Markdown"), folder))
    return path


def to_html(text: str, folder: Path) -> str:
    """Convert Markdown to a whole HTML document; tags in the text are shown as text.

    Args:
        text: Markdown.
        folder: Folder of the pictures that it names.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", lambda _, tokens, place, *rest: _image(tokens[place], folder))
    body = parser.render(text)
    title = next((line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")), "Report")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="generator" content="{MARK}">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _image(token: Any, folder: Path) -> str:
    """Write a picture of the folder with its caption; of any other, only the caption."""
    caption = escape(_words(token.children or ()))
    shown = f'<span class="caption">{caption}</span>'
    name = unquote(str(token.attrGet("src") or ""))
    picture = folder / name
    if not name or Path(name).name != name or not picture.is_file():
        return shown
    content = picture.read_bytes()
    kind = "png" if content.startswith(_PNG) else "gif" if content.startswith(_GIF) else ""
    if not kind:
        return shown
    data = base64.b64encode(content).decode("ascii")
    return f'<img src="data:image/{kind};base64,{data}" alt="{caption}">{shown}'


def _words(tokens: Sequence[Any]) -> str:
    """Join the text of a caption, without its emphasis."""
    return "".join(token.content or " " * (token.type == "softbreak") for token in tokens)
