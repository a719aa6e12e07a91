"""What the vectors of an UM-Bridge model are: the protocol has lists of vectors, and no word for what they mean.

`state` is all channels, `parameters` the row of all parameters; `{channels: [u]}`, `{parameter: nu}` and `{constant: [1.0]}`
say it piece by piece, and `ignore` is an output that is no part of the state. A list of these is one vector that has them one
after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import yaml

from deepzero_sim.common.types import Array, is_integer, is_number
from deepzero_sim.connectors.http.json_values import Vector
from deepzero_sim.connectors.spec_mapping import channel_places
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import SolverSpec

#: A vector as settings have it.
Setting: TypeAlias = str | Mapping[str, Any] | Sequence[Any]

#: Numbers of a constant that an example shows.
SHOWN = 4


@dataclass(frozen=True)
class Piece:
    """A part of a vector.

    Args:
        channels: that it holds, by their places.
        parameters: that it holds, by their places.
        constant: numbers that are always the same.
        ignored: how many numbers are of no use here; -1 for all that there are.
    """

    channels: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    constant: tuple[float, ...] = ()
    ignored: int = 0

    def size(self, spec: SolverSpec) -> int | None:
        """Its numbers; None for as many as there are."""
        if self.ignored < 0:
            return None
        points = math.prod(spec.state_shape[1:])
        return len(self.channels) * points + len(self.parameters) + len(self.constant) + self.ignored

    def values(self, state: Array, row: Array | None) -> Vector:
        """Its numbers for one state `(C, *N)` and its parameters `(K,)` or None."""
        if self.channels:
            return np.asarray(state[list(self.channels)], np.float64).reshape(-1)
        if self.parameters:
            return np.asarray(row, np.float64)[list(self.parameters)]
        return np.array(self.constant, np.float64)


@dataclass(frozen=True)
class Vectors:
    """All vectors of a model's inputs, or of its outputs.

    Args:
        pieces: of each vector, in their order.
        spec: of the solver.
    """

    pieces: tuple[tuple[Piece, ...], ...]
    spec: SolverSpec

    @property
    def sizes(self) -> list[int | None]:
        """Numbers of each vector; None for as many as there are."""
        return [_sum([piece.size(self.spec) for piece in vector]) for vector in self.pieces]

    def fit(self, sizes: Any) -> bool:
        """Whether a server's vectors have these sizes."""
        if not isinstance(sizes, list) or len(sizes) != len(self.pieces) or not all(map(is_integer, sizes)):
            return False
        return all(wanted in (None, size) for wanted, size in zip(self.sizes, sizes, strict=True))

    def filled(self, state: Array, row: Array | None) -> list[Vector]:
        """The vectors for one state `(C, *N)` and its parameters `(K,)` or None."""
        return [np.concatenate([np.empty(0), *(piece.values(state, row) for piece in vector)]) for vector in self.pieces]

    def is_used(self, number: int) -> bool:
        """Whether a vector has a part of the state."""
        return any(piece.channels for piece in self.pieces[number])

    def put(self, number: int, vector: Vector, into: Array) -> None:
        """Put the channels that a vector holds into a state `(C, *N)`; the vector has its size."""
        start = 0
        for piece in self.pieces[number]:
            end = start + (piece.size(self.spec) or 0)
            if piece.channels:
                into[list(piece.channels)] = vector[start:end].reshape(len(piece.channels), *self.spec.state_shape[1:])
            start = end


def input_vectors(given: Any, spec: SolverSpec) -> Vectors:
    """The inputs of a model: where settings say nothing the state, and the parameters if there are some.

    Raises:
        ConfigError: the settings are not usable, or leave out a channel or a parameter.
    """
    usual: list[Setting] = ["state", "parameters"] if spec.parameters else ["state"]
    vectors = Vectors(_pieces("inputs", usual if given is None else given, spec), spec)
    held = [parameter for vector in vectors.pieces for piece in vector for parameter in piece.parameters]
    if sorted(held) != list(range(len(spec.parameters))):
        raise ConfigError(f"inputs must hold each of the parameters {', '.join(spec.parameters)} once, not {given!r}.")
    if any(piece.ignored for vector in vectors.pieces for piece in vector):
        raise ConfigError(f"inputs must not be ignored, as in {given!r}: give such an input a constant.")
    return vectors


