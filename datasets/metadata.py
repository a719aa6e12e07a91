"""Metadata of a file of trajectories, compared with those of a solver or of another file.

An entry that is empty, on either side, is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_known, require_that
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.times import ROUNDING, dt_of_file
from deepzero_sim.datasets.units import conversion, same_unit, with_amount
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.spec_values import default_names

_TEXTS = ("channels", "channel_units", "parameters", "parameter_units", "axes")


@dataclass(frozen=True, kw_only=True, eq=False)
class Metadata:
    """Metadata of states, as a solver or a file gives them: see :class:`deepzero_sim.SolverSpec` for most entries.

    Args:
        positions: Positions of every channel's points, by channel and axis.
        from_origin: True if positions tell where the first point lies, False if they tell only distances.
        dt_rounding: Amount that `dt` may be off because it was computed from rounded times.
        time_unit: Unit of `dt`.
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
    dt_rounding: float = 0.0
    time_unit: str = ""


def metadata_of_solver(spec: SolverSpec) -> Metadata:
    """Collect the metadata of a solver."""
    positions = {}
    if spec.spacing:
        places = np.ndindex(spec.state_shape[0], len(spec.state_shape) - 1)
        positions = {(c, a): spec.coordinates(c, a) for c, a in places}
    return Metadata(
        name=spec.name,
        dt=float(spec.dt),
        **{key: tuple(getattr(spec, key)) for key in _TEXTS},
        spacing=np.asarray(spec.spacing, dtype=np.float64),
        offsets=np.asarray(spec.offsets, dtype=np.float64),
        mask=spec.active(),
        positions=positions,
        from_origin=bool(spec.offsets),
        dt_rounding=0.0,
        time_unit=spec.time_unit,
    )


def metadata_of_file(file: h5py.File, mask: NDArray[np.bool_], spec: SolverSpec | None = None) -> Metadata:
    """Read the metadata of a file.

    Args:
        file: Open file.
        mask: Mask that it holds.
        spec: Spec whose names of channels and axes are looked for where the file gives none, as older ones do.

    Raises:
        ValueError: An entry is of another type, such as text for a number.
    """
    attributes = file.attrs
    names = {key: _texts(attributes, key) for key in _TEXTS}
    spacing, offsets = (_numbers(attributes, key) for key in ("spacing", "offsets"))
    channels, axes = (names[key] or (tuple(getattr(spec, key)) if spec else ()) for key in ("channels", "axes"))
    positions = _positions(file, channels, axes, mask.shape)
    dt, dt_rounding = dt_of_file(file)
    if not spacing.size and all((np.diff(points) == 1).all() for points in positions.values()):
        positions = {}  # places in the array, of a solver that names no spacing
    return Metadata(
        name=_text(attributes, "name"),
        dt=dt,
        **names,
        spacing=spacing,
        offsets=offsets,
        mask=mask,
        positions=positions,
        from_origin=bool(offsets.size) or "offsets" not in attributes,
        dt_rounding=dt_rounding,
        time_unit=_text(attributes, "time_unit"),
    )


def _text(attributes: Mapping[str, Any], key: str) -> str:
    value = attributes.get(key)
    text = hdf5_objects.text(value)
    is_text = text is not None or value is None or isinstance(value, h5py.Empty)
    hdf5_objects.require(is_text, f"its {key} must be text, not {value!r}")
    return text or ""


