"""Decks of namelists: what settings name has their values, and all else is the base's, to the letter."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import f90nml
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from programs import compiled

import deepzero_sim as dz
from deepzero_sim.connectors.programs.namelists.deck import Namelists, read_namelists
from deepzero_sim.connectors.programs.templates import Values

SPEC = dz.SolverSpec(name="deck", state_shape=(1, 1), dt=0.1, dtype="float64", parameters=("nu",))

#: Placeholders.
NU, FLAG, WORD = "{{ params.nu }}", "{{ values.flag }}", "{{ values.word }}"

Deck = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill_base(base: str, values: Any, folder: Path) -> Namelists:
    (folder / "base.nml").write_bytes(base.encode())
    (found,) = read_namelists({"deck.nml": {"file": folder / "base.nml", "values": values}})
    return found


def render(deck: Namelists, nu: float = 0.5, **own: Any) -> str:
    return deck.render(Values(SPEC, np.zeros((1, 1)), np.array([nu]), own))


@pytest.fixture
def deck(tmp_path: Path) -> Deck:
    """Return the text that becomes of a base."""
    return lambda base, values, **own: render(fill_base(base, values, tmp_path), **own)


#: Bases, values of group g, and the texts that become of the bases.
SERVED = {
    "a member": ("&g fluid%nu = 1.0, fluid%rho = 1000.0 /", {"fluid": {"nu": NU}}, "&g fluid%nu = 0.5, fluid%rho = 1000.0 /"),
    "members of elements": (
        "&g\n b(1)%x=1\n b(1)%y=4\n b(2)%x=2\n b(2)%y=5\n/\n",
        {"b": [{"x": 7}, {"x": 8}]},
        "&g\n b(1)%x=7\n b(1)%y=4\n b(2)%x=8\n b(2)%y=5\n/\n",
    ),
    "one element": ("&g b(3)%x=1 b(4)%x=2/", {"b": [{}, {"x": 8}]}, "&g b(3)%x=1 b(4)%x=8/"),
    "deep": (
        "&g f%a(2)%b%c = 1, F%A(3)%B%C = 2, f%n = 3 /",
        {"f": {"a": [{}, {"b": {"c": 9}}]}},
        "&g f%a(2)%b%c = 1, F%A(3)%B%C = 9, f%n = 3 /",
    ),
    "members of arrays": ("&g b%x = 1, 2, b%y = 3, 4/", {"b": {"x": [8, 9]}}, "&g b%x = 8, 9, b%y = 3, 4/"),
    "an index stays": ("&g x(2:4) = 1,2,3\n/\n", {"x": [7, 8, 9]}, "&g x(2:4) = 7, 8, 9\n/\n"),
    "negative places": ("&g x(-1)=1 x(0)=2 x(1)=3/", {"x": [7, 8, 9]}, "&g x(-1)=7 x(0)=8 x(1)=9/"),
    "columns": (
        "&g q(:,1) = 1,2,3\n q(:,2) = 4,5,6\n/\n",
        {"q": [[1, 2, NU], [7, 8, 9]]},
        "&g q(:,1) = 1, 2, 0.5\n q(:,2) = 7, 8, 9\n/\n",
    ),
    "element by element": ("&g q(1,1)=1 q(2,1)=2 q(1,2)=3/", {"q": [[10, 20], [30]]}, "&g q(1,1)=10 q(2,1)=20 q(1,2)=30/"),
    "a gap": ("&g x(1)=1 x(3)=2/", {"x": [10, None, 20]}, "&g x(1)=10 x(3)=20/"),
    "a null value": ("&g x = 1, , 3/", {"x": [7, None, 9]}, "&g x = 7, 1*, 9/"),
    "a repeat count": ("&g x = 3*1.5, y = 2*.true. /", {"x": [1, 2, 3]}, "&g x = 1.0, 2.0, 3.0, y = 2*.true. /"),
    "nothing yet": ("&g x =\n y = , z = 3\n/", {"x": 1, "y": 2}, "&g x = 1\n y = 2 , z = 3\n/"),
    "cases": ("&Setup\n NU = 1.0\n/", {"nU": NU}, "&Setup\n NU = 0.5\n/"),
    "comments": (
        "! &g nu = 3 /\n&g ! it's\n nu = 1.0 ! nu = 5, 'x\n s = 'a!b' ! s\n/",
        {"nu": NU},
        "! &g nu = 3 /\n&g ! it's\n nu = 0.5 ! nu = 5, 'x\n s = 'a!b' ! s\n/",
    ),
    "text": ("""&g s = 'a,b/&$=(1)"', t = "it's" n = 1 /""", {"n": 2}, """&g s = 'a,b/&$=(1)"', t = "it's" n = 2 /"""),
    "text that is named": ("&g s = 'a'/", {"s": """it's "x", y"""}, """&g s = 'it''s "x", y'/"""),
    "digits of others": (
        "&g a = 0.12345678901234567890123456789, b = 1d-320, c = 1.5D+400, n = 1 /",
        {"n": 2},
        "&g a = 0.12345678901234567890123456789, b = 1d-320, c = 1.5D+400, n = 2 /",
    ),
    "complex": ("&g z = (1.0, 2.0), w = (1,1) /", {"z": NU, "w": "(3.0, 4.0)"}, "&g z = (0.5, 0.0), w = (3.0, 4.0) /"),
    "around the groups": ("a title\n&g n = 1 /\nCARDS a\n 1 2 3\n", {"n": 2}, "a title\n&g n = 2 /\nCARDS a\n 1 2 3\n"),
    "dollars": ("$g n = 1 $end\n", {"n": 2}, "$g n = 2 $end\n"),
    "lines of another system": ("&g\r\n n = 1\r\n m = 2\r\n/\r\n", {"n": 2}, "&g\r\n n = 2\r\n m = 2\r\n/\r\n"),
    "others of one name": ("&a n=1 /\n&a n=2 /\n&g n=3 /\n&a n=4 /\n", {"n": 9}, "&a n=1 /\n&a n=2 /\n&g n=9 /\n&a n=4 /\n"),
    "a new entry": ("&g\n n = 1\n/\n", {"m": [1, NU]}, "&g\n n = 1\n  m = 1, 0.5\n/\n"),
    "a new entry in one line": ("&g n = 1 /\n", {"m": True}, "&g n = 1 \n  m = .true.\n/\n"),
    "a new member": ("&g\n b(2)%x = 1\n/\n", {"b": [{"y": 3}]}, "&g\n b(2)%x = 1\n  b(2)%y = 3\n/\n"),
    "whole or not": (
        "&g nu = 1, n = 3, x = 1.0, y = 1, 2.5/",
        {"nu": NU, "n": 2.0, "x": 2, "y": [1, 2]},
        "&g nu = 0.5, n = 2, x = 2.0, y = 1.0, 2.0/",
    ),
    "text as YAML reads 1e-3": ("&g x = 1.0/", {"x": "1e-3"}, "&g x = 1e-3/"),
    "positions": ("&g t = 'DET', 'a', .true., 1.0/", {"t": [NU, "b", FLAG, NU]}, "&g t = '0.5', 'b', .false., 0.5/"),
}


