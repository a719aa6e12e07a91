"""Units that are spelt in several ways."""

from __future__ import annotations

import pytest

from deepzero_sim.datasets.metadata import Metadata, differences
from deepzero_sim.datasets.units import same_unit, unit_to_show, with_amount, with_unit


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m/s", "m s-1"), ("m/s", "m s^-1"), ("m/s", "m*s**-1"), ("m/s", "metre/second"), ("m/s", "meters per second"),
        ("m/s", "m.s-1"), ("m/s", "m·s⁻¹"), ("m/s", "[m/s]"), ("m/s", "s-1 m"), ("m2/s2", "m^2 s^-2"), ("m2/s2", "m**2/s**2"),
        ("kg/m3", "kg m-3"), ("kg m^{-3}", "kg/m^3"), ("kg m-1 s-2", "kg/m/s^2"), ("1", ""), ("1", "dimensionless"), ("-", "1"),
        ("1/s", "s-1"), ("degC", "celsius"), ("°C", "degree_Celsius"), ("K", "kelvin"), ("length/time", "length time-1"),
        ("Pa", "pascals"), ("weird unit!", "weird unit!"), ("m", ""), ("", "s"),
    ],
)  # fmt: skip
def test_one_unit_in_several_spellings(one: str, other: str) -> None:
    assert same_unit(one, other)
    assert same_unit(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m/s", "cm/s"), ("m/s", "m s"), ("m", "1"), ("K", "degC"), ("m/s", "s/m"), ("m2", "m3"), ("Pa", "hPa"), ("s", "S"),
        ("m", "M"), ("kg/m3", "kg/m2"), ("m/s", "km/h"), ("g", "G"), ("weird unit!", "weird!"), ("deg", "rad"), ("m/s2", "m/s"),
    ],
)  # fmt: skip
def test_other_units_are_others(one: str, other: str) -> None:
    assert not same_unit(one, other)
    assert not same_unit(other, one)


def test_units_of_data_and_solver_may_be_spelt_in_two_ways() -> None:
    one, other = Metadata(channel_units=("m/s", "K")), Metadata(channel_units=("m s-1", "kelvin"))
    assert differences(one, other) == {}
    assert "channel_units" in differences(one, Metadata(channel_units=("cm/s", "K")))


@pytest.mark.parametrize("unit", ["1", " 1 ", "-", "dimensionless", ""])
def test_one_is_no_unit_that_is_shown(unit: str) -> None:
    assert with_unit("Re", unit) == "Re" and with_amount("3.5", unit) == "3.5" and unit_to_show(unit) == ""


def test_units_stand_behind_numbers_and_in_brackets_behind_names() -> None:
    assert with_unit("u", "m/s") == "u (m/s)" and with_amount("3.5", "m/s") == "3.5 m/s"
