"""Numbers as Fortran, C and their runtimes write them, held to what these read themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import compiled

from deepzero_sim.connectors.formats.numbers import expand_repeats, parse_number, parse_numbers

NAN, INF = float("nan"), float("inf")

FINITE = {
    "1.0D+00": 1.0,
    "2.5d-01": 0.25,
    "-1.5Q3": -1500.0,
    "1.0q-2": 0.01,
    "0.100000-149": 1e-150,
    "-.25+101": -2.5e100,
    "1.+300": 1e300,
    "+1": 1.0,
    "1.": 1.0,
    ".5": 0.5,
    "-0": -0.0,
    "007": 7.0,
    "1E5": 1e5,
    "9007199254740993": 9007199254740992.0,
    "4.9D-324": 5e-324,
    "0x1.8p+1": 3.0,
    "-0X1P-1074": -5e-324,
}

INFINITE = {
    **dict.fromkeys(["inf", "+Inf", "INF", "Infinity", "+Infinity", "1.#INF", "1.#INF00", "1.#J", "1.#INF00e+000"], INF),
    **dict.fromkeys(["-inf", "-Infinity", "-1.#INF", "-1.#J", "-∞"], -INF),
    **{"∞": INF, "1e999": INF, "-1.0D+999": -INF, "0x1p+99999": INF, "9" * 400: INF, "-0x1p+99999": -INF},
}

NOT_NUMBERS = [
    *("nan", "NaN", "+NAN", "-nan", "-nan(ind)", "nan(snan)", "NaN(0x7ff8000000000000)", "NaN()", "NaNQ", "NaNS", "sNaN"),
    *("1.#QNAN", "-1.#IND", "1.#SNAN", "1.#QNAN0", "-1.#IND00", "1.#QO", "-1.#IO", "1.#QNAN0e+000", "1.#R"),
]

REFUSED = [
    *(
        "1.0abc",
        "abc",
        "1_000",
        "1__0",
        "\u0661",
        "\uff11",
        "1\u2212",
        "\xa01",
        "1\x00",
        "1.0f",
        "1.0L",
        "1..0",
        "1.0.0",
        "1e5.0",
    ),
    *("1.0+", "1e", "e5", "+", "-", ".", "", "--1", "2020-01", "2020-01-15", "1-5", "12:30", "1.0-2.0", "1.5-12345", "1e5+3"),
    *("1d5d5", "0x10", "0x", "0xp1", "0x1.8q1", "nan(", "nan)", "infinit", "inf1", "1.#FOO", "#INF", "1.0#"),
    *("NA", "None", "true", "T"),
]


@pytest.mark.parametrize(("word", "value"), {**FINITE, **INFINITE}.items())
def test_a_number_is_what_it_is_in_every_spelling(word: str, value: float) -> None:
    np.testing.assert_array_equal([parse_number(word.encode()), *parse_numbers([b"1", word.encode()])], [value, 1.0, value])
    assert np.signbit(parse_number(word.encode())) == np.signbit(value)


@pytest.mark.parametrize("word", NOT_NUMBERS)
def test_nan_is_nan_in_every_spelling(word: str) -> None:
    assert np.isnan(parse_number(word.encode()))
    np.testing.assert_array_equal(parse_numbers([b"1D0", word.encode()]), [1.0, NAN])


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_no_whole_number_is_refused_and_never_cut(word: str) -> None:
    for words in ([word.encode()], [b"1.0", word.encode(), b"nan"]):
        with pytest.raises(ValueError, match="number"):
            parse_numbers(words)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("****", "too wide for its format"),
        ("1,5", "decimal commas are not read"),
        ("1.0,", "say so by a delimiter"),
        ("(1.0,2.0)", "real and imaginary parts"),
        ("", "missing between two delimiters"),
        ("x" * 1000, "'" + "x" * 40 + r"\.\.\.' is no number"),
    ],
)
def test_a_refusal_says_why(word: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_numbers([b"1", word.encode()])
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)


SPELLINGS = st.sampled_from(["%r", "%.17g", "%.16e", "%+.16E", "%.20e", "%.0f"])


@settings(max_examples=200)
@given(value=st.floats(allow_nan=False), form=SPELLINGS, letter=st.sampled_from(["e", "E", "d", "D", "q", "Q", ""]))
def test_what_is_written_with_any_letter_is_the_same_number(value: float, form: str, letter: str) -> None:
    word = form % value
    mantissa, found, exponent = word.lower().partition("e")
    if found:
        whole = letter or ("" if exponent[0] in "+-" and "." in mantissa else "e")
        word = mantissa + whole + exponent
    for numbers in (parse_numbers([word.encode()]), parse_numbers([b"1.#INF", word.encode()])[1:]):
        assert numbers.tolist() == [float(form % value)]
    assert float.hex(parse_number(value.hex().encode())) == value.hex()


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs", "Zs"]), max_size=6), max_size=5))
def test_nothing_but_numbers_is_one_and_none_is_dropped(words: list[str]) -> None:
    try:
        numbers = parse_numbers([word.encode() for word in words])
    except ValueError as error:
        assert "number" in str(error) or "Fortran" in str(error)
    else:
        assert numbers.shape == (len(words),) and numbers.dtype == np.float64


def test_repeat_counts_are_written_out_within_bounds() -> None:
    assert expand_repeats([b"3*1.0", b"2", b"1*-4"], 5) == [b"1.0"] * 3 + [b"2", b"-4"]
    assert len(expand_repeats([b"9" * 30 + b"*1.0"] * 9, 5)) == 6
    for kept in (b"0*1.0", b"*", b"***", b"3*", b"*3", b"a*3"):
        assert expand_repeats([kept], 5) == [kept]


FORTRAN = """
program spell
  implicit none
  real(8) :: u(200), v
  character(12) :: forms(8) = [character(12) :: '(E14.6)', '(D12.4)', '(ES24.16)', '(EN24.9)', '(G20.10)', '(E16.6E4)', &
    '(1P,E15.7)', '(SP,E24.16)']
  integer :: k, i
  open(10, file='u.raw', access='stream', form='unformatted', status='old')
  read(10) u
  open(11, file='words.txt')
  do i = 1, size(u)
    do k = 1, size(forms)
      write(11, forms(k)) u(i)
    end do
    write(11, *) u(i)
  end do
  rewind(11)
  open(12, file='v.raw', access='stream', form='unformatted')
  do i = 1, size(u) * (size(forms) + 1)
    read(11, *) v
    write(12) v
  end do
