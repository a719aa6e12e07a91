"""Trajectories on disk: what a reference solver did, on the grid of the source solver, in one HDF5 file.

/frames    (S, T, C, *N)   S simulations, T frames, padding zero
/params    (S, K)          scenario parameters
/mask      (C, *N)         1 where a frame holds values, 0 where it is padding
/axes/<channel>/<axis>     positions of a channel's points
attributes                 format, version; what the solver says of its states: name, dt, channels and parameters with their
                           units, axes, spacing, offsets (see :class:`Statements`); first_step, settings and software versions

Lists and mappings are JSON. A file by other hands may have attributes in any form of text and number that HDF5 has, and needs
none but format and version: what it does say is compared with the solver that it is used with.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import statements
from deepzero_sim.datasets.hdf5 import not_a_file, reading, show, writing
from deepzero_sim.datasets.statements import Statements
from deepzero_sim.errors import DataError
from deepzero_sim.solver.contract import SolverSpec

FORMAT, VERSION = "deepzero-sim trajectories", 1


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Simulations of equal length, one step of the source solver between frames.

    Args:
        frames: `(S, T, C, *N)`.
        params: `(S, K)`.
        mask: bool `(C, *N)`.
        attributes: what else the file says: names, units, settings, software.
        says: the same, as it is compared with a solver; None of what is no file.
        may_differ: what of it may differ from a solver.
    """

    frames: Array
    params: Array
    mask: NDArray[np.bool_]
    attributes: dict[str, Any] = field(default_factory=dict)
    says: Statements | None = None
    may_differ: Collection[str] = ()

    def scales(self) -> tuple[Array, Array]:
        """Standard deviations, 1 where zero: of every channel over its active points, `(C,)`, and every parameter, `(K,)`."""
        states = [self.frames[:, :, c, active] for c, active in enumerate(self.mask)]
        channels = np.array([values.std(dtype=np.float64) if values.size else 0.0 for values in states])
        params = self.params.std(axis=0, dtype=np.float64) if len(self.params) else np.zeros(self.params.shape[1])
        return np.where(channels > 0, channels, 1.0), np.where(params > 0, params, 1.0)

    def require_fit(self, spec: SolverSpec, what: str = "the data") -> None:
        """Raise unless the frames are states of this solver, as far as they and the solver say.

        Args:
            spec: of the solver.
            what: these data are, for messages.

        Raises:
            DataError: they are not.
        """
        require_shape(self, spec, what)
        require_agreement(self, statements.of_solver(spec), what, f"solver {spec.name!r}", self.may_differ)


def require_shape(trajectories: Trajectories, spec: SolverSpec, what: str) -> None:
    """Raise unless frames and parameters have the shape of a solver's.

    Raises:
        DataError: they have not.
    """
    frames, params = trajectories.frames, trajectories.params
    if frames.shape[2:] != spec.state_shape:
        raise DataError(
            f"{what} holds states of shape {frames.shape[2:]}, but solver {spec.name!r} takes {spec.state_shape}: "
            "use the solver and resolution the data were made for."
        )
    if params.shape[1] != len(spec.parameters):
        raise DataError(
            f"{what} holds {params.shape[1]} parameters a simulation, but solver {spec.name!r} takes "
            f"{len(spec.parameters)} ({', '.join(spec.parameters) or 'none'}): use data made for it."
        )


