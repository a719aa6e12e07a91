"""Templates: what they say is filled in, and nothing else is done."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import deepzero_sim as dz
from deepzero_sim.connectors.programs.templates import Text, Values

SPEC = dz.SolverSpec(name="deck", state_shape=(1, 2, 3), dt=0.5, parameters=("nu", "rate"))

VALUES = Values(SPEC, np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.array([0.25, 3e9]), {})

REFUSED = {
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "format's precision": "{{ '%.10000000000f' % 1 }}",
    "private attribute": "{{ params.__class__ }}",
    "private attribute of a format": "{{ '{0.__class__}'.format(state) }}",
    "private attribute by a filter": "{{ state|attr('__class__') }}",
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_sandbox_refuses_is_said_in_one_sentence(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(dz.ConfigError, match=r"^the deck .*\.$"):
        Text(text, "the deck").render(VALUES)
    assert time.monotonic() - started < 5.0


def test_the_solver_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "deck.j2").write_text("{{ range(10 ** 10)|list }}")
    settings: dict[str, Any] = {"spec": SPEC, "command": ["true"], "inputs": [{"path": "u"}], "outputs": [{"path": "v"}]}
    with pytest.raises(dz.ConfigError, match=r"OverflowError: Range too big"):
        dz.ExecutableSolver(**settings, templates={"deck": tmp_path / "deck.j2"})


@pytest.mark.parametrize("text", ["{% for i in state %}" * 30 + "{% endfor %}" * 30, "{{ " + "(" * 5000 + ")" * 5000 + " }}"])
def test_what_is_nested_too_deep_is_said(text: str) -> None:
    with pytest.raises(dz.ConfigError, match="the deck "):
        Text(text, "the deck")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("nu {{ params.nu }};\n", "nu 0.25;\n"),
        ("{{ '%.3e'|format(params.rate) }}, {{ '%12.4f' % params.nu }}", "3.000e+09,       0.2500"),
        ("{{ '{:>8}|{:.2f}'.format(1, params.nu) }}", "       1|0.25"),
        ("{{ '%d'|format(params.rate) }} {{ params.more|default(10 ** 9) }}", "3000000000 1000000000"),
        ("{% for row in state[0] %}{{ row|join(' ') }};{% endfor %}", "0.0 1.0 2.0;3.0 4.0 5.0;"),
        ("{% for v in state[0][0] %}{{ loop.index }}/{{ loop.length }} {% endfor %}", "1/3 2/3 3/3 "),
        ("{% for v in state[0] recursive %}{{ loop(v) if v is iterable else v|int }}{% endfor %}", "012345"),
        ("{% set a, b = 1, 2 %}{{ a ~ b }}{{ [a] + [b] }}{{ {'a': (a, b)} }}", "12[1, 2]{'a': (1, 2)}"),
        ("{% macro f(n) %}{{ n ** 2 }}{% endmacro %}{{ f(params.rate|int) }}", "9000000000000000000"),
        ("{{ params.nu|round(1) }} {{ 2 * '=' }} {{ 'a'|center(5) }}|{{ spec.name.upper() }}", "0.2 ==   a  |DECK"),
        ("{{ '%d of 100000, 100%% *, {a{'|format(7) }}", "7 of 100000, 100% *, {a{"),
        ("{{ '[[{}]] 100000 {a[b]:>3}'.replace('[[', '{{').replace(']]', '}}').format(7, a={'b': 1}) }}", "{7} 100000   1"),
        ("{{ state[0]|map('sum')|list }} {{ params|items|list|length }}", "[3.0, 12.0] 2"),
    ],
)
def test_the_language_is_the_same(text: str, filled: str) -> None:
    assert Text(text, "the deck").render(VALUES) == filled


#: A template that holds on to what it can: variables of its own, a namespace, macros, a cycler, loops that look behind.
HOLDING = """{% set n = namespace(sum=0) %}{% macro twice(x) %}{{ 2 * x }}{% endmacro %}{% set turn = cycler('a', 'b') %}
{% for row in state[0] %}{% for u in row %}{% set n.sum = n.sum + u * params.nu %}{{ turn.next() }}{% endfor %}{% endfor %}
{% set again = joiner('-') %}{{ again() }}{{ params.nu }}{{ again() }}{{ twice(params.nu) }} {{ n.sum }} {{ values.n }}
"""


def held_to(place: int) -> Values:
    states = np.full((1, 2, 3), float(place), np.float32)
    return Values(SPEC, states, np.array([float(place), 0.0]), {"n": place})


def test_a_template_is_a_function_of_its_values_alone() -> None:
    """Twice the same text, in threads that interrupt each other often, in every order."""
    first, second = Text(HOLDING, "the deck"), Text(HOLDING, "another deck")
    expected = [f"\nababab\n{float(i)}-{2.0 * i} {6.0 * i * i} {i}" for i in range(60)]
    pause = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            for text, places in ((first, range(60)), (second, range(59, -1, -1)), (first, range(59, -1, -1))):
                found = list(threads.map(lambda place, text=text: text.render(held_to(place)), places))
                assert [text.strip("\n") for text in found] == [expected[place].strip("\n") for place in places]
    finally:
        sys.setswitchinterval(pause)


@pytest.mark.parametrize(
    "text",
    [
        "{{ state[0].append(1) }}",
        "{{ params.update(nu=2) }}",
        "{{ values.clear() }}",
        "{% set params.nu = 2 %}",
        "{% set state[0] = 2 %}",
        "{{ spec.parameters.append('x') }}",
        "{% do state.sort() %}",
    ],
)
def test_a_template_changes_nothing_that_it_is_given(text: str) -> None:
    values = held_to(3)
    before = {name: values.get(name) for name in ("params", "spec", "dt", "state", "values")}
    with pytest.raises(dz.ConfigError, match=r"^the deck .*\.$"):
        Text(text, "the deck").render(values)
    assert {name: values.get(name) for name in before} == before


PIECES = """
{{ }} {% %} {# #} {%- -%} for in if else elif endfor endif set macro endmacro call endcall filter endfilter block endblock raw
endraw with endwith include import from extends params state values spec dt loop self nu range namespace cycler dict
( ) [ ] { } , . : | = == + - * / // % ~ < not is and or 0 1 -1 1e400 99999999999999999999 'a' "%d" '\\ud800' '{}' upper join
sum map select groupby tojson format int float round sort slice batch xmlattr attr center indent
"""


@pytest.mark.slow
@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES.split()), max_size=8), st.booleans())
def test_whatever_a_template_says_is_filled_in_or_refused_in_a_sentence(pieces: list[str], inner: bool) -> None:
    text = " ".join(pieces)
    try:
        Text(f"{{{{ {text} }}}}" if inner else text, "the deck").render(VALUES).encode()
    except dz.ConfigError as error:
        assert str(error).startswith("the deck ") and str(error).endswith(".") and "\n" not in str(error)


@pytest.mark.parametrize("number", [-6.777373346967305e-05, -2.2250738585072014e-308, 1 / 3, 1e5])
def test_a_number_is_written_in_as_few_characters_as_a_program_reads(number: float) -> None:
    values = Values(SPEC, np.zeros((1, 2, 3), np.float32), np.array([0.0, 0.0]), {"x": number})
    whole, short = (Text(text, "the deck").render(values) for text in ("{{ values.x }}", '{{ "%.12g"|format(values.x) }}'))
    assert float(whole) == number and len(whole) <= 24
    assert float(short) == pytest.approx(number, rel=1e-11) and len(short) <= 19