@pytest.mark.parametrize(("base", "values", "expected"), SERVED.values(), ids=SERVED.keys())
def test_only_what_is_named_differs(deck: Deck, base: str, values: Any, expected: str) -> None:
    group = "setup" if "Setup" in base else "g"
    assert deck(base, {group: values}, flag=False) == expected


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [
        (".false.", True, ".true."),
        ("T", ".f.", ".false."),
        ("'abc'", "007", "'007'"),
        ("'abc'", True, "'True'"),
        ("'abc'", " 1.0 ", "' 1.0 '"),
        ("abc", "3", "'3'"),
        ("3", "007", "7"),
        ("3", 2.0, "2"),
        ("3", 0.5, "0.5"),
        ("3.0", 7, "7.0"),
        ("3.0", "1.0D-05", "1.0D-05"),
        ("3.0", "1-149", "1-149"),
        ("3.0", 1e300, "1e+300"),
        ("3.0", float("nan"), "nan"),
        ("(1.0, 2.0)", 3, "(3.0, 0.0)"),
        ("(1.0, 2.0)", "1+2j", "(1.0, 2.0)"),
        (None, True, ".true."),
        (None, ".false.", ".false."),
        (None, "t", "'t'"),
        (None, "007", "007"),
        (None, "1e-3", "1e-3"),
        (None, "1_000", "'1_000'"),
        (None, "(1.0,2)", "(1.0,2)"),
        (None, "a'b", "'a''b'"),
        (None, "jj", "'jj'"),
    ],
)
def test_what_a_placeholder_makes_is_of_the_type_that_the_base_has(
    deck: Deck, base: str | None, own: Any, expected: str
) -> None:
    text = "&g\n/\n" if base is None else f"&g\n  word = {base}\n/\n"
    assert deck(text, {"g": {"word": WORD}}, word=own) == f"&g\n  word = {expected}\n/\n"


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        (".false.", 1, "g%word must be true or false, as in the base, not '1': compare it"),
        ("1.0", True, "must be a number, as in the base, not 'True'"),
        ("1", "one", "must be a number, as in the base, not 'one'"),
        ("(1.0, 1.0)", "one", r"must be a number, or two as in \(1.0, 2.0\), as in the base, not 'one'"),
        ("'a'", "a\nb", "must be text of one line"),
        (None, "a\0b", "must be text of one line"),
    ],
)
def test_what_does_not_fit_its_entry_is_refused(here: Path, base: str | None, own: Any, words: str) -> None:
    deck = fill_base("&g /" if base is None else f"&g word = {base} /", {"g": {"word": WORD}}, here)
    with pytest.raises(dz.ConfigError, match=rf"^namelists: deck\.nml: .*{words}.*\.$"):
        render(deck, word=own)
    with pytest.raises(dz.ConfigError, match=words):  # it is found out when the solver is made
        solver({"deck.nml": {"file": "base.nml", "values": {"g": {"word": WORD}}}}, values={"word": own})


