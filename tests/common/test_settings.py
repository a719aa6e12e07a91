"""Settings are what their type hints and rules say, whoever gives them: errors are objects, and one sentence each."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepzero_sim.common.settings import (
    Rule,
    SettingError,
    Settings,
    append,
    assign,
    entries,
    read,
    settings_to_dict,
)
from deepzero_sim.errors import ConfigError

Even = Annotated[int, Rule(lambda value: value % 2 == 0, "an even number")]


@dataclass
class Part:
    """A part.

    Args:
        name: Name of it.
        args: Arguments,
            as many as you like.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Whole(Settings):
    """All kinds of settings.

    Args:
        run: Folder.
        count: Even number.
    """

    run: Path
    count: Even = 2
    share: float = 0.5
    quick: bool = True
    way: Literal["left", "right"] = "left"
    part: Part = field(default_factory=lambda: Part("a.B", {"x": 1}))
    other: Part | None = None
    start: Path | None = None
    words: str | dict[str, str] = "none"
    rows: list[list[float]] = field(default_factory=list)
    pairs: Even | None = None
    parts: list[Part] = field(default_factory=list)


def collected(*given: tuple[str, Any]) -> Whole:
    tree: Any = {"run": "a"}
    for key, value in given:
        tree = assign(Whole, tree, key.split(".") if key else (), value)
    whole: Whole = read(Whole, tree)
    return whole


def test_what_is_given_later_wins_key_by_key() -> None:
    whole = collected(("part", {"name": "c.D"}), ("part.args.y", "2"), ("", {"count": 4, "part.args": {"z": 3}}))
    assert whole == Whole(Path("a"), 4, part=Part("c.D", {"z": 3}))
    assert collected(("part.args.y", "2")).part == Part("a.B", {"x": 1, "y": 2})
    assert collected(("other", "{name: e.F}"), ("other", "null")).other is None
    assert collected(("other.name", "e.F")).other == Part("e.F")


def test_text_is_read_by_our_own_rules_where_text_is_not_meant() -> None:
    whole = collected(("count", "0x10"), ("share", "1"), ("quick", "no"), ("rows", "[[1, 2]]"), ("words", "{a: b}"))
    assert collected(("pairs", "2")).pairs == 2 and collected(("pairs", "null")).pairs is None
    assert (whole.count, whole.share, whole.quick, whole.rows, whole.words) == (16, 1.0, False, [[1.0, 2.0]], {"a": "b"})
    assert type(whole.share) is float and type(whole.rows[0][0]) is float
    whole = collected(("run", "5"), ("start", "null"), ("words", "retry(3), drop"), ("part.name", "7"))
    assert (whole.run, whole.start, whole.words, whole.part.name) == (Path("5"), None, "retry(3), drop", "7")
    assert collected(("part.args", "{a: '5', b: '010', c: x}")).part.args == {"a": 5, "b": "010", "c": "x"}


@pytest.mark.parametrize(
    ("key", "value", "expected", "came"),
    [
        ("count", "1:30", "a whole number", "1:30"),
        ("count", "1_0", "a whole number", "1_0"),
        ("count", "010", "a whole number", "010"),
        ("count", "2.0", "a whole number", 2.0),
        ("count", True, "a whole number", True),
        ("count", 3, "an even number", 3),
        ("pairs", 3, "an even number", 3),
        ("pairs", "two", "a whole number", "two"),
        ("share", "0.5_0", "a number", "0.5_0"),
        ("share", "nan", "a number", "nan"),
        ("quick", 1, "true or false", 1),
        ("way", "up", "one of left, right", "up"),
        ("run", 5, "text", 5),
        ("rows", "[1]", "a list", 1),
        ("part.args", "[1]", "keys with values", [1]),
    ],
)
def test_an_error_has_the_setting_what_was_expected_and_what_came(key: str, value: Any, expected: str, came: Any) -> None:
    with pytest.raises(SettingError) as refused:
        collected((key, value))
    error = refused.value
    assert (error.key, error.expected, error.came) == (key, f"be {expected}", came)
    assert str(error).startswith(f"{key} must be {expected}, not {came}") and str(error).endswith(".")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("part.nam", "x", r"^part may have name, args, not 'nam' .did you mean 'name'\?.\.$"),
        ("count.x", "1", "^count must be one value, not keys"),
        ("parts", [{"args": {}}], r"^the following settings are required: parts.name"),
        ("parts", ["a.B"], "^parts must hold keys with values, such as .*, not a.B"),
        ("part", None, "^part must have a value, not null: give it one, or leave it out.$"),
        ("words", "{a: b, c}", 'but c stands alone: quote what has a comma, "b, c"'),
    ],
)
def test_keys_that_cannot_be_used(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        collected((key, value))


def test_rules_hold_in_python_too() -> None:
    with pytest.raises(SettingError, match=r"^count must be an even number, not 3\.$"):
        Whole(Path("a"), count=3)


def test_items_are_put_behind_those_of_a_list() -> None:
    tree = append(Whole, append(Whole, {"run": "a"}, "parts", "{name: a}"), "parts", {"name": "b"})
    assert read(Whole, tree).parts == [Part("a"), Part("b")]


def test_all_settings_are_listed_with_what_the_docstring_says() -> None:
    listed = {entry.key: entry for entry in entries(Whole)}
    assert listed["run"][2:4] == ("Folder.", MISSING) and listed["part.args"].description == "Arguments, as many as you like."
    assert listed["part.name"].default == "a.B" and listed["other.args"].default == {}
    assert listed["other.name"].default is MISSING and listed["other.name"].optional == "other"
    assert listed["run"].optional == listed["part"].optional == ""


@given(st.integers(-5, 5).map(lambda n: 2 * n), st.floats(allow_nan=False), st.booleans(), st.sampled_from(["left", "right"]))
def test_what_is_written_is_read_as_it_was(count: int, share: float, quick: bool, way: Any) -> None:
    whole = Whole(Path("a"), count, share, quick, way, other=Part("x", {"y": [1, None]}), rows=[[share]])
    assert read(Whole, {"run": "a", **settings_to_dict(whole)}) == whole


def test_a_whole_number_beyond_all_floats_is_no_number() -> None:
    with pytest.raises(SettingError, match="share must be a number"):
        read(Whole, {"run": "a", "share": 10**400})
    assert read(Whole, {"run": "a", "share": 10**300}).share == 1e300