def require_agreement(
    trajectories: Trajectories, other: Statements, what: str, whose: str, may_differ: Collection[str] = ()
) -> None:
    """Raise where a file contradicts a solver or another file.

    Args:
        trajectories: of the file.
        other: what the other says.
        what: the file, for messages.
        whose: the other statements are, for messages.
        may_differ: statements of which it is known.

    Raises:
        DataError: it does.
    """
    if trajectories.says is None:
        return
    found = statements.differences(trajectories.says, other, may_differ)
    if found:
        named = ", ".join(dict.fromkeys([*may_differ, *found]))
        raise DataError(
            f"{what} does not fit {whose}: {'; '.join(found.values())}: use what belongs together, or set data_may_differ to "
            f"[{named}] if this is meant."
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


#: Attributes that a solver's spec gives.
_OF_SPEC = ("name", "dt", "channels", "channel_units", "parameters", "parameter_units", "axes", "spacing", "offsets")


def save(path: Path, trajectories: Trajectories, spec: SolverSpec) -> None:
    """Write a file of trajectories, whole or not at all.

    Args:
        path: the HDF5 file.
        trajectories: what to write.
        spec: of the source solver, for names, units and axes.

    Raises:
        DataError: they are no trajectories, or not of this solver.
    """
    _require_form(trajectories, show(path), "check what is to be saved")
    require_shape(trajectories, spec, f"what is to be saved as {show(path)}")
    with writing(path) as file:
        file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
        file.attrs["name"], file.attrs["dt"] = spec.name, float(spec.dt)
        for key in _OF_SPEC[2:]:
            file.attrs[key] = json.dumps(getattr(spec, key))
        for key, value in trajectories.attributes.items():
            if key not in {"format", "version", *_OF_SPEC}:  # of data that were loaded, perhaps from another solver
                file.attrs[key] = value if isinstance(value, str | int | float | np.generic | np.ndarray) else json.dumps(value)
        frames = trajectories.frames
        _write_checked(file, "frames", frames, (1, 1, *frames.shape[2:]))
        _write_checked(file, "params", trajectories.params, trajectories.params.shape)
        _write_checked(file, "mask", trajectories.mask.astype(np.uint8), trajectories.mask.shape)
        _write_axes(file, spec)


def _write_checked(file: h5py.File, name: str, values: NDArray[Any], chunks: tuple[int, ...]) -> None:
    """Write a dataset with checksums, so that whoever reads it finds damage."""
    checked = {"chunks": chunks, "fletcher32": True} if values.size else {}
    file.create_dataset(name, data=values, **checked)


def _write_axes(file: h5py.File, spec: SolverSpec) -> None:
    channels = spec.channels or tuple(f"channel_{i}" for i in range(spec.state_shape[0]))
    axes = spec.axes or tuple(f"axis_{i}" for i in range(len(spec.state_shape) - 1))
    for c, channel in enumerate(channels):
        for a, axis in enumerate(axes):
            file[f"axes/{channel}/{axis}"] = spec.coordinates(c, a)


def load(path: Path, spec: SolverSpec | None = None, data_may_differ: Collection[str] = ()) -> Trajectories:
    """Read a file of trajectories.

    Args:
        path: the HDF5 file.
        spec: of the solver the frames must be states of, if any.
        data_may_differ: statements of the file that may contradict the solver's: see
            :data:`deepzero_sim.datasets.statements.Statement`.

    Raises:
        DataError: the file is missing, is no such file, is damaged, or does not fit the solver.
        ConfigError: something that may differ is no statement.
    """
    statements.require_known(data_may_differ)
    with _opened(path) as file:
        frames, params, mask = (hdf5_objects.array(file, name) for name in ("frames", "params", "mask"))
        trajectories = Trajectories(frames, params, _as_mask(mask), _attributes(file), may_differ=tuple(data_may_differ))
        _require_form(trajectories, show(path), "generate it again")
        says = _says(file, trajectories.mask, params.shape[1], spec)
    trajectories = replace(trajectories, says=says)
    if spec is None:
        return trajectories
    trajectories.require_fit(spec, show(path))
    return replace(trajectories, frames=_cast(frames, spec, path), params=_cast(params, spec, path))


def describe(trajectories: Trajectories) -> dict[str, Any]:
    """What a file says of its making, as plain values: for which solver, by which reference, with which software."""
    attributes = trajectories.attributes
    said: dict[str, Any] = {key: attributes[key] for key in ("name", "dt", "first_step") if key in attributes}
    made = hdf5_objects.json_of(attributes.get("settings"))
    simulations = made.get("simulations") if isinstance(made, dict) else None
    if isinstance(simulations, dict):
        said |= {key: simulations[key] for key in ("reference", "source", "initial", "restrict") if key in simulations}
    software = hdf5_objects.json_of(attributes.get("software"))
    return {key: _plain(value) for key, value in said.items()} | ({"software": software} if software else {})


def _plain(value: Any) -> Any:
    """A value as YAML has it."""
    number = hdf5_objects.number(value)
    if number is not None:
        return int(number) if number.is_integer() else number
    return value if isinstance(value, str | dict) else str(value)


class Summary(NamedTuple):
    """What a file of trajectories holds, its numbers aside.

    Args:
        shape: of the frames, `(S, T, C, *N)`.
        says: the file of itself.
    """

    shape: tuple[int, ...]
    says: Statements


def summarise(path: Path) -> Summary:
    """Read what a file of trajectories says of itself.

    Raises:
        DataError: as :func:`load`, as far as that is seen without reading the frames.
    """
    with _opened(path) as file:
        frames, params = (hdf5_objects.dataset(file, name) for name in ("frames", "params"))
        mask = _as_mask(hdf5_objects.array(file, "mask"))
        if frames.ndim < 4 or params.ndim != 2 or mask.shape != frames.shape[2:]:
            raise ValueError(f"it has frames of shape {frames.shape}, params of {params.shape} and a mask of {mask.shape}")
        return Summary(frames.shape, _says(file, mask, params.shape[1]))


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    instead = not_a_file(path)
    if instead is not None:
        remedy = "name the file in it" if "folder" in instead else "run 'deepzero-sim generate' or check the path"
        raise DataError(f"expected a file of trajectories at {show(path)}, but {instead}: {remedy}.")
    with reading(path, "HDF5 trajectories", "check the path, or generate it again") as file:
        _require_format(file, path)
        yield file


def _require_format(file: h5py.File, path: Path) -> None:
    if hdf5_objects.text(file.attrs.get("format")) != FORMAT:
        raise DataError(f"{path} is HDF5, but not a file of '{FORMAT}': make one with 'deepzero-sim generate'.")
    version = file.attrs.get("version")
    if hdf5_objects.number(version) != VERSION:
        raise DataError(
            f"{path} is of version {version!s} of '{FORMAT}', expected {VERSION}: generate it again, "
            "or use the release of this package it was made with."
        )


def _attributes(file: h5py.File) -> dict[str, Any]:
    """All that can be read; text as Python's."""
    found = {}
    for key in file.attrs:
        try:
            value = file.attrs[key]
        except (OSError, TypeError, ValueError, RuntimeError):  # of a type that only its writer knows
            continue
        written = hdf5_objects.text(value)
        found[key] = value if written is None else written
    return found


def _as_mask(mask: NDArray[Any]) -> NDArray[np.bool_]:
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise ValueError("its mask must hold 1 where a frame holds values and 0 elsewhere, and nothing else")
    return mask.astype(bool)


def _require_form(trajectories: Trajectories, what: str, remedy: str) -> None:
    frames, params, mask = trajectories.frames, trajectories.params, trajectories.mask
    if frames.ndim < 4 or params.ndim != 2 or len(params) != len(frames) or mask.shape != frames.shape[2:]:
        raise DataError(
            f"{what} must hold frames (S, T, C, *N), params (S, K) and mask (C, *N), "
            f"not {frames.shape}, {params.shape} and {mask.shape}: {remedy}."
        )
    if {frames.dtype.kind, params.dtype.kind} - {"f"}:
        raise DataError(f"{what} must hold floating-point frames and params, not {frames.dtype} and {params.dtype}: {remedy}.")
    if not frames.size:
        raise DataError(
            f"{what} must hold simulations, each of one frame or more, not frames of shape {frames.shape}: {remedy}."
        )
    if not mask.any():
        raise DataError(f"{what} must have a mask that is 1 where a frame holds values, not 0 everywhere: {remedy}.")
    if not np.isfinite(params).all():
        raise DataError(f"{what} holds NaN or infinity among its params: {remedy}.")
    finite = np.isfinite(frames)
    if not finite[:, :, mask].all():
        raise DataError(f"{what} holds NaN or infinity: the simulation it was made from diverged; {remedy}.")
    if not finite.all():
        raise DataError(f"{what} holds NaN or infinity where its mask is 0, and padding must be zero: write zeros there.")


def _says(file: h5py.File, mask: NDArray[np.bool_], parameters: int, spec: SolverSpec | None = None) -> Statements:
    """What a file says of itself, if it does not contradict itself.

    Raises:
        ValueError: it does, or a statement is none; in words.
    """
    says = statements.of_file(file, mask, spec)
    channels, *points = mask.shape
    expected = {"channels": channels, "channel_units": channels, "axes": len(points)}
    expected |= {"parameters": parameters, "parameter_units": parameters, "spacing": len(points)}
    for key, length in (expected | {"offsets": channels * len(points)}).items():
        found = np.size(getattr(says, key))
        if found not in {0, length}:
            raise ValueError(f"its {key} must have {length} entries, not {found}")
    for (channel, axis), positions in says.positions.items():
        if len(positions) != points[axis]:
            raise ValueError(
                f"its axes must have {points[axis]} positions for channel {channel} along axis {axis}, not {len(positions)}"
            )
    return says


def _cast(values: Array, spec: SolverSpec, path: Path) -> Array:
    with np.errstate(over="ignore"):
        cast: Array = values.astype(spec.dtype)
    if not np.isfinite(cast).all():
        raise DataError(
            f"{show(path)} holds numbers too large for {spec.dtype}, in which solver {spec.name!r} takes its states: use a "
            "solver of float64, or other units."
        )
    return cast
