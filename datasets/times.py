"""Times of a file's frames: evenly spaced, one step of the solver apart."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects

#: Largest relative difference of numbers that are equal up to rounding to float32.
ROUNDING = 1e-6

#: Share of the distance of neighbours that a time or position may be off, however far from the origin it is.
NEAR = 0.02


def dt_of_file(file: h5py.File) -> tuple[float | None, float]:
    """Read the distance of frames in time, which an attribute and the times of the frames may both tell, and its rounding."""
    value, times = file.attrs.get("dt"), times_of_file(file)
    dt = None if value is None else hdf5_objects.number(value)
    if value is not None and (dt is None or not 0 < dt < float("inf")):
        raise ValueError(f"its dt must be a positive number, not {value!r}")
    step = step_of_times(times)
    if dt is None or times is None or step is None:
        return (step, _rounding_in_file(file, times)) if dt is None and times is not None else (dt, 0.0)
    agree = abs(step - dt) <= ROUNDING * dt + _rounding_in_file(file, times)
    hdf5_objects.require(agree, f"its times lie {step:.9g} apart, but its dt is {dt:.9g}")
    return dt, 0.0


def _rounding_in_file(file: h5py.File, times: NDArray[np.float64]) -> float:
    """Return how far the distance of a file's times may be off, if they were stored as float32."""
    stored = hdf5_objects.dataset(file, "times").dtype
    return rounding_of_step(times) if stored.kind == "f" and stored.itemsize <= 4 else 0.0


def rounding_of_step(times: NDArray[np.float64] | None) -> float:
    """Return how far the distance of times may be off if they were rounded to float32; 0 of none, or of a single one."""
    if times is None or len(times) < 2:
        return 0.0
    return float(np.finfo(np.float32).eps * np.abs(times).max()) / (len(times) - 1)


def times_of_file(file: h5py.File) -> NDArray[np.float64] | None:
    """Read the times of a file's frames, `(T,)`; None if it has none.

    Raises:
        ValueError: They are no numbers, or not evenly spaced.
    """
    if "times" not in file:
        return None
    times = hdf5_objects.array(file, "times")
    hdf5_objects.require(
        times.dtype.kind in "fiu" and times.ndim == 1, f"its times must be a row of numbers, not {times.dtype}"
    )
    times = times.astype(np.float64)
    hdf5_objects.require(are_even(times), "its times must rise in even steps, one step of the solver apart, but they do not")
    return times


def are_even(times: NDArray[np.float64]) -> bool:
    """Tell times that rise in even steps, up to rounding to float32."""
    step = step_of_times(times)
    if not np.isfinite(times).all() or step is None:
        return bool(np.isfinite(times).all())
    rounding = ROUNDING * step + min(ROUNDING * float(np.abs(times).max()), 0.01 * step)
    return step > 0 and bool((np.abs(np.diff(times) - step) <= rounding).all())


def rounding_of(values: NDArray[np.float64], relative: float = ROUNDING) -> float:
    """Return how far times or positions may be off and still be equal up to rounding: never a step, however small it is."""
    if not len(values):
        return 0.0
    steps = np.abs(np.diff(values))
    return min(relative * float(np.abs(values).max()), NEAR * float(steps.min(initial=np.inf)))


def step_of_times(times: NDArray[np.float64] | None) -> float | None:
    """Compute the distance of even times; None if there are none, or only one."""
    return None if times is None or len(times) < 2 else float(times[-1] - times[0]) / (len(times) - 1)


def frames_of_step(apart: float | None, step: float | None) -> int | None:
    """Return how many frames make a step, if they are several and a whole number; None otherwise.

    Args:
        apart: Distance of frames in time.
        step: Step of the solver.
    """
    if apart is None or step is None:
        return None
    frames = round(step / apart)
    return frames if frames > 1 and abs(frames * apart - step) <= 2 * ROUNDING * step else None
