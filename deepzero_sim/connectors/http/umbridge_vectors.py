"""The content of an UM-Bridge model's vectors, as settings name it: the protocol has no word for what its vectors mean.

`state` is all channels, `parameters` the row of all parameters; `{channels: [u]}`, `{parameter: nu}` and `{constant: [1.0]}`
name them piece by piece, and `ignore` is an output that is no part of the state. A list of these is one vector that has them
one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import yaml

from deepzero_sim.common.requirements import require
from deepzero_sim.common.types import Array, is_integer, is_number
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.connectors.spec_mapping import channel_places
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec

#: Content of a vector in settings.
Setting: TypeAlias = str | Mapping[str, Any] | Sequence[Any]

#: Most numbers of a constant that a suggested setting writes out.
LONGEST_EXAMPLE = 4


@dataclass(frozen=True)
class Piece:
    """A part of a vector.

    Args:
        channels: Places of the channels that it holds.
        parameters: Places of the parameters that it holds.
        constant: Numbers that are always the same.
        ignored: Count of numbers that are of no use here; -1 for all that there are.
    """

    channels: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    constant: tuple[float, ...] = ()
    ignored: int = 0

    def size(self, spec: SolverSpec) -> int | None:
        """Count its numbers; None for as many as there are."""
        if self.ignored < 0:
            return None
        points = math.prod(spec.state_shape[1:])
        return len(self.channels) * points + len(self.parameters) + len(self.constant) + self.ignored

    def values(self, state: Array, row: Array | None) -> Vector:
        """Return its numbers for one state `(C, *N)` and its parameters `(K,)` or None."""
        if self.channels:
            return np.asarray(state[list(self.channels)], np.float64).reshape(-1)
        if self.parameters:
            return np.asarray(row, np.float64)[list(self.parameters)]
        return np.array(self.constant, np.float64)


@dataclass(frozen=True)
class Vectors:
    """All vectors of a model's inputs, or of its outputs, each in its pieces."""

    pieces: tuple[tuple[Piece, ...], ...]
    spec: SolverSpec

    @property
    def sizes(self) -> list[int | None]:
        """Count of numbers of each vector; None for as many as there are."""
        return [_sum([piece.size(self.spec) for piece in vector]) for vector in self.pieces]

    def have_sizes(self, sizes: Any) -> bool:
        """Compare the sizes with those that a server reports."""
        if not isinstance(sizes, list) or len(sizes) != len(self.pieces) or not all(map(is_integer, sizes)):
            return False
        return all(expected in (None, size) for expected, size in zip(self.sizes, sizes, strict=True))

    def pack(self, state: Array, row: Array | None) -> list[Vector]:
        """Return the vectors for one state `(C, *N)` and its parameters `(K,)` or None."""
        return [np.concatenate([np.empty(0), *(piece.values(state, row) for piece in vector)]) for vector in self.pieces]

    def hold_state(self, number: int) -> bool:
        """Tell whether a vector has a part of the state."""
        return any(piece.channels for piece in self.pieces[number])

    def unpack(self, number: int, vector: Vector, state: Array) -> None:
        """Write the channels that a vector holds into a state `(C, *N)`; the vector has its size."""
        start = 0
        for piece in self.pieces[number]:
            end = start + (piece.size(self.spec) or 0)
            if piece.channels:
                state[list(piece.channels)] = vector[start:end].reshape(len(piece.channels), *self.spec.state_shape[1:])
            start = end


def input_vectors(given: Any, spec: SolverSpec) -> Vectors:
    """Read the inputs of a model from settings; by default the state, and the parameters if there are some."""
    fields: list[Setting] = [{"channels": list(spec.input_names)}] if spec.inputs else []
    default: list[Setting] = ["state", *fields, *(["parameters"] if spec.parameters else [])]
    vectors = Vectors(_pieces("inputs", default if given is None else given, spec), spec)
    pieces = [piece for vector in vectors.pieces for piece in vector]
    places = sorted(parameter for piece in pieces for parameter in piece.parameters)
    is_complete = places == list(range(len(spec.parameters)))
    require(is_complete, f"inputs must hold each of the parameters {', '.join(spec.parameters)} once", given)
    if any(piece.ignored for piece in pieces):
        raise ConfigError(f"inputs must not be ignored, as in {given!r}: give such an input a constant.")
    return vectors


