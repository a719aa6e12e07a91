"""Numbers survive JSON bit for bit, and what is not finite is read however it is written."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deepzero_sim.connectors.http.json_values import dumps, loads, to_vector

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=FINITE))
def test_finite_numbers_come_back_bit_for_bit(values: np.ndarray) -> None:
    text = dumps({"input": [values]})
    assert to_vector(loads(text)["input"][0]).tobytes() == values.tobytes()
    assert np.array(json.loads(text)["input"][0], dtype=np.float64).tobytes() == values.tobytes()  # for any other reader, too


@given(st.lists(st.floats()))
def test_what_python_writes_is_read(values: list[float]) -> None:
    for text in (json.dumps(values), repr(values)):  # NaN and Infinity, nan and inf
        assert np.array_equal(to_vector(loads(text.encode())), values, equal_nan=True)


def test_null_is_nan() -> None:
    assert np.array_equal(to_vector(loads(b"[1, null, -2e300]")), [1.0, math.nan, -2e300], equal_nan=True)


@pytest.mark.parametrize(("word", "value"), [("-nan", math.nan), ("-inf", -math.inf), ("INF", math.inf), ("NaN", math.nan)])
def test_words_of_c_are_read(word: str, value: float) -> None:
    assert np.array_equal(to_vector(loads(f"[{word}, 1.5]".encode())), [value, 1.5], equal_nan=True)


def test_words_within_text_do_no_harm() -> None:
    assert loads(b'{"error": "an info, nan", "output": [NaN]}')["error"] in ("an info, nan", "an info, NaN")


def test_whole_numbers_beyond_floats_are_infinite() -> None:
    assert np.array_equal(to_vector(json.loads(f"[1{'0' * 400}, -1{'0' * 400}, 3]")), [math.inf, -math.inf, 3.0])


@pytest.mark.parametrize("value", [None, 1.0, "1", {"a": 1}, ["1.0"], [[1.0]], [True], [{}]])
def test_what_is_no_list_of_numbers_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a list of numbers"):
        to_vector(value)


def test_lists_in_lists_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        loads(b"[" * 200_000)


@given(st.binary(max_size=30))
def test_garbage_is_a_value_error_or_a_value(text: bytes) -> None:
    with suppress(ValueError):
        loads(text)
