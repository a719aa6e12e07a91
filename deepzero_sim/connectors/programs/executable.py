"""A solver that is a program: files in, files out, one run a step."""

from __future__ import annotations

import errno
import os
import resource
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.common.machine import core_count
from deepzero_sim.common.requirements import did_you_mean, require, require_flag, require_that, require_timeout
from deepzero_sim.common.types import Array, is_integer
from deepzero_sim.connectors.formats.base import Content
from deepzero_sim.connectors.per_state import MOST_AT_ONCE, PerStateCaller
from deepzero_sim.connectors.programs.array_files import ArrayFile, input_files, output_files
from deepzero_sim.connectors.programs.command import Command
from deepzero_sim.connectors.programs.failures import complete_message, failure_at_end, or_disk_full
from deepzero_sim.connectors.programs.namelists.deck import Namelists, read_namelists
from deepzero_sim.connectors.programs.paths import inner_path, read_output
from deepzero_sim.connectors.programs.processes import Invocation, ProgramRunner
from deepzero_sim.connectors.programs.program_output import ProgramOutput
from deepzero_sim.connectors.programs.templates import Plain, Template, Values, read_templates, require_values, try_out
from deepzero_sim.connectors.programs.working_folder import ExternalFiles, Keep, WorkingFolders, list_external_files, write_new
from deepzero_sim.connectors.spec_mapping import as_spec
from deepzero_sim.errors import (
    ConfigError,
    MissingOutputError,
    NonFiniteError,
    SolverCrashError,
    SolverError,
    StatesFailedError,
    WorkingFolderError,
)
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import take_with_inputs, with_same_inputs
from deepzero_sim.solver.validation import check_call

#: Files that are open for one run: two for its output, what tells its end, and a few for a moment. And all others.
OPEN_A_RUN, OTHERS_OPEN = 3, 32