def output_vectors(given: Any, spec: SolverSpec) -> Vectors:
    """Read the outputs of a model from settings; by default the state."""
    vectors = Vectors(_pieces("outputs", ["state"] if given is None else given, spec), spec)
    is_output = not any(piece.parameters or piece.constant for vector in vectors.pieces for piece in vector)
    require(is_output, "outputs must be of the state or ignore", given, "parameters and constants are inputs")
    return vectors


def _pieces(what: str, given: Any, spec: SolverSpec) -> tuple[tuple[Piece, ...], ...]:
    is_list = isinstance(given, list | tuple) and bool(given)
    require(is_list, f"{what} must be a list that says what each vector is, such as [state]", given)
    vectors = tuple(_vector(what, entry, spec) for entry in given)
    channels = sorted(channel for vector in vectors for piece in vector for channel in piece.channels)
    read = spec.input_names if what == "inputs" else ()
    expected = f"{what} must hold each of the {spec.state_shape[0]} channels once{_and_fields(read)}"
    is_complete = channels == list(range(spec.state_shape[0] + len(read)))
    require(is_complete, expected, given, "write state, or {channels: [...]} for each vector")
    return vectors


def _and_fields(names: Sequence[str]) -> str:
    return f", and {', '.join(names)}" if names else ""


def _vector(what: str, entry: Any, spec: SolverSpec) -> tuple[Piece, ...]:
    if not isinstance(entry, list | tuple):
        return (_piece(what, entry, spec),)
    pieces = tuple(_piece(what, piece, spec) for piece in entry)
    expected = f"{what}: within one vector, say how many numbers to ignore, {{ignore: 3}}"
    require(not any(piece.ignored < 0 for piece in pieces), expected, entry)
    return pieces


def _piece(what: str, entry: Any, spec: SolverSpec) -> Piece:
    whole = {"state": Piece(channels=tuple(range(spec.state_shape[0]))), "ignore": Piece(ignored=-1)}
    if spec.parameters:
        whole["parameters"] = Piece(parameters=tuple(range(len(spec.parameters))))
    if isinstance(entry, str) and entry in whole:
        return whole[entry]
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((key, value),) = entry.items()
        match key:
            case "channels":
                return Piece(channels=channel_places(value, spec, what, spec.input_names if what == "inputs" else ()))
            case "parameter" if isinstance(value, str) and value in spec.parameters:
                return Piece(parameters=(spec.parameters.index(value),))
            case "constant":
                return Piece(constant=_constant(what, value))
            case "ignore" if is_integer(value) and value > 0:
                return Piece(ignored=int(value))
    known = f"{', '.join(whole)}, {{channels: [...]}}, {{parameter: name}} of "
    known += f"{', '.join(spec.parameters) or 'the spec, which has none'}, {{constant: [...]}}, or a list of these"
    raise ConfigError(f"{what} must say what each vector is: {known}, not {entry!r}.")


def _constant(what: str, value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, list | tuple | np.ndarray) else [value]
    are_finite = all(is_number(number) and math.isfinite(number) for number in numbers)
    require(are_finite, f"{what}: a constant must be finite numbers", value)
    return tuple(map(float, numbers))


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def suggest_setting(what: str, sizes: Any, spec: SolverSpec) -> str:
    """Suggest the setting inputs or outputs for a server's sizes, as YAML; empty where none can be guessed."""
    if not isinstance(sizes, list) or not all(is_integer(size) for size in sizes):
        return ""
    channels, parameters = list(spec.channels or range(spec.state_shape[0])), list(spec.parameters) * (what == "inputs")
    vectors = [_guess(what, size, channels, parameters, spec) for size in sizes]
    if channels or parameters:
        return ""
    shown = yaml.safe_dump(vectors, default_flow_style=True, width=math.inf, allow_unicode=True).strip()
    return f"{what}: {shown}".replace("'...'", "...")


def _guess(what: str, size: int, channels: list[Any], parameters: list[str], spec: SolverSpec) -> Any:
    """Guess the content of one vector, and remove it from the channels and parameters that are left."""
    points = math.prod(spec.state_shape[1:])
    count = size // points
    if channels and size and size % points == 0 and count <= len(channels):
        first, channels[:] = channels[:count], channels[count:]
        return "state" if count == spec.state_shape[0] else {"channels": first}
    if parameters and size == 1:
        return {"parameter": parameters.pop(0)}
    if parameters and size == len(parameters) == len(spec.parameters):
        parameters.clear()
        return "parameters"
    return {"constant": [0.0] * size if size <= LONGEST_EXAMPLE else ["..."]} if what == "inputs" else "ignore"
