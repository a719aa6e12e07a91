"""What a file of trajectories says of itself, held against what a solver says, or another file.

An empty statement, on either side, says nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects, requirements
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import SolverSpec

#: What may differ between data and a solver, where somebody says that it is meant.
Statement: TypeAlias = Literal[
    "name",
    "dt",
    "channels",
    "channel_units",
    "parameters",
    "parameter_units",
    "axes",
    "spacing",
    "offsets",
    "mask",
]

_TEXTS = ("channels", "channel_units", "parameters", "parameter_units", "axes")

#: Relative difference of numbers that are the same but for rounding to float32.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Statements:
    """What a solver or a file says of states: see :class:`deepzero_sim.SolverSpec` for most of it.

    Args:
        positions: of every channel's points, by channel and axis.
        from_origin: whether positions say where the first point lies, not only how far they are apart.
    """

    name: str = ""
    dt: float | None = None
    channels: tuple[str, ...] = ()
    channel_units: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    parameter_units: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    spacing: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    offsets: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    mask: NDArray[np.bool_] | None = None
    positions: Mapping[tuple[int, int], NDArray[np.float64]] = field(default_factory=dict)
    from_origin: bool = True


def of_solver(spec: SolverSpec) -> Statements:
    """What a solver says."""
    positions = {}
    if spec.spacing:
        places = np.ndindex(spec.state_shape[0], len(spec.state_shape) - 1)
        positions = {(c, a): spec.coordinates(c, a) for c, a in places}
    return Statements(
        name=spec.name,
        dt=float(spec.dt),
        **{key: tuple(getattr(spec, key)) for key in _TEXTS},
        spacing=np.asarray(spec.spacing, dtype=np.float64),
        offsets=np.asarray(spec.offsets, dtype=np.float64),
        mask=spec.active(),
        positions=positions,
        from_origin=bool(spec.offsets),
    )


def of_file(file: h5py.File, mask: NDArray[np.bool_], spec: SolverSpec | None = None) -> Statements:
    """What a file says.

    Args:
        file: the open file.
        mask: that it holds.
        spec: whose names of channels and axes are looked for where the file gives none, as older ones do.

    Raises:
        ValueError: in words: a statement is none, such as text for a number.
    """
    attributes = file.attrs
    names = {key: _texts(attributes, key) for key in _TEXTS}
    spacing, offsets = (_numbers(attributes, key) for key in ("spacing", "offsets"))
    channels, axes = (names[key] or (tuple(getattr(spec, key)) if spec else ()) for key in ("channels", "axes"))
    positions = _positions(file, channels, axes, mask.shape)
    if not spacing.size and all((np.diff(found) == 1).all() for found in positions.values()):
        positions = {}  # places in the array, of a solver that names no spacing
    return Statements(
        name=_name(attributes),
        dt=_dt(attributes),
        **names,
        spacing=spacing,
        offsets=offsets,
        mask=mask,
        positions=positions,
        from_origin=bool(offsets.size) or "offsets" not in attributes,
    )


def _name(attributes: Mapping[str, Any]) -> str:
    value = attributes.get("name")
    name = hdf5_objects.text(value)
    if name is None and value is not None and not isinstance(value, h5py.Empty):
        raise ValueError(f"its name must be text, not {value!r}")
    return name or ""


def _dt(attributes: Mapping[str, Any]) -> float | None:
    value = attributes.get("dt")
    if value is None:
        return None
    dt = hdf5_objects.number(value)
    if dt is None or not 0 < dt < float("inf"):
        raise ValueError(f"its dt must be a positive number, not {value!r}")
    return dt


def _texts(attributes: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = hdf5_objects.texts(attributes.get(key))
    if found is None:
        raise ValueError(f"its {key} must be a list of names, not {attributes.get(key)!r}")
    return found


def _numbers(attributes: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    found = hdf5_objects.numbers(attributes.get(key))
    if found is None:
        raise ValueError(f"its {key} must be a list of numbers, not {attributes.get(key)!r}")
    return found


def _positions(
    file: h5py.File, channels: tuple[str, ...], axes: tuple[str, ...], shape: tuple[int, ...]
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Positions of points, as far as the file has them."""
    channels = channels or tuple(f"channel_{i}" for i in range(shape[0]))
    axes = axes or tuple(f"axis_{i}" for i in range(len(shape) - 1))
    found = {}
    for c, channel in enumerate(channels):
        for a, axis in enumerate(axes):
            try:
                positions = hdf5_objects.array(file, f"axes/{channel}/{axis}")
            except KeyError:
                continue
            if positions.dtype.kind not in "fiu":
                raise ValueError(f"axes/{channel}/{axis} must hold numbers, not {positions.dtype}")
            found[c, a] = positions.astype(np.float64).reshape(-1)
    return found


