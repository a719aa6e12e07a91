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

from deepzero_sim.common.spelling import did_you_mean
from deepzero_sim.common.types import Array, is_integer, is_number
from deepzero_sim.connectors.formats import Content
from deepzero_sim.connectors.per_state import MOST_AT_ONCE, PerStateCaller
from deepzero_sim.connectors.programs.array_files import input_files, output_files
from deepzero_sim.connectors.programs.command import Command
from deepzero_sim.connectors.programs.namelists import Namelists
from deepzero_sim.connectors.programs.namelists import namelists as set_in
from deepzero_sim.connectors.programs.paths import inside, read_inside
from deepzero_sim.connectors.programs.processes import Programs, Run
from deepzero_sim.connectors.programs.program_output import Said, blamed, complete, ending
from deepzero_sim.connectors.programs.templates import Plain, Template, Values, own_values, try_out
from deepzero_sim.connectors.programs.templates import templates as filled_in
from deepzero_sim.connectors.programs.working_folder import ExternalFiles, Keep, WorkingFolders, placed, write_new
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
from deepzero_sim.solver.contract import Solver, SolverSpec

#: Files that are open for one run: two that it writes to, what tells its end, and a few for a moment. And all others.
OPEN_A_RUN, OTHERS_OPEN = 3, 32

#: Seconds that a program may be given: eleven days.
LONGEST = 1e6


