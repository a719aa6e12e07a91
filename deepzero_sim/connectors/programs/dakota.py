"""Drivers written for Dakota: `driver params.in results.out`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.formats import Content, Format
from deepzero_sim.connectors.formats.base import as_dtype, require_size
from deepzero_sim.connectors.formats.numbers import parse_number, parse_numbers
from deepzero_sim.connectors.programs.executable import ExecutableSolver
from deepzero_sim.connectors.programs.working_folder import ExternalFiles, Keep
from deepzero_sim.connectors.spec_mapping import as_spec
from deepzero_sim.errors import ConfigError, ExitCodeError, UnreadableOutputError
from deepzero_sim.solver.contract import Solver, SolverSpec

PARAMETERS, RESULTS = "params.in", "results.out"

#: What Dakota tells a driver besides its arguments.
ENVIRONMENT = {"DAKOTA_PARAMETERS_FILE": PARAMETERS, "DAKOTA_RESULTS_FILE": RESULTS}

#: Characters that a name cannot have in a parameters file: it would be another entry for those who read it.
OF_LAYOUTS = re.compile(r"[\s{}=\"']")

#: Words that are no label even where they are no number: it would be lost.
LIKE_A_NUMBER = re.compile(rb"[+-]?\.?\d|\*")

#: Layouts of the parameters file.
ParametersFormat: TypeAlias = Literal["standard", "aprepro"]


class DakotaSolver(Solver):
    """A driver as Dakota's fork interface calls it, which computes one step.

    The variables of its parameters file are the values of the state, channel by channel, the last axis running fastest, and
    then the scenario parameters; its results file has a number for each value of the next state, in the same order or with the
    functions' names behind the numbers. A results file that begins with `fail` is an :class:`ExitCodeError`: so a driver says
    what others say by their exit status.

    Args:
        spec: a SolverSpec, or a mapping of its fields.
        driver: the program, and arguments before the names of the two files if it is a list.
        parameters_format: `standard` or `aprepro`.
        external_input_files: files and folders that are copied into the folder that it runs in.
        timeout: seconds that one run may take.
        environment: variables beside those of this process.
        keep: which folders are kept: failures, never or always.
        kept_folder: where they are kept.
        at_once: runs at once in this process; as many as there are cores if None.

    Raises:
        ConfigError: the settings are not usable, or the driver is not there.
    """

    def __init__(
        self,
        spec: SolverSpec | Mapping[str, Any],
        driver: str | Sequence[str],
        *,
        parameters_format: ParametersFormat = "standard",
        external_input_files: ExternalFiles = (),
        timeout: float = 300.0,
        environment: Mapping[str, str | float] = {},
        keep: Keep = "failures",
        kept_folder: str | Path = "kept",
        at_once: int | None = None,
    ) -> None:
        self.spec = as_spec(spec)
        if not isinstance(driver, str | Sequence) or isinstance(driver, bytes):
            raise ConfigError(f"driver must be a program, or a list of one and its arguments, not {driver!r}.")
        words = [driver] if isinstance(driver, str) else list(driver)
        held: Literal["state", "all"] = "all" if self.spec.parameters else "state"
        self._solver = ExecutableSolver(
            self.spec,
            [*words, PARAMETERS, RESULTS],
            [{"path": PARAMETERS, "format": DakotaParameters(self.spec, parameters_format), "of": held}],
            [{"path": RESULTS, "format": DakotaResults(self.spec)}],
            external_input_files=external_input_files,
            timeout=timeout,
            environment={**ENVIRONMENT, **environment},
            keep=keep,
            kept_folder=kept_folder,
            at_once=at_once,
        )

    def step(self, states: Array, params: Array | None = None) -> Array:
        """Advance a batch, one run a state: see :meth:`ExecutableSolver.step`."""
        return self._solver.step(states, params)


class DakotaParameters(Format):
    """Dakota's parameters file, as Dakota 6 writes it, with one digit more, so that no bit of a number is lost.

    Args:
        spec: of the solver; variables are named after its channels and parameters.
        layout: `standard` or `aprepro`.

    Raises:
        ConfigError: there is no such layout, or names of the spec cannot stand in it.
    """

    def __init__(self, spec: SolverSpec, layout: ParametersFormat) -> None:
        if layout not in get_args(ParametersFormat):
            raise ConfigError(f"parameters_format must be one of {', '.join(get_args(ParametersFormat))}, not {layout!r}.")
        functions = _functions(spec.channels, spec.state_shape)
        variables = [*functions, *spec.parameters]
        _require_names(variables)
        entry = _standard if layout == "standard" else _aprepro
        self._form = "".join(entry(*line) for line in _entries(variables, functions))

    def encode(self, values: Array) -> Content:
        return (self._form % tuple(values.ravel().tolist())).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        raise UnreadableOutputError("is a parameters file, which drivers only read")


def _functions(channels: Sequence[str], shape: Sequence[int]) -> list[str]:
    """Names of the values of a state, as those of Dakota's functions."""
    named = channels or [f"u{channel + 1}" for channel in range(shape[0])]
    return [f"{channel}_{point + 1}" for channel in named for point in range(int(np.prod(shape[1:])))]


