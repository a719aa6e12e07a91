"""A recording says what a file says of itself, and nothing that contradicts its frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepzero_sim.datasets.recording import Recording
from deepzero_sim.errors import DataError

FRAMES = np.zeros((2, 6, 3, 4, 5), np.float32)


def record(**facts: Any) -> Recording:
    return Recording(frames=FRAMES, channels=("a", "b", "c"), name="file.h5", **facts)


def test_what_a_file_leaves_open_is_empty() -> None:
    recording = record()
    assert recording.axes == ("axis_0", "axis_1") and recording.channel_units == ("", "", "")
    assert recording.params.shape == (2, 0) and recording.coordinates == (None, None) and recording.periodic == (None, None)
    assert recording.positions(1, 0) is None and recording.times is None and recording.mask is None


def test_positions_of_staggered_channels_are_shifted() -> None:
    coordinates = np.arange(4) * 0.5, np.arange(5) * 2.0
    recording = record(coordinates=coordinates, offsets=((0.0, 0.5), (0.5, 0.0), (0.5, 0.5)))
    found = [recording.positions(channel, 1) for channel in range(3)]
    assert [None if points is None else points[0] for points in found] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"times": np.arange(5.0)}, "file.h5 has times of 5, expected 6"),
        ({"axes": ("x",)}, "has axes of 1, expected 2"),
        ({"channel_units": ("m",)}, "has channel_units of 1, expected 3"),
        ({"params": np.zeros((3, 1)), "parameters": ("nu",)}, r"has params of \(3, 1\), expected \(2, 1\)"),
        ({"mask": np.ones((3, 4, 4), bool)}, r"has mask of \(3, 4, 4\)"),
        ({"coordinates": (None, np.arange(4.0))}, "has 4 positions along axis_1, but 5 points"),
    ],
)
def test_facts_of_other_frames_are_refused(facts: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        record(**facts)
