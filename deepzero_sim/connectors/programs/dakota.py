"""Drivers written for Dakota: `driver params.in results.out`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require, require_one_of, require_that
from deepzero_sim.common.types import Array
from deepzero_sim.connectors.formats.base import Content, Format, as_dtype, require_content, require_size
from deepzero_sim.connectors.formats.numbers import parse_number, parse_numbers
from deepzero_sim.connectors.programs.executable import ExecutableSolver
from deepzero_sim.connectors.programs.working_folder import ExternalFiles, Keep
from deepzero_sim.connectors.spec_mapping import as_spec
from deepzero_sim.errors import ExitCodeError, UnreadableOutputError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec

PARAMETERS, RESULTS = "params.in", "results.out"

#: Environment variables by which Dakota tells a driver what its arguments say.
ENVIRONMENT = {"DAKOTA_PARAMETERS_FILE": PARAMETERS, "DAKOTA_RESULTS_FILE": RESULTS}

#: Characters that a name cannot have in a parameters file, where they part entries.
SEPARATORS = re.compile(r"[\s{}=\"']")

#: Words that are no label even where they are no number, such as 1.0x or ***: the value would be lost.
NUMBER_LIKE = re.compile(rb"[+-]?\.?\d|\*")

#: Layouts of the parameters file.
ParametersFormat: TypeAlias = Literal["standard", "aprepro"]


class DakotaSolver(Solver):
    """A driver as Dakota's fork interface calls it, which computes one step.

    The variables of its parameters file are the values of the state, channel by channel, the last axis running fastest, and
    then the scenario parameters; its results file has a number for each value of the next state, in the same order or with the
    functions' names behind the numbers. A results file that begins with `fail` is an :class:`ExitCodeError`: it is to a
    driver what an exit status is to other programs.

    Args:
        spec: A SolverSpec, or a mapping of its fields.
        driver: Program, or a list of it and its arguments before the names of the two files.
        parameters_format: Layout of the parameters file, `standard` or `aprepro`.
        external_input_files: Files and folders that are copied into the folder that it runs in.
        timeout: Seconds that one run may take.
        environment: Variables besides those of this process.
        keep: Choice of the folders that are kept: failures, never or always.
        kept_folder: Folder that they are kept in; if None, `kept` in the folder of the training run, or `runs/kept` elsewhere.
        at_once: Runs at once in this process; as many as there are cores if None.

    Raises:
        ConfigError: The settings are not usable, or the driver is missing.
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
        kept_folder: str | Path | None = None,
        at_once: int | None = None,
    ) -> None:
        self.spec = as_spec(spec)
        usable = isinstance(driver, str | Sequence) and not isinstance(driver, bytes)
        require(usable, "driver must be a program, or a list of one and its arguments", driver)
        words = [driver] if isinstance(driver, str) else list(driver)
        subject = "all" if self.spec.parameters else "state"
        self._solver = ExecutableSolver(
            self.spec,
            [*words, PARAMETERS, RESULTS],
            [{"path": PARAMETERS, "format": DakotaParameters(self.spec, parameters_format), "of": subject}],
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
        spec: Spec of the solver; variables are named after its channels and parameters.
        layout: Name of the layout, `standard` or `aprepro`.
    """

    def __init__(self, spec: SolverSpec, layout: ParametersFormat) -> None:
        require_one_of(layout, get_args(ParametersFormat), "parameters_format")
        functions = _function_names(spec.channels, spec.state_shape)
        variables = [*functions, *spec.parameters]
        _require_names(variables)
        line = _standard_line if layout == "standard" else _aprepro_line
        self._form = "".join(line(*entry) for entry in _entries(variables, functions))

    def encode(self, values: Array) -> Content:
        return (self._form % tuple(values.ravel().tolist())).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        raise UnreadableOutputError("is a parameters file, which drivers only read")


def _function_names(channels: Sequence[str], shape: Sequence[int]) -> list[str]:
    """Name the values of a state, as those of Dakota's functions."""
    names = channels or [f"u{channel + 1}" for channel in range(shape[0])]
    return [f"{channel}_{point + 1}" for channel in names for point in range(int(np.prod(shape[1:])))]


def _require_names(names: Sequence[str]) -> None:
    for name in names:
        usable = bool(name) and not SEPARATORS.search(name)
        require(usable, "channels and parameters must have no blanks, quotes, = or braces for Dakota", name)
    for name, count in Counter(names).items():
        twice = f"channels and parameters must have names of their own for Dakota, but {name!r} is there twice."
        require_that(count == 1, twice)


def _entries(variables: Sequence[str], functions: Sequence[str]) -> list[tuple[str, str, int | None]]:
    """List the entries of a parameters file: the name in both layouts, which differ for counts, and the value, None for a
    variable's.
    """
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


def _standard_line(name: str, _: str, value: int | None) -> str:
    """Write a line of the standard layout, with `%.16e` for a variable's value."""
    shown = "%43.16e" if value is None else f"{value:>43}"
    return f"{shown} {name.replace('%', '%%')}\n"


def _aprepro_line(_: str, name: str, value: int | None) -> str:
    """Write a line for the pre-processor APREPRO, with `%.16e` for a variable's value."""
    shown = "%22.16e" if value is None else f"{value:>22}"
    return f"{' ' * 20}{{ {name.replace('%', '%%'):<15} = {shown} }}\n"


class DakotaResults(Format):
    """Dakota's results file: numbers, each with or without a label behind it, parted by any white space.

    Labels that are the names of all functions tell whose number is whose; other labels tell nothing.

    Args:
        spec: Spec of the solver; functions are named after its channels, as in the parameters file. Without it, they are those
            of channels without names.
    """

    def __init__(self, spec: SolverSpec | None = None) -> None:
        self._channels = () if spec is None else spec.channels

    def encode(self, values: Array) -> Content:
        return "".join(f"{value:.16e}\n" for value in values.ravel().tolist()).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        beginning = content.lstrip()[:400].decode(errors="replace").strip()[:80]
        well = not beginning.lower().startswith("fail")
        require_content(well, f"says that the driver failed: {beginning!r}", ExitCodeError)
        functions = [name.encode() for name in _function_names(self._channels, shape)]
        values, labels = _values_and_labels(content, frozenset(functions))
        require_size(len(values), len(functions), "numbers")
        if any(labels):
            values = values[_order(labels, functions)]
        return as_dtype(values.reshape(shape), dtype)

    def largest(self, values: int) -> int:
        return 512 * values + 2**20  # labels may be long


def _values_and_labels(content: bytes, functions: frozenset[bytes]) -> tuple[Array, list[bytes | None]]:
    """Parse the numbers of a results file, and the label behind each."""
    words = content.split()
    cut = bool(words) and not content[-1:].isspace()
    labels: list[bytes | None] = [None] * len(words)
    try:
        values = parse_numbers(words)
    except ValueError:
        values, labels = _parse_labelled(words, functions)
    complete = not (cut and labels[-1] is None)
    require_content(complete, "ends within a line: it is truncated, or its last line needs a line break")
    return values, labels


def _parse_labelled(words: Sequence[bytes], functions: frozenset[bytes]) -> tuple[Array, list[bytes | None]]:
    """Parse numbers and labels; the names of functions are labels."""
    values: list[float] = []
    labels: list[bytes | None] = []
    for word in words:
        value = None if word in functions else _number_or_none(word)
        if value is not None:
            values.append(value)
            labels.append(None)
        elif values and labels[-1] is None and (word in functions or not NUMBER_LIKE.match(word)):
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
    """Explain why a word cannot stand where it does."""
    try:
        parse_number(word)
    except ValueError as error:
        return f"is no list of numbers with a label or none behind each: after {len(values)} of them, {error}"
    return f"is no list of numbers: the label {word.decode()!r} stands where one should be"


def _order(labels: Sequence[bytes | None], functions: Sequence[bytes]) -> NDArray[np.intp]:
    """Find the places of the functions' values in a results file."""
    known = frozenset(functions)
    counts = Counter(label for label in labels if label in known)
    twice = [label.decode() for label, count in counts.items() if label is not None and count > 1]
    require_content(not twice, f"has the label {next(iter(twice), '')!r} twice")
    wrong = next((place for place, label in enumerate(labels) if label in known and label != functions[place]), None)
    if wrong is None:
        return np.arange(len(functions))
    require_content(
        len(counts) == len(functions),
        f"has the label {(labels[wrong] or b'').decode()!r} behind the number {wrong + 1}, which is that of "
        f"{functions[wrong].decode()!r}: label all numbers, or write them in the order of the functions",
    )
    places = {label: place for place, label in enumerate(labels)}
    return np.array([places[name] for name in functions])
