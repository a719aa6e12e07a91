"""Drivers written for Dakota: `driver params.in results.out`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from deepzero_sim.connectors.executable import ExecutableSolver
from deepzero_sim.connectors.formats import Content, Format
from deepzero_sim.connectors.formats.base import as_dtype, need_size
from deepzero_sim.connectors.formats.text import whole_lines
from deepzero_sim.connectors.specs import as_spec
from deepzero_sim.connectors.working_folder import ExternalFiles, Keep
from deepzero_sim.errors import ConfigError, ExitCodeError, UnreadableOutputError
from deepzero_sim.solver import Solver, SolverSpec
from deepzero_sim.types import Array

PARAMETERS, RESULTS = "params.in", "results.out"

#: Layouts of the parameters file.
ParametersFormat: TypeAlias = Literal["standard", "aprepro"]


class DakotaSolver(Solver):
    """A driver as Dakota's fork interface calls it, which computes one step.

    The variables of its parameters file are the values of the state, channel by channel, the last axis running fastest, and
    then the scenario parameters; its results file has a number for each value of the next state, in the same order. A results
    file that begins with `fail` is an :class:`ExitCodeError`: so a driver says what others say by their exit status.

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
            [{"path": RESULTS, "format": DakotaResults()}],
            external_input_files=external_input_files,
            timeout=timeout,
            environment=environment,
            keep=keep,
            kept_folder=kept_folder,
            at_once=at_once,
        )

    def step(self, states: Array, params: Array | None = None) -> Array:
        """Advance a batch, one run a state: see :meth:`ExecutableSolver.step`."""
        return self._solver.step(states, params)


class DakotaParameters(Format):
    """Dakota's parameters file.

    Args:
        spec: of the solver; variables are named after its channels and parameters.
        layout: `standard` or `aprepro`.

    Raises:
        ConfigError: there is no such layout.
    """

    def __init__(self, spec: SolverSpec, layout: ParametersFormat) -> None:
        if layout not in get_args(ParametersFormat):
            raise ConfigError(f"parameters_format must be one of {', '.join(get_args(ParametersFormat))}, not {layout!r}.")
        points = int(np.prod(spec.state_shape[1:]))
        channels = spec.channels or [f"u{channel + 1}" for channel in range(spec.state_shape[0])]
        functions = [f"{channel}_{point + 1}" for channel in channels for point in range(points)]
        write = _standard if layout == "standard" else _aprepro
        self._form = write([*functions, *spec.parameters], functions)

    def encode(self, values: Array) -> Content:
        return (self._form % tuple(values.ravel().tolist())).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        raise UnreadableOutputError("is a parameters file, which drivers only read")


def _standard(variables: Sequence[str], functions: Sequence[str]) -> str:
    """The standard layout, with a `%.16e` for every value."""
    lines = [(len(variables), "variables"), *(("%.16e", name) for name in variables), (len(functions), "functions")]
    lines += [(1, f"ASV_{place}:{name}") for place, name in enumerate(functions, 1)]
    lines += [(0, "derivative_variables"), (0, "analysis_components"), (1, "eval_id")]
    return "".join(f"{value:>46} {name}\n" if value != "%.16e" else f"{'%46.16e'} {name}\n" for value, name in lines)


def _aprepro(variables: Sequence[str], functions: Sequence[str]) -> str:
    """The layout of the pre-processor APREPRO, with a `%.16e` for every value."""
    lines = [("DAKOTA_VARS", len(variables)), *((name, "%.16e") for name in variables), ("DAKOTA_FNS", len(functions))]
    lines += [(f"ASV_{place}:{name}", 1) for place, name in enumerate(functions, 1)]
    lines += [("DAKOTA_DER_VARS", 0), ("DAKOTA_AN_COMPS", 0), ("DAKOTA_EVAL_ID", 1)]
    return "".join(f"{{ {name} = {value} }}\n" for name, value in lines)


class DakotaResults(Format):
    """Dakota's results file: a number a line, with a descriptor behind it if the driver likes."""

    def encode(self, values: Array) -> Content:
        return "".join(f"{value:.16e}\n" for value in values.ravel().tolist()).encode()

    def decode(self, content: bytes, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> Array:
        if content.lstrip()[:4].lower() == b"fail":
            raise ExitCodeError(f"says that the driver failed: {content.decode(errors='replace').strip()[:80]!r}")
        try:
            numbers = [word for line in whole_lines(content) for word in line.split()[:1]]
            values = np.array(numbers, dtype=np.float64)
        except ValueError as error:  # no text in UTF-8 is one, too
            raise UnreadableOutputError(f"is no list of numbers ({error})") from error
        need_size(values.size, int(np.prod(shape)), "numbers")
        return as_dtype(values.reshape(shape), dtype)