class ExecutableSolver(Solver):
    """Any program that reads a state from files and leaves the next one in files. It is run once a state, in a fresh folder.

    The folder is filled with the external files, templates and namelists with numbers in them, and the inputs; the program is
    started in it, without a shell; its outputs are read, and the folder is removed. What the program started ends with it.

    Args:
        spec: a SolverSpec, or a mapping of its fields.
        command: the program and its arguments, `[./solver, in.npy, out.npy]`. A program with a slash in it is a path from the
            current folder; any other is looked for in `PATH`. Arguments may hold placeholders, `"{{ params.nu }}"`.
        inputs: files to be written, each a mapping: `path` in the working folder; `format`: npy, raw, fortran, text, hdf5,
            openfoam, or a `Format` of your own by its import path or as `file.py:Name`; `channels` that the file has, all if
            left out; `of`: state (if left out), params, or all, which is one row of both; `channel_axis`: first (if left out),
            last or none; and the options of the format. May be left out if templates or arguments hand over the `state`.
        outputs: files to be read, in the same way. Together they have every channel of the state once.
        external_input_files: files and folders that are copied into the folder: a list, or a mapping from paths there.
        external_input_links: the same, linked rather than copied: for large files that the program only reads.
        external_output_files: more files that the program must leave.
        templates: jinja2 templates by the paths that they are filled in to. They see `params`, `spec`, `dt`, `state`, `values`.
        namelists: Fortran namelists by the paths that they are written to: `file`, the base, and `values` by group and name.
        stdin: path of a file in the folder that the program reads as its standard input: one of the above; nothing if None.
        values: numbers and words of your own by their names, which templates, namelists and arguments see as `values.name`: one
            template then serves a coarse solver and a fine one.
        timeout: seconds that one run may take.
        allowed_return_codes: exit statuses that do not mean failure.
        environment: variables beside those of this process.
        keep: which folders are kept: failures, never or always. Never more than 20.
        kept_folder: where they are kept.
        at_once: runs at once in this process, at most; as many as there are cores if None.
        batched: whether one run advances a whole batch: arrays then have the axis of the batch in front.

    Raises:
        ConfigError: the settings are not usable, or a program or file is not there.
        MissingExtraError: templates need jinja2, namelists f90nml, and it is not installed.
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
        kept_folder: str | Path = "kept",
        at_once: int | None = None,
        batched: bool = False,
    ) -> None:
        _need_posix()
        if not isinstance(batched, bool):
            raise ConfigError(f"batched must be true or false, not {batched!r}.")
        self.spec = as_spec(spec)
        self._command = Command(command, environment)
        self._inputs = input_files(inputs, self.spec, batched)
        self._outputs = output_files(outputs, self.spec, batched)
        self._left = _paths(external_output_files, "external_output_files")
        self._values = own_values(values)
        self._decks: tuple[Template | Namelists, ...] = (*filled_in(templates), *set_in(namelists))
        for render in (self._command.words, *(deck.render for deck in self._decks)):
            try_out(render, self.spec, self._values, batched)
        if not (self._inputs or self._decks or self._command.has_placeholders):
            raise ConfigError("inputs must name a file that the state is written to, or a template must write it, not nothing.")
        copies = placed(external_input_files, "external_input_files")
        links = placed(external_input_links, "external_input_links")
        written = [file.path for file in (*self._inputs, *self._decks)]
        self._folders = WorkingFolders(self.spec.name, copies, links, written, keep, kept_folder)
        there = [*written, *(place.path for place in (*copies, *links))]
        self._stdin = None if stdin is None else _one_of(stdin, there)
        self._command.need_files({*there, *self._left, *(file.path for file in self._outputs)})
        self._timeout = _seconds(timeout)
        self._allowed = _statuses(allowed_return_codes)
        self._batched = batched
        self._programs = Programs()
        self._statewise = PerStateCaller(_cores() if at_once is None else at_once, self._programs.stop)
        _need_descriptors(self._statewise.at_once)

    def step(self, states: Array, params: Array | None = None) -> Array:
        """Advance a batch: see :meth:`Solver.step`.

        Raises:
            StatesFailedError: a run failed: a SolverTimeoutError, SolverKilledError, ExitCodeError, MissingOutputError,
                UnreadableOutputError, InvalidStateError or WorkingFolderError for each such state. If the program takes
                batches, that error itself.
            ConfigError: the program changed a linked file, or cannot be started, or a template cannot be filled in.
        """
        stops = self._programs.stops

        def advance(state: Array, row: Array | None) -> Array:
            return self._advance(state, row, stops)

        if not self._batched:
            return self._statewise(advance, states, params)
        try:
            (advanced,) = self._statewise(advance, states[None], None if params is None else params[None])
        except StatesFailedError as error:
            raise error.failures[0] from error
        return np.asarray(advanced)

    def _advance(self, states: Array, params: Array | None, stops: int) -> Array:
        values = Values(self.spec, states, params, self._values)
        words = self._command.words(values)
        contents = [(file.path, file.content(states, params)) for file in self._inputs]
        contents += [(deck.path, deck.render(values).encode()) for deck in self._decks]
        with self._folder(words) as (folder, said):
            self._fill(folder, contents)
            stdin = None if self._stdin is None else folder / self._stdin
            self._run(Run(words, folder, self._command.environment(), said.descriptors, self._timeout, stdin), stops)
            return self._read(folder, states)

    @contextmanager
    def _folder(self, words: Sequence[str]) -> Iterator[tuple[Path, Said]]:
        """A folder for one run, and where the program talks to. What goes wrong inside gets its whole message."""
        folder, said = self._made()
        try:
            yield folder, said
        except SolverError as failed:
            error = blamed(failed, folder)
            kept = self._folders.settle(folder, _account(words, f"failed: {error}"), failed=True)
            complete(error, self.spec.name, said.last(), kept)
            raise error from error.__cause__
        except BaseException:
            self._folders.remove(folder)
            raise
        else:
            self._folders.settle(folder, _account(words, "ended well"), failed=False)
        finally:
            said.close()

    def _made(self) -> tuple[Path, Said]:
        folder = None
        try:
            folder = self._folders.make()
            return folder, Said.in_folder(folder)
        except OSError as error:
            if folder is not None:
                self._folders.remove(folder)
            failure = WorkingFolderError(f"a folder to work in cannot be made ({error})")
            complete(failure, self.spec.name, "", None)
            raise failure from error

    def _fill(self, folder: Path, contents: Sequence[tuple[str, Content]]) -> None:
        for path, content in contents:
            try:
                write_new(folder / path, content)
            except OSError as error:
                raise WorkingFolderError(f"{path} cannot be written ({error.strerror})") from error

    def _run(self, run: Run, stops: int) -> None:
        linked = self._folders.links()
        try:
            ended = self._programs.run(run, stops)
        except OSError as error:
            raise _not_started(self._command.program, error) from error
        except ValueError as error:  # a placeholder was filled in with what no argument may hold
            raise ConfigError(f"{self._command.program} cannot be started ({error}): mend the arguments of command.") from error
        if stops != self._programs.stops:
            raise KeyboardInterrupt  # it was ended because the user said so
        if changed := [source for source, identity in self._folders.links().items() if identity != linked[source]]:
            raise ConfigError(
                f"{self._command.program} changed {changed[0]}, which is only linked into its folder: name it in "
                "external_input_files, so that it is copied."
            )
        failure = ending(ended, self._command.program, self._timeout, self._allowed)
        if failure is not None:
            raise failure

    def _read(self, folder: Path, states: Array) -> Array:
        for path in self._left:
            if not (folder / path).exists():
                raise MissingOutputError(f"the file {path} of external_output_files is not there")
        advanced = np.empty_like(states, order="C")
        for file in self._outputs:
            try:
                file.read(read_inside(folder, file.found_in(folder), file.largest(states)), advanced)
            except SolverError as error:
                error.args = (f"the output {file.path} {error}",)
                raise
        if not self._batched and not np.isfinite(advanced).all():  # of a batch, the caller finds which states
            raise NonFiniteError("its outputs hold NaN or infinity")
        return advanced


def _paths(listed: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(listed, str | bytes) or not isinstance(listed, Sequence):
        raise ConfigError(f"{what} must be a list of paths, not {listed!r}.")
    return tuple(inside(path, what) for path in listed)


def _one_of(stdin: object, there: Sequence[str]) -> str:
    path = inside(stdin, "stdin")  # type: ignore[arg-type]
    if path not in there:
        raise ConfigError(
            f"stdin must be a file that is put into the working folder: {', '.join(there) or 'there is none'}, not {path!r}"
            f"{did_you_mean(path, there)}; name others in external_input_files."
        )
    return path


def _need_posix() -> None:
    if os.name != "posix":
        raise ConfigError("ExecutableSolver needs Linux or macOS, where all that a program starts can be ended with it.")


def _need_descriptors(at_once: int) -> None:
    """Programs that cannot all be started, or whose folders cannot be removed, would fail by chance."""
    limit, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[0], OTHERS_OPEN + OPEN_A_RUN * at_once
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise ConfigError(
            f"at_once={at_once} programs need some {needed} open files, but this process may have {limit}: take fewer at_once, "
            f"or raise the limit by ulimit -n {needed}."
        )


def _account(words: Sequence[str], outcome: str) -> str:
    return f"command: {shlex.join(words)}\n{outcome}\n"


def _not_started(program: str, error: OSError) -> ConfigError | SolverCrashError:
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return SolverCrashError(f"{program} cannot be started ({error.strerror}); take fewer at_once")
    if error.errno == errno.E2BIG:
        return ConfigError(f"{program} cannot be started ({error.strerror}): hand long ones over in a file, by templates.")
    remedy = "a script needs a first line such as #!/bin/sh, and what it names must be there"
    return ConfigError(f"{program} cannot be started ({error.strerror}): {remedy}.")


def _seconds(timeout: float) -> float:
    if not is_number(timeout) or not 0 < timeout <= LONGEST:
        raise ConfigError(f"timeout must be a positive number of seconds, up to {LONGEST:g}, not {timeout!r}.")
    return float(timeout)


def _statuses(allowed: Sequence[int]) -> tuple[int, ...]:
    listed = isinstance(allowed, Sequence) and not isinstance(allowed, str) and allowed
    if not listed or not all(is_integer(status) and 0 <= status < 256 for status in allowed):
        raise ConfigError(f"allowed_return_codes must be a list of numbers from 0 to 255, not {allowed!r}.")
    return tuple(map(int, allowed))


def _cores() -> int:
    """That this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MOST_AT_ONCE)