#: Bases, values, and words of the refusal.
REFUSED = {
    "positions": (
        "&m tracer(1) = 'DET', 'Detritus', .true.\n nu = 1.0 /",
        {"m": {"nu": 2.0}},
        r"base\.nml: .*m%tracer\(1\) .*Detritus.*template",
    ),
    "positions of a later one": ("&m nu = 1.0\n x(1:2) = 1, 2, 3\n/", {}, r"m%x\(1:2\) .*Value 3.*template"),
    "a member's positions": ("&m a%x(2) = 1, 2\n/", {}, r"m%a%x\(2\) .*template"),
    "two namelists' end": ("&INDATA\n a = 1\n/\n&END\n", {}, "none can be read .*End-of-file before end.*'&END'"),
    "no end": ("&g x = 1\n", {}, "none can be read .*End-of-file"),
    "no group": ("x = 1\n", {}, "none can be read .f90nml finds no group"),
    "elements at once": ("&g b(1:2)%x = 1, 2 /", {}, "none can be read .*AssertionError"),
    "a longer list": (
        "&g x = 1, 2 /",
        {"g": {"x": [1, 2, 3]}},
        "g%x is a list of 2 values in the base, not a list of 3 values",
    ),
    "a shorter list": ("&g x = 3*1 /", {"g": {"x": [1, 2]}}, "a list of 3 values in the base, not a list of 2"),
    "one value of a list": ("&g x = 1, 2 /", {"g": {"x": 1}}, "a list of 2 values in the base, not one value"),
    "a list of one value": ("&g x = 1 /", {"g": {"x": [1, 2]}}, "one value in the base, not a list of 2"),
    "no elements": ("&g x = 1, 2 /", {"g": {"x": []}}, "not a list of 0"),
    "no elements of a new one": ("&g /", {"g": {"x": []}}, "must be a value or a list of values"),
    "more elements": (
        "&g b(1)%x=1 b(2)%x=2 /",
        {"g": {"b": [{"x": 1}]}},
        "a list of 2 derived types in the base, not a list of 1",
    ),
    "an element alone": (
        "&g b(1)%x=1 b(2)%x=2 /",
        {"g": {"b": {"x": 1}}},
        "a list of 2 derived types in the base, not a derived type",
    ),
    "a value for a type": ("&g b%x=1 /", {"g": {"b": 1}}, "a derived type in the base, not one value"),
    "a type for a value": ("&g b=1 /", {"g": {"b": {"x": 1}}}, "one value in the base, not a derived type"),
    "types and values": ("&g b(1)%x=1 b(2)%x=2/", {"g": {"b": [{"x": 1}, 3]}}, "must be a list of derived types, each with"),
    "other columns": ("&g q(:,1)=1,2 q(:,2)=3,4 /", {"g": {"q": [[1, 2], [3]]}}, "2 lists .*in the base, not 2 lists"),
    "twice": ("&g x = 1, x = 2 /", {"g": {"x": 3}}, "is set 2 times in the base"),
    "overlapping": ("&g x(1:3) = 1,2,3, x(2) = 9 /", {"g": {"x": [1, 2, 3]}}, "is set 2 times in the base"),
    "a gap filled": ("&g x(1)=1 x(3)=2/", {"g": {"x": [1, 2, 3]}}, "is set 2 times in the base"),
    "a group of two": ("&g x=1 /\n&G x=2 /", {"g": {"x": 3}}, "g stands 2 times in .*base.nml"),
    "a group that is lost": ("&g x = 1\n&h y = 2\n/", {"h": {"y": 3}}, "h cannot be told from what is around it"),
    "a misspelt group": ("&physics x = 1 /", {"phisics": {"x": 3}}, r"no group phisics \(did you mean 'physics'\?\)"),
    "null": ("&g x = 1 /", {"g": {"x": None}}, "g%x must be a number, text"),
    "names in two cases": ("&g x = 1 /", {"g": {"x": 1, "X": 2}}, "must be there once"),
    "groups in two cases": ("&g x = 1 /", {"g": {"x": 1}, "G": {"x": 2}}, "every group must be there once"),
    "designators": ("&g b%x = 1 /", {"g": {"b%x": 1}}, "members of a derived type stand by name in it"),
    "a place": ("&g x = 1, 2 /", {"g": {"x(1)": 1}}, "must have a name, not 'x.1.'"),
    "a group of no name": ("&g x = 1 /", {"a b": {"x": 1}}, "a group must have a name"),
    "text for a number": ("&g x = 1 /", {"g": {"x": "one"}}, "g%x must be a number, as in the base, not 'one'"),
    "a number for text": ("&g x = 'a' /", {"g": {"x": 7}}, "g%x must be text, as in the base, not 7"),
    "truth for a number": ("&g x = 1 /", {"g": {"x": True}}, "g%x must be a number, as in the base, not True"),
    "a number for truth": ("&g x = T /", {"g": {"x": 1}}, "g%x must be true or false, as in the base, not 1"),
    "lines": ("&g x = 'a' /", {"g": {"x": "a\nb"}}, "g%x must be text of one line"),
    "half a character": ("&g x = 'a' /", {"g": {"x": "\ud800"}}, "must be text in UTF-8"),
    "an array": ("&g x = 1 /", {"g": {"x": np.ones(1)}}, "must be a number, text, true or false, or a list"),
    "many entries": (
        "&g\n" + "".join(f"x{i}=1\n" for i in range(2001)) + "/",
        {},
        "g of .*base.nml has more than 2000 entries",
    ),
    "too much": ("&g x = 1 /" + " " * 10**6, {}, "must be a text file, but it has more than 1000000 bytes"),
}