def require_known(data_may_differ: Collection[str]) -> None:
    """Refuse what cannot differ, because no file says it.

    Raises:
        ConfigError: something is none of the statements.
    """
    if isinstance(data_may_differ, str):
        raise ConfigError(f"data_may_differ must be a list, such as [{data_may_differ}], not {data_may_differ!r}.")
    requirements.require_known(data_may_differ, get_args(Statement), "data_may_differ")


def differences(data: Statements, other: Statements, accepted: Collection[str] = ()) -> dict[str, str]:
    """Find where two sets of statements contradict each other.

    Args:
        data: of the one.
        other: of the other.
        accepted: what may differ.

    Returns:
        Both values in words, by the name of the statement.
    """
    found = {key: words for key, words in _compared(data, other) if key not in accepted}
    if not {"spacing", "offsets"} & {*found, *accepted}:
        found |= _positions_apart(data, other)
    return found


def _compared(data: Statements, other: Statements) -> Iterator[tuple[str, str]]:
    if data.name and other.name and data.name != other.name:
        yield "name", f"it was made for solver {data.name!r}, not {other.name!r}"
    if data.dt is not None and other.dt is not None and not _same(data.dt, other.dt):
        yield "dt", f"its dt is {data.dt:.9g}, not {other.dt:.9g}{_multiple(data.dt, other.dt)}"
    for key in _TEXTS:
        ours, theirs = getattr(data, key), getattr(other, key)
        if ours and theirs and ours != theirs:
            yield key, f"its {key} are {_listed(ours)}, not {_listed(theirs)}"
    for key in ("spacing", "offsets"):
        ours, theirs = getattr(data, key), getattr(other, key)
        if ours.size and theirs.size and not _same(ours, theirs):
            yield key, f"its {key} is {_listed(ours)}, not {_listed(theirs)}"
    if data.mask is not None and other.mask is not None and not np.array_equal(data.mask, other.mask):
        yield "mask", f"its mask has values at {data.mask.sum()} of {data.mask.size} points, not at the same {other.mask.sum()}"


def _positions_apart(data: Statements, other: Statements) -> dict[str, str]:
    for place in sorted(data.positions.keys() & other.positions.keys()):
        ours, theirs = data.positions[place], other.positions[place]
        shift = 0.0 if data.from_origin and other.from_origin else ours[0] - theirs[0]
        if not _same(ours - shift, theirs):
            where = f"of channel {place[0]} along axis {place[1]}"
            return {"spacing": f"its points {where} are at {_ends(ours)}, not {_ends(theirs)}"}
    return {}


def _same(ours: Any, theirs: Any) -> bool:
    """Whether numbers are equal but for rounding."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return ours.size == theirs.size and min(ours.ndim, theirs.ndim) == 1 and _same(ours.ravel(), theirs.ravel())
    scale = np.abs(theirs).max(initial=0.0)
    return bool(np.allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING * scale))


def _multiple(ours: float, theirs: float) -> str:
    """What one time step is of the other, where it is a multiple."""
    steps = round(max(ours, theirs) / min(ours, theirs))
    if not _same(max(ours, theirs), steps * min(ours, theirs)):
        return ""
    if ours > theirs:
        return f" ({steps} steps of that)"
    return f" ({steps} of its steps)"


def _listed(values: Any) -> str:
    entries = [f"{value:.9g}" if isinstance(value, float) else str(value) for value in np.asarray(values).ravel().tolist()]
    return f"({', '.join(entries)})"


def _ends(positions: NDArray[np.float64]) -> str:
    if len(positions) < 3:
        return _listed(positions)
    return f"{positions[0]:.9g}, {positions[1]:.9g} ... {positions[-1]:.9g} ({len(positions)})"


def require_twin(twin: SolverSpec, spec: SolverSpec) -> None:
    """Raise unless a differentiable solver says the same of its step as the solver that it stands for, its name aside.

    Raises:
        ConfigError: it does not.
    """
    if twin.state_shape != spec.state_shape:
        return  # said by whoever hands it states
    found = differences(of_solver(twin), of_solver(spec), accepted=("name",))
    if found:
        raise ConfigError(
            f"differentiable_solver {twin.name!r} must take the same step as solver {spec.name!r}, but "
            f"{'; '.join(found.values())}: name a twin of the solver."
        )
