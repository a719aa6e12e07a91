"""Settings of `deepzero-sim init`: settings files to begin with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Rule, Settings
from deepzero_sim.common.types import is_integer
from deepzero_sim.datasets.source import Source

#: Kinds of what a user begins with.
Kind: TypeAlias = Literal["program", "python", "data"]

#: Formats of files of programs that need no options.
ProgramFormat: TypeAlias = Literal["npy", "raw", "fortran", "text"]

#: A file of a program: its path, or a mapping as the connector takes it.
ProgramFile: TypeAlias = str | dict[str, Any] | None

Shape: TypeAlias = Annotated[
    list[int] | None,
    Rule(
        lambda shape: len(shape) >= 2 and all(is_integer(length) and 1 <= length < 2**31 for length in shape),
        "the number of channels and the points along each axis, such as [2, 64, 64]",
    ),
]
_Step: TypeAlias = Annotated[float | None, Rule(lambda dt: 0 < dt < math.inf, "a positive number")]
_Folder: TypeAlias = Annotated[
    Path, Rule(lambda folder: str(folder).isprintable(), "a path of letters that can be printed, without line breaks")
]


@dataclass
class InitSettings(Settings):
    """Settings files to begin with. What is missing is asked for at a terminal.

    Args:
        kind: Kind of what you have: program, python (a solver in Python), or data.
        folder: Folder that the files are written to; no file is replaced.
        command: Program and its arguments (program): ./burgers 32 {{ params.nu }}.
        input: File that the program reads the state from (program), if no template has it; a path, or keys as inputs have them:
            {path: u.csv, format: text, delimiter: ",", header: [u]}.
        output: File that the program leaves the next state in (program); a path, or keys as outputs have them: {path: v.txt,
            format: text, skiprows: 2, usecols: [1]}.
        params_input: File that the program reads the parameters from, in a line (program), if no template has them; a path, or
            keys.
        format: Format of files that say none of their own (program): npy, raw (plain doubles), fortran (unformatted records),
            or text.
        state_shape: Number of channels of a state, and points along each axis (program): [1, 32].
        dt: Length of one step in the solver's unit of time (program).
        channels: Names of the channels (program): [density, momentum].
        channel_units: Units of the channels (program): [kg/m^3, kg/m^2/s]. Reports name them, and compare channels by them.
        axes: Names of the axes (program): [x, y]. Figures name them; "axis 0 (index)" without.
        spacing: Distances of points along the axes (program): [0.1, 0.1].
        offsets: Places of each channel's first point along the axes, in units of the spacing (program): [[0.5, 0.5]], one row a
            channel; 0.5 for centres of cells, 0 for nodes. With a reference, its grid tells which.
        parameters: Names of scenario parameters (program): [nu]; if none are given, those that command and templates have as
            {{ params.nu }}.
        template: Input deck with placeholders such as {{ params.nu }}, of jinja2 (program): deck.txt.j2 becomes deck.txt.
        templates: More of them (program): [mesh.txt.j2, start.txt.j2].
        values: Values of placeholders that are no parameters (program): {points: 32} for {{ values.points }}.
        namelist: Fortran namelist whose entries of the parameters' names are filled in (program).
        external_input_files: Files and folders that the program reads besides, as they are (program): [mesh.msh, tables].
        solver: Solver in Python, as file.py:Name or an import path (python; with data, the solver that they are for).
        args: Keyword arguments of the Python solver: {points: 32}.
        data: Data (data): a path, or a path with keys that say more of it.
        reference_command: Command of the reference, the solver whose states are taken for true (program); the same if none is
            given.
        reference_shape: Shape of the reference's states, a finer grid (program); without it no data can be generated.
        reference_values: Values of placeholders that differ in the reference (program): {points: 256}.
        reference_args: Keyword arguments that differ in the reference, the same solver on a finer grid (python): {points: 256}.
        params: Values of the parameters, one row a simulation: [[0.001], [0.002], [0.003]]. The last one is for the test.
        initial: Function of yours that makes initial states, as file.py:name (program, python); states.py has one if none is
            given.
        periodic: True if the domain is periodic, for the padding of the network.
    """

    kind: Kind | None = None
    folder: _Folder = Path()
    command: str | None = None
    input: ProgramFile = None
    output: ProgramFile = None
    params_input: ProgramFile = None
    format: ProgramFormat | None = None
    state_shape: Shape = None
    dt: _Step = None
    channels: list[str] = field(default_factory=list)
    channel_units: list[str] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    offsets: list[list[float]] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    template: Path | None = None
    templates: list[Path] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    namelist: Path | None = None
    external_input_files: list[str] = field(default_factory=list)
    solver: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    data: Source | None = None
    reference_command: str | None = None
    reference_shape: Shape = None
    reference_values: dict[str, Any] = field(default_factory=dict)
    reference_args: dict[str, Any] = field(default_factory=dict)
    params: list[list[float]] = field(default_factory=list)
    initial: str | None = None
    periodic: bool = False


COMMANDS = {"init": Command(InitSettings, "init.run", positional="kind")}