@pytest.mark.parametrize(("base", "values", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_set_alone_is_refused_in_a_sentence(tmp_path: Path, base: str, values: Any, words: str) -> None:
    with pytest.raises(dz.ConfigError, match=words) as refused:
        fill_base(base, values, tmp_path)
    said = str(refused.value)
    assert said.startswith("namelists: deck.nml: ") and said.endswith(".") and "\n" not in said.replace("\\n", "")


# Every base that can be thought of ------------------------------------------------------------------------------------

REALS = st.sampled_from(["1.0", "-2.5e-3", "1d-300", "+.5", "3.", "0.1234567890123456789", "6.02214076E+23", "-1.5D+10"])
WORDS = st.text(st.sampled_from("ab'\"!/&$=(),%* é#1"), max_size=8)
QUOTED = st.builds(lambda quote, word: quote + word.replace(quote, 2 * quote) + quote, st.sampled_from("'\""), WORDS)
LITERALS = {
    "integer": st.integers(-(10**6), 10**6).map(str),
    "real": REALS,
    "logical": st.sampled_from([".true.", ".false.", "T", "f", ".T.", "TRUE"]),
    "complex": st.tuples(REALS, REALS).map(lambda pair: f"({pair[0]},{pair[1]})"),
    "text": QUOTED,
}

#: New values, as settings have them.
GIVEN: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-(10**9), 10**9),
    "real": st.floats(allow_nan=False, allow_infinity=False),
    "logical": st.booleans(),
    "complex": st.complex_numbers(allow_nan=False, allow_infinity=False),
    "text": WORDS,
}

