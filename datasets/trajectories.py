"""Trajectories on disk: what a reference solver did, on the grid of the source solver, in one HDF5 file.

/frames    (S, T, C, *N)   S simulations, T frames, padding zero
/params    (S, K)          scenario parameters
/mask      (C, *N)         1 where a frame holds values, 0 where it is padding
/axes/<channel>/<axis>     positions of a channel's points
attributes                 format, version, name, dt, first_step, channels and parameters with their units,
                           settings and software versions (JSON)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.datasets.hdf5 import writing
from deepzero_sim.errors import DataError
from deepzero_sim.solver import SolverSpec
from deepzero_sim.types import Array

FORMAT, VERSION = "deepzero-sim trajectories", 1


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Simulations of equal length, one step of the source solver between frames.

    Args:
        frames: `(S, T, C, *N)`.
        params: `(S, K)`.
        mask: bool `(C, *N)`.
        attributes: what else the file says: names, units, settings, software.
    """

    frames: Array
    params: Array
    mask: NDArray[np.bool_]
    attributes: dict[str, Any] = field(default_factory=dict)

    def scales(self) -> tuple[Array, Array]:
        """Standard deviations, 1 where zero: of every channel over its active points, `(C,)`, and every parameter, `(K,)`."""
        channels = np.array([self.frames[:, :, c, self.mask[c]].std(dtype=np.float64) for c in range(len(self.mask))])
        params = self.params.std(axis=0, dtype=np.float64)
        return np.where(channels > 0, channels, 1.0), np.where(params > 0, params, 1.0)

    def require_fit(self, spec: SolverSpec, path: Path) -> None:
        """Raise unless the frames are states of this solver.

        Raises:
            DataError: they are not.
        """
        if self.frames.shape[2:] != spec.state_shape:
            raise DataError(
                f"{path} holds states of shape {self.frames.shape[2:]}, but solver {spec.name!r} takes {spec.state_shape}: "
                "use the solver and resolution the data were made for."
            )
        if self.params.shape[1] != len(spec.parameters):
            raise DataError(
                f"{path} holds {self.params.shape[1]} parameters a simulation, but solver {spec.name!r} takes "
                f"{len(spec.parameters)} ({', '.join(spec.parameters) or 'none'}): use data made for it."
            )


def as_batch(frames: Array, params: Array) -> tuple[Array, Array | None]:
    """Frames of simulations as states of one batch, simulation after simulation.

    Args:
        frames: `(S, T, C, *N)`.
        params: `(S, K)`.

    Returns:
        `(S T, C, *N)`, and the parameters of each, `(S T, K)`, or None if there are none.
    """
    states = frames.reshape(frames.shape[0] * frames.shape[1], *frames.shape[2:])
    return states, np.repeat(params, frames.shape[1], axis=0) if params.shape[1] else None


def save(path: Path, trajectories: Trajectories, spec: SolverSpec) -> None:
    """Write a file of trajectories, whole or not at all.

    Args:
        path: the HDF5 file.
        trajectories: what to write.
        spec: of the source solver, for names, units and axes.
    """
    with writing(path) as file:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["name"], file.attrs["dt"] = spec.name, spec.dt
        for key in ("channels", "channel_units", "parameters", "parameter_units"):
            file.attrs[key] = json.dumps(getattr(spec, key))
        for key, value in trajectories.attributes.items():
            file.attrs[key] = value if isinstance(value, int) else json.dumps(value)
        file.create_dataset("frames", data=trajectories.frames, chunks=(1, 1, *trajectories.frames.shape[2:]))
        file.create_dataset("params", data=trajectories.params)
        file.create_dataset("mask", data=trajectories.mask.astype(np.uint8))
        _write_axes(file, spec)


def _write_axes(file: h5py.File, spec: SolverSpec) -> None:
    channels = spec.channels or tuple(f"channel_{i}" for i in range(spec.state_shape[0]))
    axes = spec.axes or tuple(f"axis_{i}" for i in range(len(spec.state_shape) - 1))
    for c, channel in enumerate(channels):
        for a, axis in enumerate(axes):
            file[f"axes/{channel}/{axis}"] = spec.coordinates(c, a)


def load(path: Path, spec: SolverSpec | None = None) -> Trajectories:
    """Read a file of trajectories.

    Args:
        path: the HDF5 file.
        spec: of the solver the frames must be states of, if any.

    Raises:
        DataError: the file is missing, is no such file, is damaged, or does not fit the solver.
    """
    if not path.exists():
        raise DataError(
            f"expected a file of trajectories at {path}, but there is none: run 'deepzero-sim generate' or check the path."
        )
    if path.is_dir():
        raise DataError(f"expected a file of trajectories at {path}, but that is a folder: name the file in it.")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise DataError(f"{path} is HDF5, but not a file of '{FORMAT}': make one with 'deepzero-sim generate'.")
            if file.attrs.get("version") != VERSION:
                raise DataError(
                    f"{path} is of version {file.attrs.get('version')} of '{FORMAT}', expected {VERSION}: generate it again, "
                    "or use the release of this package it was made with."
                )
            frames, params = np.asarray(file["frames"]), np.asarray(file["params"])
            mask, attributes = np.asarray(file["mask"]).astype(bool), dict(file.attrs)
    except (OSError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as HDF5 trajectories ({error}): check the path, or generate it again."
        ) from error
    trajectories = Trajectories(frames, params, mask, attributes)
    _check(trajectories, path)
    if spec is None:
        return trajectories
    trajectories.require_fit(spec, path)
    return Trajectories(frames.astype(spec.dtype), params.astype(spec.dtype), mask, attributes)


def _check(trajectories: Trajectories, path: Path) -> None:
    frames, params, mask = trajectories.frames, trajectories.params, trajectories.mask
    if frames.ndim < 4 or params.ndim != 2 or len(params) != len(frames) or mask.shape != frames.shape[2:]:
        raise DataError(
            f"{path} must hold frames (S, T, C, *N), params (S, K) and mask (C, *N), "
            f"not {frames.shape}, {params.shape} and {mask.shape}: generate it again."
        )
    if {frames.dtype.kind, params.dtype.kind} - {"f"}:
        raise DataError(
            f"{path} must hold floating-point frames and params, not {frames.dtype} and {params.dtype}: generate it again."
        )
    if not (np.isfinite(frames).all() and np.isfinite(params).all()):
        raise DataError(f"{path} holds NaN or infinity: the simulation it was made from diverged; generate it again.")
