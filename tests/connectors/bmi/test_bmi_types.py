"""Types of a component's variables: the family of a word and the item size say what it is, or it is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepzero_sim.connectors.bmi.types import dtype_of


@pytest.mark.parametrize(
    ("words", "size", "dtype"),
    [
        (("DOUBLE", "DOUBLE (12)", "DOUBLE (3,4)", "double precision", "DOUBLE PRECISION  ", "double_precision"), 8, "float64"),
        (
            ("real*8", "REAL * 8", "real(8)", "real(kind=8)", "real(c_double)", "real(kind=real64)"),
            8,
            "float64",
        ),
        (
            ("real(dp)", "real (kind = 8)", "real(selected_real_kind(15))", "real(8), dimension(:)", "real8", "real(2)"),
            8,
            "float64",
        ),
        (
            ("float", "real", "c_double", "d", "<f8", "float64", "FLOAT64", "np.float64", "float64[:, :]"),
            8,
            "float64",
        ),
        (("<class 'float'>", "dtype('float64')", float, np.float64, np.dtype("f8"), b"double\0\0", "double\0x"), 8, "float64"),
        (
            ("float", "real", "REAL", "real*4", "real(4)", "single", "c_float", "float32", "f", np.float32),
            4,
            "float32",
        ),
        (("int", "integer", "INTEGER (7)", "integer*4", "integer(c_int)", "long", "int32_t", "INT32", "i"), 4, "int32"),
        (("logical", "LOGICAL (3)", "logical(4)", "logical*4"), 4, "int32"),
        (("int", "integer", "long", "long long", "integer*8", "int64", "c_long", "integer8", int), 8, "int64"),
        (("unsigned int", "uint", "unsigned", "uint32_t", "c_uint", "UINT32"), 4, "uint32"),
        (("bool", "logical", "logical*1", "?"), 1, "bool"),
        (("short", "int16", "integer(2)", "integer*2"), 2, "int16"),
        (("int8", "byte", "integer*1", "integer(1)"), 1, "int8"),
        ((">f8",), 8, ">f8"),
    ],
)
def test_words_of_all_languages_are_known(words: tuple[Any, ...], size: int, dtype: str) -> None:
    assert {word: dtype_of(word, size) for word in words} == dict.fromkeys(words, np.dtype(dtype))


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("double", 4),
        ("double precision", 4),
        ("real*8", 4),
        ("real(8)", 4),
        ("real(kind=8)", 4),
        ("real (kind=8)", 4),
        ("real(c_float)", 8),
        ("real(real32)", 8),
        ("float32", 8),
        ("float64", 4),
        ("<f8", 4),
        ("c_float", 8),
        ("single", 8),
        ("integer*4", 8),
        ("int32", 8),
        ("int8", 8),
        ("short", 4),
        ("integer(kind=8)", 4),
        ("int", 3),
        ("real", 2),
        ("float", 1),
        ("real*16", 16),
        ("long double precision", 16),
    ],
)
def test_a_word_that_the_item_size_contradicts_is_none(word: str, size: int) -> None:
    assert dtype_of(word, size) is None


@pytest.mark.parametrize(
    "word", [None, "", 8, "D", "complex", "complex128", "F", "string", "character(len=8)", "char", "S8", "V8"]
)
@pytest.mark.parametrize("size", [1, 4, 8, 16])
def test_what_is_no_number_is_none(word: Any, size: int) -> None:
    assert dtype_of(word, size) is None


@given(
    st.text(max_size=12) | st.from_regex(r"[a-z]{1,8}[ *(<]?[a-z0-9]{0,4}\)?", fullmatch=True), st.sampled_from([1, 2, 4, 8])
)
def test_whatever_a_component_says_the_dtype_has_the_item_size_or_there_is_none(word: str, size: int) -> None:
    dtype = dtype_of(word, size)
    assert dtype is None or (dtype.itemsize == size and dtype.kind in "fiub")