end program
"""

C = """
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    const char *forms[] = {"%e", "%.16E", "%g", "%.17G", "%a", "%.3A", "%+.5e", "%f"};
    double u[200], v;
    char word[512];
    FILE *in = fopen("u.raw", "rb"), *text = fopen("words.txt", "w"), *out = fopen("v.raw", "wb");
    if (fread(u, sizeof *u, 200, in) != 200) return 1;
    for (int i = 0; i < 200; i++)
        for (int k = 0; k < 8; k++) {
            snprintf(word, sizeof word, forms[k], u[i]);
            fprintf(text, "%s\\n", word);
            v = strtod(word, NULL);
            fwrite(&v, sizeof v, 1, out);
        }
    return fclose(text) | fclose(out);
}
"""


@pytest.mark.parametrize(("source", "compiler"), [("spell.f90", "gfortran"), ("spell.c", "cc")])
def test_compilers_runtimes_read_the_same_numbers(tmp_path: Path, source: str, compiler: str) -> None:
    (tmp_path / source).write_text(FORTRAN if compiler == "gfortran" else C)
    program = compiled(tmp_path / source, tmp_path, compiler)
    random = np.random.default_rng(0)
    values = random.normal(size=200) * 10.0 ** random.integers(-300, 300, 200)
    values[:8] = [0.0, -0.0, 1.0, 1e-150, -1e300, NAN, INF, -INF]
    values.tofile(tmp_path / "u.raw")
    subprocess.run([program], cwd=tmp_path, check=True, timeout=60)
    words = (tmp_path / "words.txt").read_bytes().split()
    np.testing.assert_array_equal(parse_numbers(words), np.fromfile(tmp_path / "v.raw"))
    if compiler == "gfortran":
        assert b"0.100000-149" in words and b"0.1000D+01" in words