class ExecutableSolver(Solver):
    """Any program that reads a state from files and leaves the next one in files. It is run once a state, in a fresh folder.

    The folder is filled with the external files, templates and namelists with numbers in them, and the inputs; the program is
    started in it, without a shell; its outputs are read, and the folder is removed. What the program started ends with it.

    Args:
        spec: A SolverSpec, or a mapping of its fields.
        command: Program and its arguments, `[./solver, in.npy, out.npy]`. A program with a slash in it is a path from the
            current folder; any other is looked for in `PATH`. Arguments may hold placeholders, `"{{ params.nu }}"`.
        inputs: Files to be written, each a mapping: `path` in the working folder; `format`: npy, raw, fortran, text, hdf5,
            openfoam, or a `Format` of your own by its import path or as `file.py:Name`; `channels` that the file has, those of
            the state if left out, by their names, those of the spec's inputs among them; `of`: state (if left out), params, or
            all, which is one row of both; `channel_axis`: first (if left out), last or none; and the options of the format. May
            be left out if templates or arguments hand over the `state`, behind whose channels the spec's inputs lie.
        outputs: Files to be read, in the same way. Together they have every channel of the state once.
        external_input_files: Files and folders that are copied into the folder: a list, or a mapping from paths there.
        external_input_links: Files and folders that are linked rather than copied: large ones that the program only reads.
        external_output_files: More files that the program must leave.
        templates: Templates for jinja2 by the paths that they are filled in to. They see `params`, `spec`, `dt`, `state` and
            `values`.
        namelists: Fortran namelists by the paths that they are written to: `file`, the base, and `values` by group and name.
        stdin: Path of a file in the folder that the program reads as its standard input: one of the above; nothing if None.
        values: Numbers and words of your own by their names, which templates, namelists and arguments see as `values.name`: one
            template then serves a coarse solver and a fine one.
        timeout: Seconds that one run may take.
        allowed_return_codes: Exit statuses that do not mean failure.
        environment: Variables besides those of this process.
        keep: Choice of the folders that are kept: failures, never or always. Never more than 20.
        kept_folder: Folder that they are kept in; if None, `kept` in the folder of the training run, or `runs/kept` elsewhere.
        at_once: Runs at once in this process, at most; as many as there are cores if None.
        batched: True if one run advances a whole batch: arrays then have the axis of the batch in front.

    Raises:
        ConfigError: The settings are not usable, or a program or file is missing.
        MissingExtraError: Templates need jinja2, namelists f90nml, and it is not installed.
    """

    def __init__(  # noqa: PLR0913 - each is a word of the settings
        self,
        spec: SolverSpec | Mapping[str, Any],
        command: Sequence[str],
        inputs: Sequence[Mapping[str, Any]] = (),
        outputs: Sequence[Mapping[str, Any]] = (),
        *,
        external_input_files: ExternalFiles = (),
        external_input_links: ExternalFiles = (),
        external_output_files: Sequence[str] = (),
        templates: Mapping[str, str | Path] = {},
        namelists: Mapping[str, Mapping[str, Any]] = {},
        stdin: str | None = None,
        values: Mapping[str, Plain] = {},
        timeout: float = 300.0,
        allowed_return_codes: Sequence[int] = (0,),
        environment: Mapping[str, str | float] = {},
        keep: Keep = "failures",
        kept_folder: str | Path | None = None,
        at_once: int | None = None,
        batched: bool = False,
    ) -> None:
        needed = "ExecutableSolver needs Linux or macOS, where all that a program starts can be ended with it."
        require_that(os.name == "posix", needed)
        require_flag(batched, "batched")
        self.spec = as_spec(spec)
        self._command = Command(command, environment)
        self._inputs = input_files(inputs, self.spec, batched)
        self._outputs = output_files(outputs, self.spec, batched)
        self._external_outputs = _require_paths(external_output_files, "external_output_files")
        self._values = require_values(values)
        self._decks: tuple[Template | Namelists, ...] = (*read_templates(templates), *read_namelists(namelists))
        for render in (self._command.words, *(deck.render for deck in self._decks)):
            try_out(render, self.spec, self._values, batched)
        written = bool(self._inputs or self._decks or self._command.has_placeholders)
        require_that(written, "inputs must name a file that the state is written to, or a template must write it, not nothing.")
        _require_inputs_written(self.spec, self._inputs, by_template=bool(self._decks or self._command.has_placeholders))
        copies = list_external_files(external_input_files, "external_input_files")
        links = list_external_files(external_input_links, "external_input_links")
        paths = [file.path for file in (*self._inputs, *self._decks)]
        self._folders = WorkingFolders(self.spec.name, copies, links, paths, keep, kept_folder)
        there = [*paths, *(file.path for file in (*copies, *links))]
        self._stdin = None if stdin is None else _require_stdin(stdin, there)
        self._command.require_reachable_files({*there, *self._external_outputs, *(file.path for file in self._outputs)})
        self._timeout = require_timeout(timeout)
        self._return_codes = _require_return_codes(allowed_return_codes)
        self._batched = batched
        self._runner = ProgramRunner()
        self._per_state = PerStateCaller(min(core_count(), MOST_AT_ONCE) if at_once is None else at_once, self._runner.stop)
        _require_descriptors(self._per_state.at_once)

    def step(self, states: Array, params: Array | None = None, inputs: Array | None = None) -> Array:
        """Advance a batch: see :meth:`Solver.step`.

        Raises:
            StatesFailedError: A run failed: a SolverTimeoutError, SolverKilledError, ExitCodeError, MissingOutputError,
                UnreadableOutputError, InvalidStateError or WorkingFolderError for each such state. If the program takes
                batches, that error itself.
            ConfigError: The program changed a linked file, or cannot be started, or a template cannot be filled in.
        """
        check_call(self.spec, states, params, inputs)
        return take_with_inputs(self._step, states, params, inputs)

    def _step(self, states: Array, params: Array | None) -> Array:
        """Advance states behind whose channels the inputs lie."""
        stop_count = self._runner.stop_count

        def advance(state: Array, row: Array | None) -> Array:
            return self._advance(state, row, stop_count)

        if not self._batched:
            return self._per_state(advance, states, params)
        try:
            (advanced,) = self._per_state(advance, states[None], None if params is None else params[None])
        except StatesFailedError as error:
            raise error.failures[0] from error
        return np.asarray(advanced)

    def _advance(self, states: Array, params: Array | None, stop_count: int) -> Array:
        values = Values(self.spec, states, params, self._values)
        command = self._command.words(values)
        contents = [(file.path, file.content(states, params)) for file in self._inputs]
        contents += [(deck.path, deck.render(values).encode()) for deck in self._decks]
        with self._call_folder(command) as (folder, output):
            _write_files(folder, contents)
            stdin = None if self._stdin is None else folder / self._stdin
            environment = self._command.environment()
            self._run(Invocation(command, folder, environment, output.descriptors, self._timeout, stdin), stop_count)
            return self._read_outputs(folder, states)

    @contextmanager
    def _call_folder(self, command: Sequence[str]) -> Iterator[tuple[Path, ProgramOutput]]:
        """Provide a folder for one run, and the files for its output. A failure inside gets its whole message."""
        folder, output = self._make_folder()
        try:
            yield folder, output
        except SolverError as failure:
            error = or_disk_full(failure, folder)
            kept = self._folders.keep_or_remove(folder, _record(command, f"failed: {error}"), failed=True)
            complete_message(error, self.spec.name, output.excerpt(), kept)
            raise error from error.__cause__
        except BaseException:
            self._folders.remove(folder)
            raise
        else:
            self._folders.keep_or_remove(folder, _record(command, "ended well"), failed=False)
        finally:
            output.close()

    def _make_folder(self) -> tuple[Path, ProgramOutput]:
        folder = None
        try:
            folder = self._folders.make()
            return folder, ProgramOutput.create(folder)
        except OSError as error:
            if folder is not None:
                self._folders.remove(folder)
            failure = WorkingFolderError(f"a folder to work in cannot be made ({error})")
            complete_message(failure, self.spec.name, "", None)
            raise failure from error

    def _run(self, invocation: Invocation, stop_count: int) -> None:
        identities = self._folders.link_identities()
        try:
            outcome = self._runner.run(invocation, stop_count)
        except OSError as error:
            raise _start_failure(self._command.program, error) from error
        except ValueError as error:  # a placeholder was filled in with what no argument may hold
            raise ConfigError(f"{self._command.program} cannot be started ({error}): mend the arguments of command.") from error
        if stop_count != self._runner.stop_count:
            raise KeyboardInterrupt  # it was ended because the user said so
        for source, identity in self._folders.link_identities().items():
            require_that(
                identity == identities[source],
                f"{self._command.program} changed {source}, which is only linked into its folder: name it in "
                "external_input_files, so that it is copied.",
            )
        if failure := failure_at_end(outcome, self._command.program, self._timeout, self._return_codes):
            raise failure

    def _read_outputs(self, folder: Path, states: Array) -> Array:
        for path in self._external_outputs:
            there = (folder / path).exists()
            require_that(there, f"the file {path} of external_output_files is not there", MissingOutputError)
        advanced = np.empty_like(np.take(states, range(self.spec.state_shape[0]), int(self._batched)), order="C")
        for file in self._outputs:
            try:
                largest = file.format.largest(states.size)
                file.read(read_output(folder, file.actual_path(folder), largest), advanced)
            except SolverError as error:
                error.args = (f"the output {file.path} {error}",)
                raise
        finite = self._batched or bool(np.isfinite(advanced).all())  # of a batch, the caller finds which states are not
        require_that(finite, "its outputs hold NaN or infinity", NonFiniteError)
        return with_same_inputs(advanced, states, int(self._batched))


