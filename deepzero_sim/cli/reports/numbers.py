"""Numbers as reports write them."""

from __future__ import annotations

import math


def write_error(value: float) -> str:
    """Write an error in four decimals where these say something, else in three digits; a dash where there is none."""
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1000 or math.isinf(value) else f"{value:.3g}"


def write_ratio(value: float, other: float) -> str:
    """Write how large a value is by another; a dash where that says nothing."""
    if math.isnan(value) or not 0 < other < math.inf:
        return "-"
    ratio = value / other
    return f"{ratio:.2f}" if ratio >= 0.095 or ratio == 0 else f"{ratio:.2g}"


def write_milliseconds(seconds: float) -> str:
    """Write a time in milliseconds, in three digits."""
    milliseconds = 1e3 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:#.3g}".rstrip(".")


def write_times(ratio: float) -> str:
    """Write a factor in two digits: `12`, `3.4`, `0.25`."""
    return f"{ratio:,.0f}" if ratio >= 9.95 else f"{ratio:.2g}"


def write_speed(ratio: float) -> str:
    """Write how fast something is by another: `12 times as fast as`, or `as fast as`."""
    times = write_times(ratio)
    return "as fast as" if times == "1" else f"{times} times as fast as"


def write_multiple(ratio: float) -> str:
    """Write a share of about 1 or more: `103 % of`, `2.5 times`."""
    return f"{100 * ratio:.0f} % of" if ratio < 2 else f"{write_times(ratio)} times"


def write_share(ratio: float) -> str:
    """Write a ratio below 1 in percent: `12 %`, `0.3 %`."""
    percent = 100 * ratio
    return f"{percent:.0f} %" if percent >= 9.95 or percent == 0 else f"{percent:.2g} %"