SEPARATORS = st.sampled_from([",", " , ", " ", "  ! it's, x = 3 /\n   ", "\n", ",\n"])


class Line:
    """Entry of a base: its designator, its literals, and its address in settings."""

    def __init__(self, designator: str, kind: str, literals: list[str], between: str, way: tuple[Any, ...]) -> None:
        self.designator, self.kind, self.way, self.count = designator, kind, way, len(literals)
        self.text = between.join(literals)


@st.composite
def lines(draw: st.DrawFn, name: str) -> list[Line]:
    """Draw the lines of one variable: a value, a list, a derived type or an array of them, to some depth."""

    def leaf(designator: str, way: tuple[Any, ...]) -> Iterator[Line]:
        kind, count = draw(st.sampled_from(list(LITERALS))), draw(st.integers(1, 3))
        index = draw(st.sampled_from(["", "", f"(2:{count + 1})"]))
        literals = [draw(LITERALS[kind]) for _ in range(count)]
        yield Line(designator + index, kind, literals, draw(SEPARATORS), way)

    def variable(designator: str, way: tuple[Any, ...], depth: int) -> Iterator[Line]:
        form = draw(st.sampled_from(["leaf", "type", "array"] if depth else ["leaf"]))
        if form == "leaf":
            yield from leaf(designator, way)
        elif form == "type":
            for member in draw(st.sampled_from(["a", "ab", "Bc"])):
                yield from variable(f"{designator}%{member}", (*way, member.lower()), depth - 1)
        else:
            first = 1 if "%" in designator else draw(st.integers(-1, 3))  # f90nml misplaces others within types
            for place in range(draw(st.integers(1, 3))):
                yield from variable(f"{designator}({first + place})%m", (*way, place, "m"), depth - 1)

    return list(variable(name, (name.lower(),), 2))


def nest(ways: Mapping[tuple[Any, ...], Any], everything: list[tuple[Any, ...]]) -> Any:
    """Return settings that name these addresses, with as many elements in lists as there are."""
    if () in ways:
        return ways[()]
    firsts = list(dict.fromkeys(way[0] for way in everything))
    inner = {
        first: nest(
            {way[1:]: value for way, value in ways.items() if way[0] == first},
            [way[1:] for way in everything if way[0] == first],
        )
        for first in firsts
        if isinstance(first, int) or any(way[0] == first for way in ways)
    }
    return [inner[place] for place in sorted(inner)] if any(isinstance(first, int) for first in firsts) else inner


def read_again(value: Any, kind: str) -> str:
    """Return a value as f90nml reads it; complex numbers whose second is negative are text to it."""
    if kind == "complex" and isinstance(value, str):
        return repr(complex(*map(float, value.strip("()").split(","))))
    return repr(value)


def bare(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data(), gap=st.sampled_from(["\n", "  ! don't\n", ", \n", "\n\n"]))
def test_in_every_base_only_what_is_named_differs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, gap: str
) -> None:
    entries = [line for name in ("u", "Vel", "w_2") for line in data.draw(lines(name))]
    named = data.draw(st.lists(st.sampled_from(entries), unique=True, max_size=3))
    new = {line.way: data.draw(st.lists(GIVEN[line.kind], min_size=line.count, max_size=line.count)) for line in named}
    base = [f"{line.designator} = {line.text}{gap}" for line in entries]
    text = f"a title\n&before u = 1 /\n&g\n{''.join(base)}/\nCARDS\n1 2 3\n&after vel%a = 'x' /\n"
    deck = fill_base(text, {"g": nest(new, [line.way for line in entries]) if new else {}}, tmp_path_factory.mktemp("base"))
    written = render(deck)
    position = 0
    for line, before in zip(entries, base, strict=True):  # all lines, in order, those that are not named to the letter
        expected = f"{line.designator} =" if line.way in new else before
        position = written.index(expected, position) + len(expected)
    for around in ("a title\n&before u = 1 /\n&g\n", "/\nCARDS\n1 2 3\n&after vel%a = 'x' /\n"):
        assert around in written
    read = f90nml.reads(written)["g"]
    for line in named:
        value: Any = read
        for key in line.way:
            value = value[key]
        spelt = [float(item) if line.kind == "real" else item for item in new[line.way]]
        assert [read_again(item, line.kind) for item in bare(value)] == [repr(item) for item in spelt]