def _write_files(folder: Path, contents: Sequence[tuple[str, Content]]) -> None:
    for path, content in contents:
        try:
            write_new(folder / path, content)
        except OSError as error:
            raise WorkingFolderError(f"{path} cannot be written ({error.strerror})") from error


def _record(command: Sequence[str], outcome: str) -> str:
    return f"command: {shlex.join(command)}\n{outcome}\n"


def _start_failure(program: str, error: OSError) -> ConfigError | SolverCrashError:
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return SolverCrashError(f"{program} cannot be started ({error.strerror}); take fewer at_once")
    remedy = "a script needs a first line such as #!/bin/sh, and what it names must be there"
    if error.errno == errno.E2BIG:
        remedy = "hand long ones over in a file, by templates"
    return ConfigError(f"{program} cannot be started ({error.strerror}): {remedy}.")


def _require_inputs_written(spec: SolverSpec, files: Sequence[ArrayFile], *, by_template: bool) -> None:
    """Refuse settings that write some field nowhere that the spec names as an input of a step."""
    written = {place for file in files if file.of == "state" for place in file.channels}
    places = enumerate(spec.input_names, start=spec.state_shape[0])
    missing = [name for place, name in places if place not in written]
    require_that(
        by_template or not missing or any(file.of == "all" for file in files),
        f"inputs must write {', '.join(missing)}, which the spec names among the inputs of a step: name a file for it, "
        f"{{path: {missing[0] if missing else ''}.npy, channels: [{missing[0] if missing else ''}]}}.",
    )


def _require_paths(paths: Sequence[str], what: str) -> tuple[str, ...]:
    listed = isinstance(paths, Sequence) and not isinstance(paths, str | bytes)
    require(listed, f"{what} must be a list of paths", paths)
    return tuple(inner_path(path, what) for path in paths)


def _require_stdin(stdin: str, there: Sequence[str]) -> str:
    path = inner_path(stdin, "stdin")
    require_that(
        path in there,
        f"stdin must be a file that is put into the working folder: {', '.join(there) or 'there is none'}, not {path!r}"
        f"{did_you_mean(path, there)}; name others in external_input_files.",
    )
    return path


def _require_return_codes(codes: Sequence[int]) -> tuple[int, ...]:
    listed = isinstance(codes, Sequence) and not isinstance(codes, str) and len(codes) > 0
    usable = listed and all(is_integer(code) and 0 <= code < 256 for code in codes)
    require(usable, "allowed_return_codes must be a list of numbers from 0 to 255", codes)
    return tuple(map(int, codes))


def _require_descriptors(at_once: int) -> None:
    """Refuse more runs at once than this process may have files for: some would not start, or leave their folders."""
    limit, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], OTHERS_OPEN + OPEN_A_RUN * at_once
    require_that(
        limit == resource.RLIM_INFINITY or needed <= limit,
        f"at_once={at_once} programs need some {needed} open files, but this process may have {limit}: take fewer at_once, "
        f"or raise the limit by ulimit -n {needed}.",
    )