def _texts(attributes: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = hdf5_objects.texts(attributes.get(key))
    hdf5_objects.require(texts is not None, f"its {key} must be a list of names, not {attributes.get(key)!r}")
    return texts or ()


def _numbers(attributes: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    numbers = hdf5_objects.numbers(attributes.get(key))
    if numbers is None:
        raise ValueError(f"its {key} must be a list of numbers, not {attributes.get(key)!r}")
    return numbers


def _positions(
    file: h5py.File, channels: tuple[str, ...], axes: tuple[str, ...], shape: tuple[int, ...]
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Read the positions of points, as far as the file has them."""
    channels = channels or default_names("channel", shape[0])
    axes = axes or default_names("axis", len(shape) - 1)
    positions = {}
    for c, channel in enumerate(channels):
        for a, axis in enumerate(axes):
            try:
                points = hdf5_objects.array(file, f"axes/{channel}/{axis}")
            except KeyError:
                continue
            hdf5_objects.require(points.dtype.kind in "fiu", f"axes/{channel}/{axis} must hold numbers, not {points.dtype}")
            positions[c, a] = points.astype(np.float64).reshape(-1)
    return positions


def require_metadata_keys(data_may_differ: Collection[str]) -> None:
    """Refuse names that are not keys of metadata.

    Raises:
        ConfigError: A name is none of the keys, or the names are no list.
    """
    require_that(
        not isinstance(data_may_differ, str),
        f"data_may_differ must be a list, such as [{data_may_differ}], not {data_may_differ!r}.",
    )
    require_known(data_may_differ, get_args(MetadataKey), "data_may_differ")


def differences(data: Metadata, other: Metadata, accepted: Collection[str] = ()) -> dict[str, str]:
    """Find where metadata contradict each other.

    Args:
        data: Metadata that differences are told of.
        other: Metadata to compare them with.
        accepted: Keys that may differ.

    Returns:
        Both values in words, by key.
    """
    unequal = {key: words for key, words in _unequal_entries(data, other) if key not in accepted}
    if not {"spacing", "offsets"} & {*unequal, *accepted}:
        unequal |= _unequal_positions(data, other)
    return unequal


def _unequal_entries(data: Metadata, other: Metadata) -> Iterator[tuple[str, str]]:
    if data.name and other.name and data.name != other.name:
        yield "name", f"it was made for solver {data.name!r}, not {other.name!r}"
    if data.dt is not None and other.dt is not None:
        yield from _unequal_steps(data, other)
    for key in _TEXTS:
        ours, theirs = getattr(data, key), getattr(other, key)
        if ours and theirs and not _say_the_same(key, ours, theirs):
            yield key, f"its {key} are {_list(ours)}, not {_list(theirs)}"
    for key in ("spacing", "offsets"):
        ours, theirs = getattr(data, key), getattr(other, key)
        if ours.size and theirs.size and not _nearly_equal(ours, theirs):
            yield key, f"its {key} is {_list(ours)}, not {_list(theirs)}"
    if data.mask is not None and other.mask is not None and not np.array_equal(data.mask, other.mask):
        yield "mask", f"its mask has values at {data.mask.sum()} of {data.mask.size} points, not at the same {other.mask.sum()}"


def time_factor(data: Metadata, other: Metadata) -> float | None:
    """Return the factor from the unit of time of metadata to that of others: 1 if one names none, None if there is none."""
    if same_unit(data.time_unit, other.time_unit):
        return 1.0
    known = conversion(data.time_unit, other.time_unit)
    return None if known is None else known.factor


def _unequal_steps(data: Metadata, other: Metadata) -> Iterator[tuple[str, str]]:
    """Compare time steps, in the unit of the other where both name theirs."""
    assert data.dt is not None
    assert other.dt is not None
    factor = time_factor(data, other)
    rounding = data.dt_rounding * (factor or 1.0) + other.dt_rounding
    if factor is None or abs(data.dt * factor - other.dt) > 2 * ROUNDING * other.dt + rounding:
        units = [one.time_unit if data.time_unit and other.time_unit else "" for one in (data, other)]
        ours, theirs = (with_amount(f"{one.dt:.9g}", unit) for one, unit in zip((data, other), units, strict=True))
        yield "dt", f"its dt is {ours}, not {theirs}{'' if factor is None else _ratio(data.dt * factor, other.dt)}"


def _say_the_same(key: str, ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Tell lists of names that are equal, and lists of units that are up to their spelling."""
    if not key.endswith("_units") or len(ours) != len(theirs):
        return ours == theirs
    return all(same_unit(one, other) for one, other in zip(ours, theirs, strict=True))


def _unequal_positions(data: Metadata, other: Metadata) -> dict[str, str]:
    for place in sorted(data.positions.keys() & other.positions.keys()):
        ours, theirs = data.positions[place], other.positions[place]
        shift = 0.0 if data.from_origin and other.from_origin else ours[0] - theirs[0]
        if not _nearly_equal(ours - shift, theirs):
            where = f"of channel {place[0]} along axis {place[1]}"
            return {"spacing": f"its points {where} are at {_ends(ours)}, not {_ends(theirs)}"}
    return {}


def _nearly_equal(ours: Any, theirs: Any) -> bool:
    """Tell whether numbers are equal up to rounding."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return ours.size == theirs.size and min(ours.ndim, theirs.ndim) == 1 and _nearly_equal(ours.ravel(), theirs.ravel())
    scale = np.abs(theirs).max(initial=0.0)
    return bool(np.allclose(ours, theirs, rtol=ROUNDING, atol=ROUNDING * scale))


def _ratio(ours: float, theirs: float) -> str:
    """Write the ratio of two time steps where it is a whole number."""
    steps = round(max(ours, theirs) / min(ours, theirs))
    if not _nearly_equal(max(ours, theirs), steps * min(ours, theirs)):
        return ""
    if ours > theirs:
        return f" ({steps} steps of that)"
    return f" ({steps} of its steps)"


def _list(values: Any) -> str:
    entries = [f"{value:.9g}" if isinstance(value, float) else str(value) for value in np.asarray(values).ravel().tolist()]
    return f"({', '.join(entries)})"


def _ends(positions: NDArray[np.float64]) -> str:
    if len(positions) < 3:
        return _list(positions)
    return f"{positions[0]:.9g}, {positions[1]:.9g} ... {positions[-1]:.9g} ({len(positions)})"


def require_twin(twin: SolverSpec, spec: SolverSpec) -> None:
    """Refuse a differentiable solver whose metadata differ from those of the solver that it stands for, its name aside.

    Raises:
        ConfigError: They differ.
    """
    if twin.state_shape != spec.state_shape:
        return  # refused where it is given states
    found = differences(metadata_of_solver(twin), metadata_of_solver(spec), accepted=("name",))
    require_that(
        not found,
        f"differentiable_solver {twin.name!r} must take the same step as solver {spec.name!r}, but "
        f"{'; '.join(found.values())}: name a twin of the solver.",
    )
