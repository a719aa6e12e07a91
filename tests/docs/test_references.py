"""Reference pages are complete: every public name, command, option and setting is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import deepzero_sim as dz
from deepzero_sim.cli.main import COMMANDS, main

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_every_public_name_is_in_the_reference() -> None:
    text = (REFERENCE / "python.md").read_text(encoding="utf-8")
    assert [name for name in dz.__all__ if not re.search(rf"`{name}\b", text)] == []


def section(text: str, heading: str) -> str:
    return re.split(rf"^## {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1].partition("\n## ")[0]


def keys(table: str) -> set[str]:
    """First components of the keys in the first column of a table."""
    columns = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {key.partition(".")[0] for column in columns for key in re.findall(r"`([\w.]+)`", column)}


def options(text: str) -> set[str]:
    """First components of all options and positional arguments that the help of a command shows."""
    given = re.findall(r"^  (?:-h, )?--([\w.]+)", text, re.MULTILINE)
    positional = re.search(r"^positional arguments:\n  (\w+)", text, re.MULTILINE)
    return {key.partition(".")[0] for key in [*given, *([] if positional is None else [positional[1]])]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_in_the_reference(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = "settings.md" if command in ("train", "classify", "generate") else "commands.md"
    text = (REFERENCE / page).read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert keys(section(text, command)) == options(capsys.readouterr().out) - {"help", "config", "print_config"}
