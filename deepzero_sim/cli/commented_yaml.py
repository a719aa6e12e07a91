"""Settings files for people: YAML with a comment above every key."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from deepzero_sim.common.documents import flow_yaml

#: Letters of a line of comments.
WIDTH = 110


class Commented(NamedTuple):
    """A value with what is to be said of it.

    Args:
        value: Plain value, which is written on one line, or keys of their own.
        comment: Sentences, in lines above it; empty for none.
        is_offer: True for a key that is itself a comment, for the user to take out of it.
    """

    value: Any
    comment: str = ""
    is_offer: bool = False


#: Keys of a file or of a mapping in one. A mapping of commented values is written out, any other in one line.
Block: TypeAlias = Mapping[str, Commented]


def write_commented(block: Block, heading: Sequence[str] = ()) -> str:
    """Write keys as YAML, each below its comment, with lines of comments at the top."""
    lines = [f"# {line}".rstrip() for line in heading] + ([""] if heading else [])
    return "\n".join([*lines, *_lines(block, "")]) + "\n"


def plain_values(block: Block) -> dict[str, Any]:
    """Return what the file will say, without comments."""
    said = {key: one.value for key, one in block.items() if not one.is_offer}
    return {key: plain_values(value) if _is_block(value) else value for key, value in said.items()}


def _lines(block: Block, indent: str) -> list[str]:
    lines: list[str] = []
    for key, (value, comment, is_offer) in block.items():
        words = re.sub(r"\bNone\b", "null", comment.replace("``", "`"))  # as YAML has it
        lines += [f"{indent}# {line}" for line in textwrap.wrap(words, WIDTH - len(indent), break_on_hyphens=False)]
        if _is_block(value):
            lines += [f"{indent}{key}:", *_lines(value, f"{indent}  ")]
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            lines += [f"{indent}{key}:", *(f"{indent}  - {flow_yaml(item)}" for item in value)]
        else:
            lines.append(f"{indent}{'# ' if is_offer else ''}{key}: {flow_yaml(value)}")
    return lines


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(one, Commented) for one in value.values())