# Nothing is shared ------------------------------------------------------------------------------------------------------


def solver(decks: Any, code: str = "", **more: Any) -> dz.ExecutableSolver:
    Path("step.sh").write_text("#!/bin/sh\n" + code)
    Path("step.sh").chmod(0o755)
    outputs = [{"path": "v.txt", "format": "text"}]
    return dz.ExecutableSolver(SPEC, ["./step.sh"], outputs=outputs, namelists=decks, **more)


@pytest.mark.parametrize("order", list(itertools.permutations([{"nu": 0.1}, {"nu": 0.1, "substeps": 8}, {"new": 3, "nu": NU}])))
def test_a_deck_knows_nothing_of_others_of_its_base(tmp_path: Path, order: tuple[Any, ...]) -> None:
    base = "&step\n  substeps = 1\n  nu = 0.0\n/\n"
    decks = [fill_base(base, {"step": values}, tmp_path) for values in order]
    for _ in range(2):
        for deck, values in zip(decks, order, strict=True):
            expected = f"&step\n  substeps = {values.get('substeps', 1)}\n  nu = {0.5 if values['nu'] == NU else 0.1}\n"
            assert render(deck) == expected + ("  new = 3\n" if "new" in values else "") + "/\n"
    assert render(cloudpickle.loads(cloudpickle.dumps(decks[0]))) == render(decks[0])


def test_settings_that_change_afterwards_change_no_deck(tmp_path: Path) -> None:
    values: dict[str, Any] = {"g": {"x": [1, 2], "b": {"y": 3}}}
    deck = fill_base("&g x = 0, 0, b%y = 0 /", values, tmp_path)
    values["g"]["x"][0] = values["g"]["b"]["y"] = 9
    assert render(deck) == "&g x = 1, 2, b%y = 3 /"


LONG = "&step\n" + "".join(f"  a{i} = {i}.5\n" for i in range(400)) + "  nu = 0.0\n/\n"


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_do_not_mix_the_parameters_of_long_decks(tmp_path: Path, hasty: None) -> None:
    """Render 100 decks of 400 entries, 20 times."""
    deck = fill_base(LONG, {"step": {"nu": NU, "a0": NU, "late": NU}}, tmp_path)
    first = render(deck, 0.0)
    nus = [float(nu) for nu in range(1, 101)]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            for nu, text in zip(nus, threads.map(lambda nu: render(deck, nu), nus), strict=True):
                assert re.findall(r"^  (?:a0|nu|late) = (.*)$", text, re.MULTILINE) == [repr(nu)] * 3
    assert render(deck, 0.0) == first


@pytest.mark.parametrize("at_once", [1, 5])
def test_no_state_gets_a_neighbours_parameter(here: Path, hasty: None, at_once: int) -> None:
    (here / "deck.nml").write_text(LONG)
    (here / "deck.j2").write_text("".join(f"{i} {{{{ params.nu + {i} }}}}\n" for i in range(100)) + NU)
    decks = {"deck.nml": {"file": "deck.nml", "values": {"step": {"nu": NU}}}}
    code = 'sed -n \'s/ *nu = //p\' deck.nml > v.txt; test "$(tail -n 1 deck)" = "$(cat v.txt)"\n'
    both = solver(decks, code, templates={"deck": "deck.j2"}, at_once=at_once)
    nu = np.arange(1.0, 41.0)[:, None]
    np.testing.assert_array_equal(both.step(np.zeros((40, 1, 1)), nu)[:, 0], nu)


# Real Fortran ----------------------------------------------------------------------------------------------------------

PROGRAM = """
program read_deck
  implicit none
  type inner
    real(8) :: x = -1, y = -1
    integer :: n(3) = -1
  end type
  type fluid_type
    real(8) :: nu = -1, rho = -1
    type(inner) :: wall(2)
    character(16) :: name = 'none'
  end type
  type(fluid_type) :: fluid
  real(8) :: table(2, 3) = -1, series(0:4) = -1
  logical :: implicit = .false., flags(2) = .false.
  complex(8) :: z = 0
  character(24) :: words(2) = ''
  integer :: substeps = -1
  namelist /other/ substeps
  namelist /setup/ fluid, table, series, implicit, flags, z, words, substeps
  open(10, file='deck.nml', status='old')
  read(10, nml=other)
  read(10, nml=setup)
  write(*, '(*(es24.16e3))') fluid%nu, fluid%rho, fluid%wall%x, fluid%wall%y, table, series, z
  write(*, *) fluid%wall(1)%n, fluid%wall(2)%n, substeps, implicit, flags
  write(*, '(4a)') fluid%name, words
end program
"""