def output_vectors(given: Any, spec: SolverSpec) -> Vectors:
    """The outputs of a model: where settings say nothing the state.

    Raises:
        ConfigError: the settings are not usable, or leave out a channel.
    """
    vectors = Vectors(_pieces("outputs", ["state"] if given is None else given, spec), spec)
    if any(piece.parameters or piece.constant for vector in vectors.pieces for piece in vector):
        raise ConfigError(f"outputs must be of the state or ignore, not {given!r}: parameters and constants are inputs.")
    return vectors


def _pieces(what: str, given: Any, spec: SolverSpec) -> tuple[tuple[Piece, ...], ...]:
    if not isinstance(given, list | tuple) or not given:
        raise ConfigError(f"{what} must be a list that says what each vector is, such as [state], not {given!r}.")
    vectors = tuple(_vector(what, entry, spec) for entry in given)
    held = sorted(channel for vector in vectors for piece in vector for channel in piece.channels)
    if held != list(range(spec.state_shape[0])):
        raise ConfigError(
            f"{what} must hold each of the {spec.state_shape[0]} channels once, not {given!r}: write state, or "
            "{channels: [...]} for each vector."
        )
    return vectors


def _vector(what: str, entry: Any, spec: SolverSpec) -> tuple[Piece, ...]:
    if not isinstance(entry, list | tuple):
        return (_piece(what, entry, spec),)
    pieces = tuple(_piece(what, piece, spec) for piece in entry)
    if any(piece.ignored < 0 for piece in pieces):
        raise ConfigError(f"{what}: within one vector, say how many numbers to ignore, {{ignore: 3}}, not {entry!r}.")
    return pieces


def _piece(what: str, entry: Any, spec: SolverSpec) -> Piece:
    named = {"state": Piece(channels=tuple(range(spec.state_shape[0]))), "ignore": Piece(ignored=-1)}
    if spec.parameters:
        named["parameters"] = Piece(parameters=tuple(range(len(spec.parameters))))
    if isinstance(entry, str) and entry in named:
        return named[entry]
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((key, value),) = entry.items()
        match key:
            case "channels":
                return Piece(channels=channel_places(value, spec, what))
            case "parameter" if isinstance(value, str) and value in spec.parameters:
                return Piece(parameters=(spec.parameters.index(value),))
            case "constant":
                return Piece(constant=_constant(what, value))
            case "ignore" if is_integer(value) and value > 0:
                return Piece(ignored=int(value))
    raise ConfigError(
        f"{what} must say what each vector is: {', '.join(named)}, {{channels: [...]}}, {{parameter: name}} of "
        f"{', '.join(spec.parameters) or 'the spec, which has none'}, {{constant: [...]}}, or a list of these, not {entry!r}."
    )


def _constant(what: str, value: Any) -> tuple[float, ...]:
    numbers = value if isinstance(value, list | tuple | np.ndarray) else [value]
    if not all(is_number(number) and math.isfinite(number) for number in numbers):
        raise ConfigError(f"{what}: a constant must be finite numbers, not {value!r}.")
    return tuple(map(float, numbers))


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def words_for(what: str, sizes: Any, spec: SolverSpec) -> str:
    """The setting that a server's sizes may ask for, as YAML; nothing where none can be guessed.

    Args:
        what: inputs or outputs.
        sizes: of the server's vectors.
        spec: of the solver.
    """
    if not isinstance(sizes, list) or not all(is_integer(size) for size in sizes):
        return ""
    channels, parameters = list(spec.channels or range(spec.state_shape[0])), list(spec.parameters) * (what == "inputs")
    vectors: list[Any] = []
    for size in sizes:
        vectors.append(_guessed(what, size, channels, parameters, spec))
    if channels or parameters:
        return ""
    shown = yaml.safe_dump(vectors, default_flow_style=True, width=math.inf, allow_unicode=True).strip()
    return f"{what}: {shown}".replace("'...'", "...")


def _guessed(what: str, size: int, channels: list[Any], parameters: list[str], spec: SolverSpec) -> Any:
    """What one vector may be, taken off what is left."""
    points = math.prod(spec.state_shape[1:])
    count = size // points
    if channels and size and size % points == 0 and count <= len(channels):
        taken, channels[:] = channels[:count], channels[count:]
        return "state" if count == spec.state_shape[0] else {"channels": taken}
    if parameters and size == 1:
        return {"parameter": parameters.pop(0)}
    if parameters and size == len(parameters) == len(spec.parameters):
        parameters.clear()
        return "parameters"
    return {"constant": [0.0] * size if size <= SHOWN else ["..."]} if what == "inputs" else "ignore"
