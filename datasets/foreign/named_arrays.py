"""Arrays that have names but no axes: members of .npz files, MATLAB's variables, datasets of HDF5.

What an array is, its name says (`times`, `params`, `x`, `mask`), or its shape: single numbers, and lists of one for each
simulation, are scenario parameters, all others are fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.foreign.content import Content, left_out, shorten
from deepzero_sim.datasets.foreign.named_axes import possible_counts, roles_by_length, roles_by_name
from deepzero_sim.datasets.foreign.named_parameters import is_list, is_number, read_parameters
from deepzero_sim.datasets.foreign.options import CHANNEL, SIMULATION, TIME, ReadingOptions
from deepzero_sim.datasets.foreign.variables import Source, Variable, is_numeric

#: Names, in small letters, of lists that are positions along an axis, though not of one that is found by its name.
_PLACES = {"lat", "latitude", "lon", "longitude", "lev", "level", "depth", "height", "altitude", "r", "theta", "phi"}

#: What arrays are called that are no fields.
_TIMES = ("times", "time", "t", "t_coordinate", "t-coordinate")
_PARAMS = ("params", "parameters")
_POSITIONS = {"x": "x", "y": "y", "z": "z", **{f"{a}{end}": a for a in "xyz" for end in ("_coordinate", "-coordinate")}}
_CHANNELS, _PARAMETER_NAMES, _MASK, _DT = ("channels", "channel_names"), ("parameter_names", "param_names"), ("mask",), ("dt",)


def arrange(name: str, arrays: Mapping[str, Source], options: ReadingOptions, has_names: bool = True) -> Content:
    """Find out what each of a file's arrays is.

    Args:
        name: Name of the file, for messages.
        arrays: Its arrays, by name.
        options: Options of the user.
        has_names: False for a single array whose name is only that of the file, so that the user may give it one.

    Raises:
        DataError: That cannot be told; the message says which option tells it.
    """
    asked = [channel for channel in options.channel_names if channel not in arrays]
    if not has_names and CHANNEL not in options.axes and len(asked) == 1:
        arrays = {asked[0]: next(iter(arrays.values()))}
    return _Arranger(name, arrays, options).arrange()


class _Arranger:
    """Names, shapes and options of one file."""

    def __init__(self, name: str, arrays: Mapping[str, Source], options: ReadingOptions) -> None:
        self.name, self.arrays, self.options = name, arrays, options
        self.taken: set[str] = set()

    def arrange(self) -> Content:
        """Sort the arrays, and find the roles of the fields' axes."""
        times = self._vector(_TIMES)
        positions = {axis: self._vector([key]) for key, axis in _POSITIONS.items() if key in self.arrays}
        params, mask = self._whole(_PARAMS), self._whole(_MASK)
        channels, parameter_names = self._texts(_CHANNELS), self._texts(_PARAMETER_NAMES)
        fields = self._fields()
        lengths = {axis: len(values) for axis, values in positions.items() if values is not None}
        known = {
            TIME: None if times is None else len(times),
            SIMULATION: len(params) if params is not None and params.ndim == 2 else None,
            CHANNEL: len(channels) or None,
            **lengths,
        }
        roles = self._roles(fields, {role: length for role, length in known.items() if length})
        variables = [self._variable(key, roles[key], channels, len(fields)) for key in fields]
        axes = tuple(role for role in roles[fields[0]] if role not in {SIMULATION, TIME, CHANNEL})
        table = self._parameters(params, parameter_names, any(SIMULATION in v.roles for v in variables))
        single, notes = read_parameters(self._others(fields), variables, set(table))
        self.taken |= set(single)
        content = Content(
            name=self.name,
            variables=variables,
            axes=axes,
            times=self._all_times(times, variables),
            coordinates={axis: values for axis, values in positions.items() if values is not None and axis in axes},
            parameters={**table, **single},
            notes=[*self._note_simulations(variables, known), *notes],
        )
        self._compare_step(content)
        if mask is not None:
            content.masks = self._masks(mask, content)
        unused = sorted(set(self.arrays) - self.taken - set(fields))
        if unused:
            content.notes.append(f"{left_out(unused)}.")
        return content

    def _note_simulations(self, variables: list[Variable], known: Mapping[str, int | None]) -> list[str]:
        """Say that an axis is taken for that of simulations, if only the lengths of the others tell."""
        first = variables[0]
        if self.options.axes or known[SIMULATION] or SIMULATION not in first.roles or self._operator_roles([first.name]):
            return []
        others = " and ".join(role for role in first.roles if role != SIMULATION)
        return [
            f"The axis of length {first.length(SIMULATION)} is taken for that of simulations, as the others have the lengths "
            f"of {others}: name all of them by axes if it is something else."
        ]

    def _find(self, names: Sequence[str]) -> str | None:
        wanted = {*self.options.channel_names}
        return next((name for name in names if name in self.arrays and name not in wanted), None)

    def _whole(self, names: Sequence[str]) -> NDArray[Any] | None:
        """Read an array that is small by its nature."""
        name = self._find(names)
        if name is None:
            return None
        source = self.arrays[name]
        self.taken.add(name)
        require_data(is_numeric(source.dtype), f"{name} of {self.name} must hold numbers, not {source.dtype}.")
        return source.read((slice(None),) * len(source.shape))

    def _vector(self, names: Sequence[str]) -> NDArray[Any] | None:
        """Read a list of numbers, also one that is a row or a column, as all lists of MATLAB are."""
        values = self._whole(names)
        if values is None:
            return None
        require_data(
            values.size == max(values.shape, default=1),
            f"{self._find(names)} of {self.name} must be a list of numbers, not of shape {values.shape}.",
        )
        return values.reshape(-1)

    def _texts(self, names: Sequence[str]) -> list[str]:
        name = self._find(names)
        if name is None or self.arrays[name].dtype.kind not in "US":
            return []
        self.taken.add(name)
        values = self.arrays[name].read((slice(None),) * len(self.arrays[name].shape))
        return [str(entry.decode() if isinstance(entry, bytes) else entry).strip() for entry in values.reshape(-1)]

    def _fields(self) -> list[str]:
        """Find the fields: those that the user chose, else all arrays of numbers that are nothing else, of one shape."""
        wanted = [name for name in self.options.channel_names if name in self.arrays]
        if wanted:
            return wanted if len(wanted) == len(self.options.channel_names) else self._with_others_like(wanted)
        special = {*self.taken, *_DT}
        found = {n: a for n, a in self.arrays.items() if n not in special and is_numeric(a.dtype) and len(a.shape) >= 2}
        found = {n: a for n, a in found.items() if not (is_number(a) or is_list(a))} or found
        rank = max((len(array.shape) for array in found.values()), default=0)
        fields = [name for name, array in found.items() if len(array.shape) == rank and 0 not in array.shape]
        require_data(
            bool(fields),
            f"{self.name} holds no field of numbers: it has {_list(self.arrays)}: check the path, or write arrays.",
        )
        shapes = {self.arrays[field].shape for field in fields}
        require_data(
            len(shapes) == 1,
            f"{self.name} holds several fields of different shapes, {_list({field: self.arrays[field] for field in fields})}: "
            "choose by channels.",
        )
        return fields

    def _with_others_like(self, wanted: list[str]) -> list[str]:
        """Add the other fields of that shape where a chosen channel is not there, so that a message lists them."""
        shape, known = self.arrays[wanted[0]].shape, {*self.taken, *_DT, *wanted}
        others = [name for name, array in self.arrays.items() if name not in known and array.shape == shape]
        return [*wanted, *(name for name in others if is_numeric(self.arrays[name].dtype))]

    def _roles(self, fields: list[str], known: dict[str, int]) -> dict[str, tuple[str, ...]]:
        """Find the roles of the axes of every field."""
        shapes, given = {field: self.arrays[field].shape for field in fields}, tuple(self.options.axes)
        if given:
            chosen = all(field in self.options.channel_names for field in fields)
            return roles_by_name(shapes, given, chosen, self.name)
        pushed = self._operator_roles(fields)
        if pushed:
            return dict.fromkeys(fields, pushed)
        lists = {name: max(array.shape) for name, array in self._others(fields).items() if is_list(array)}
        places = {name: length for name, length in lists.items() if name.lower() in _PLACES}
        counts = possible_counts(shapes, lists, places)
        space = self.options.space
        return {field: roles_by_length(field, shape, known, counts, self.name, space) for field, shape in shapes.items()}

    def _others(self, fields: list[str]) -> dict[str, Source]:
        """Return the arrays of numbers that are neither fields nor anything that their names say."""
        known = {*self.taken, *fields, *_DT}
        return {name: array for name, array in self.arrays.items() if name not in known and is_numeric(array.dtype)}

    def _operator_roles(self, fields: list[str]) -> tuple[str, ...] | None:
        """Tell the layout of operator learning: `u` (N, X, .., T), and `a` (N, X, ..), what it starts from."""
        start, times = self.arrays.get("a"), self._find(_TIMES)
        if fields != ["u"] or start is None or times is None:
            return None
        shape = self.arrays["u"].shape
        is_it = start.shape == shape[:-1] and shape[-1] == max(self.arrays[times].shape, default=1)
        return (SIMULATION, *("x", "y", "z")[: len(shape) - 2], TIME) if is_it and len(shape) in {3, 4, 5} else None

    def _variable(self, name: str, roles: tuple[str, ...], channels: list[str], fields: int) -> Variable:
        source = self.arrays[name]
        if CHANNEL not in roles:
            return Variable(name, source, roles)
        count = source.shape[roles.index(CHANNEL)]
        asked = [channel for channel in self.options.channel_names if channel not in self.arrays]
        if len(channels) == count:
            components = tuple(channels)
        elif len(asked) == count and fields == 1:
            components = tuple(asked)
        else:
            components = tuple(f"channel_{i}" if fields == 1 else f"{name}_{i}" for i in range(count))
        return Variable(name, source, roles, components)

    def _all_times(self, times: NDArray[Any] | None, variables: list[Variable]) -> NDArray[Any] | None:
        """Return the times, or count them from the time between frames, if the file has that."""
        dt = self._vector(_DT)
        length = next((v.length(TIME) for v in variables if not v.is_constant), None)
        if times is not None or dt is None or length is None:
            return times
        require_data(
            dt.size == 1 and dt.dtype.kind in "fiu" and bool(dt[0] > 0),
            f"dt of {self.name} must be a positive number, not {dt}: correct it, or take it away.",
        )
        return np.arange(length) * float(dt[0])

    def _compare_step(self, content: Content) -> None:
        """Say that a file's dt is not the distance of its times: it may be a step of the program that made it."""
        dt, times = self._vector(_DT), content.times
        if dt is None or times is None or dt.dtype.kind not in "fiu" or times.dtype.kind not in "fiu":
            return
        if dt.size != 1 or not np.allclose(np.diff(times.astype(np.float64)), dt[0], rtol=1e-3, atol=0.0):
            content.notes.append(
                f"dt of {self.name} ({shorten(list(map(str, dt)))}) is not the distance of its times: left out."
            )

    def _parameters(self, params: NDArray[Any] | None, names: list[str], has_simulations: bool) -> dict[str, NDArray[Any]]:
        """Read parameters `(S, K)`; a list is one of all simulations, or all of one simulation."""
        if params is None:
            return {}
        require_data(params.ndim <= 2, f"params of {self.name} must be (S, K), simulations by parameters, not {params.shape}.")
        table = params if params.ndim == 2 else params.reshape((-1, 1) if has_simulations else (1, -1))
        asked = list(self.options.parameter_names or {})
        if len(names) != table.shape[1]:
            names = asked if len(asked) == table.shape[1] else [f"param_{i}" for i in range(table.shape[1])]
        return {name: table[:, column] for column, name in enumerate(names)}

    def _masks(self, mask: NDArray[Any], content: Content) -> dict[str, NDArray[np.bool_]]:
        """Read a mask of the grid, or one for each channel."""
        is_flags = mask.dtype.kind in "biuf" and bool(np.isin(mask, (0, 1)).all())
        require_data(is_flags, f"the mask of {self.name} must hold 1 where fields have values and 0 elsewhere.")
        if mask.ndim == len(content.axes):
            return {"": mask != 0}
        channels = [channel for variable in content.variables for channel in variable.channels]
        require_data(
            mask.ndim == len(content.axes) + 1 and len(mask) == len(channels),
            f"the mask of {self.name} has shape {mask.shape}, expected that of the grid, or one for each of {len(channels)} "
            "channels.",
        )
        return dict(zip(channels, mask != 0, strict=True))


def _list(arrays: Mapping[str, Source]) -> str:
    """List arrays with their shapes, for a message."""
    return shorten([f"{name} {array.shape}" for name, array in arrays.items()]) or "nothing"