def _require_names(names: Sequence[str]) -> None:
    wrong = [name for name in names if not name or OF_LAYOUTS.search(name)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if wrong:
        raise ConfigError(f"channels and parameters must have no blanks, quotes, = or braces for Dakota, not {wrong[0]!r}.")
    if twice:
        raise ConfigError(f"channels and parameters must have names of their own for Dakota, but {twice[0]!r} is there twice.")


def _entries(variables: Sequence[str], functions: Sequence[str]) -> list[tuple[str, str, int | None]]:
    """Lines of a parameters file: the name in both layouts, which differ for counts, and the value, None for a variable's."""
    return [
        ("variables", "DAKOTA_VARS", len(variables)),
        *((name, name, None) for name in variables),
        ("functions", "DAKOTA_FNS", len(functions)),
        *((tag := f"ASV_{place}:{name}", tag, 1) for place, name in enumerate(functions, 1)),
        ("derivative_variables", "DAKOTA_DER_VARS", len(variables)),
        *((tag := f"DVV_{place}:{name}", tag, place) for place, name in enumerate(variables, 1)),
        ("analysis_components", "DAKOTA_AN_COMPS", 0),
        ("eval_id", "DAKOTA_EVAL_ID", 1),
        ("metadata", "DAKOTA_METADATA", 0),
    ]


def _standard(name: str, _: str, value: int | None) -> str:
    """A line of the standard layout, with `%.16e` for a variable's value."""
    shown = "%43.16e" if value is None else f"{value:>43}"
    return f"{shown} {name.replace('%', '%%')}\n"


def _aprepro(_: str, name: str, value: int | None) -> str:
    """A line for the pre-processor APREPRO, with `%.16e` for a variable's value."""
    shown = "%22.16e" if value is None else f"{value:>22}"
    return f"{' ' * 20}{{ {name.replace('%', '%%'):<15} = {shown} }}\n"


class DakotaResults(Format):
    """Dakota's results file: numbers, each with or without a label behind it, parted by any white space.

    Labels that are the names of all functions say which number is whose; others say nothing.

    Args:
        spec: of the solver; functions are named after its channels, as in the parameters file. Without it, they are those of
            channels without names.
    """

    def __init__(self, spec: SolverSpec | None = None) -> None:
        self._channels = () if spec is None else spec.channels

    def encode(self, values: Array) -> Content:
        return "".join(f"{value:.16e}\n" for value in values.ravel().tolist()).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        if content.lstrip()[:4].lower() == b"fail":
            raise ExitCodeError(f"says that the driver failed: {content.decode(errors='replace').strip()[:80]!r}")
        functions = [name.encode() for name in _functions(self._channels, shape)]
        values, labels = _values_and_labels(content, frozenset(functions))
        require_size(len(values), len(functions), "numbers")
        if any(labels):
            values = values[_order(labels, functions)]
        return as_dtype(values.reshape(shape), dtype)

    def largest(self, values: int) -> int:
        return 512 * values + 2**20  # labels may be long


def _values_and_labels(content: bytes, functions: frozenset[bytes]) -> tuple[Array, list[bytes | None]]:
    """The numbers of a results file, and the label behind each.

    Raises:
        UnreadableOutputError: it holds something else, or ends within a number.
    """
    words = content.split()
    need_whole = bool(words) and not content[-1:].isspace()
    labels: list[bytes | None] = [None] * len(words)
    try:
        values = parse_numbers(words)
    except ValueError:
        values, labels = _labelled(words, functions)
    if need_whole and labels[-1] is None:
        raise UnreadableOutputError("ends within a line: it is truncated, or its last line needs a line break")
    return values, labels


def _labelled(words: Sequence[bytes], functions: frozenset[bytes]) -> tuple[Array, list[bytes | None]]:
    """Tell numbers from labels; the names of functions are labels."""
    values: list[float] = []
    labels: list[bytes | None] = []
    for word in words:
        value = None if word in functions else _number_or_none(word)
        if value is not None:
            values.append(value)
            labels.append(None)
        elif values and labels[-1] is None and (word in functions or not LIKE_A_NUMBER.match(word)):
            labels[-1] = word
        else:
            raise UnreadableOutputError(_complaint(word, values))
    return np.array(values), labels


def _number_or_none(word: bytes) -> float | None:
    try:
        return parse_number(word)
    except ValueError as error:
        if word.startswith(b"["):
            raise UnreadableOutputError("holds gradients or Hessians, but only values are asked for") from error
        return None


def _complaint(word: bytes, values: Sequence[float]) -> str:
    """Say why a word cannot stand where it does, which is no number."""
    try:
        parse_number(word)
    except ValueError as error:
        return f"is no list of numbers with a label or none behind each: after {len(values)} of them, {error}"
    return f"is no list of numbers: the label {word.decode()!r} stands where one should be"


def _order(labels: Sequence[bytes | None], functions: Sequence[bytes]) -> NDArray[np.intp]:
    """Places of the functions' values in a results file.

    Raises:
        UnreadableOutputError: labels are names of functions, but not of all, or not in their order.
    """
    known = frozenset(functions)
    counts = Counter(label for label in labels if label in known)
    twice = [label.decode() for label, count in counts.items() if label is not None and count > 1]
    if twice:
        raise UnreadableOutputError(f"has the label {twice[0]!r} twice")
    wrong = next((place for place, label in enumerate(labels) if label in known and label != functions[place]), None)
    if wrong is None:
        return np.arange(len(functions))
    if len(counts) < len(functions):
        raise UnreadableOutputError(
            f"has the label {(labels[wrong] or b'').decode()!r} behind the number {wrong + 1}, which is that of "
            f"{functions[wrong].decode()!r}: label all numbers, or write them in the order of the functions"
        )
    places = {label: place for place, label in enumerate(labels)}
    return np.array([places[name] for name in functions])