FORTRAN_BASE = """! a case
&other substeps = 2 /
&setup
  fluid%nu = 1d-3, fluid%rho = 998.2071234567891234 ! water's
  fluid%wall(1)%x = 0.5, fluid%wall(1)%n = 1, 2, 3
  fluid%wall(2)%x = 0.25, FLUID%WALL(2)%Y = 1.0d-310
  fluid%name = 'it''s / water'
  table(:, 1) = 1, 2
  table(:, 3) = 2*7.5
  series(1:3) = 1.0, , 3.0
  implicit = .false., flags = T, F
  z = (1.0, -2.0)
  words = "a, 'b'", 'c!d'
  substeps = 4
/
"""


def run_program(program: Path, text: str, folder: Path) -> str:
    (folder / "deck.nml").write_text(text)
    ended = subprocess.run([program], cwd=folder, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("values", "edits"),
    [
        ({"fluid": {"nu": NU}}, [("nu = 1d-3", "nu = 0.5")]),
        ({"fluid": {"wall": [{}, {"x": 1e-300}]}}, [("(2)%x = 0.25", "(2)%x = 1e-300")]),
        (
            {"fluid": {"wall": [{"n": [4, 5, 6]}, {"n": [7, 8, 9]}]}},
            [("n = 1, 2, 3", "n = 4, 5, 6, fluid%wall(2)%n = 7, 8, 9")],
        ),
        ({"fluid": {"name": "don't"}}, [("'it''s / water'", "'don''t'")]),
        ({"table": [[10, 20], [None, None], [NU, 0.1]]}, [("= 1, 2\n", "= 10, 20\n"), ("2*7.5", "0.5, 0.1")]),
        ({"series": [5, None, NU]}, [("1.0, , 3.0", "5.0, , 0.5")]),
        ({"implicit": FLAG, "flags": [False, FLAG]}, [("= .false.,", "= .true.,"), ("T, F", "F, T")]),
        ({"z": "(0.5, 1d-3)", "substeps": "{{ values.steps }}"}, [("(1.0, -2.0)", "(0.5, 1d-3)"), ("steps = 4", "steps = 16")]),
        ({"words": ['"', WORD]}, [("\"a, 'b'\", 'c!d'", "'\"', '007'")]),
    ],
)
def test_a_program_of_gfortran_reads_what_is_meant(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, values: Any, edits: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    if not (source := folder / "read_deck.f90").exists():
        source.write_text(PROGRAM)
    program = source.with_suffix("") if source.with_suffix("").exists() else compiled(source, folder, "gfortran")
    by_hand = FORTRAN_BASE
    for old, new in edits:
        assert by_hand.count(old) == 1
        by_hand = by_hand.replace(old, new)
    written = render(fill_base(FORTRAN_BASE, {"setup": values}, tmp_path), flag=True, steps=16, word="007")
    assert run_program(program, written, tmp_path) == run_program(program, by_hand, tmp_path)
    assert run_program(program, FORTRAN_BASE, tmp_path) != run_program(program, by_hand, tmp_path)


@pytest.mark.parametrize("form", [".TRUE", ".f", "tr", ".tru."])
def test_a_logical_in_a_short_form_is_one(form: str, tmp_path: Path) -> None:
    text = render(fill_base(f"&g\n l={form}\n a=1\n/\n", {"g": {"l": "{{ values.flag }}"}}, tmp_path), flag=True)
    assert f90nml.reads(text)["g"]["l"] is True


@pytest.mark.parametrize("text", ["&g\n x=100000000*1.0\n a=1\n/\n", "&g a=1 /\n" + "&h " * 20_000])
def test_a_base_that_takes_long_to_read_is_refused_at_once(text: str, tmp_path: Path) -> None:
    with pytest.raises(dz.ConfigError, match="takes very long to read"):
        fill_base(text, {"g": {"a": 2}}, tmp_path)
