"""`deepzero-sim init`: settings files to begin with, for a program, a solver in Python, or data."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.prompt import Prompt

from deepzero_sim.cli.console import console
from deepzero_sim.cli.settings.init import InitSettings, Kind, ProgramFormat
from deepzero_sim.cli.start import leave_when_interrupted
from deepzero_sim.common.files import replace_file
from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.settings import assign, descriptions, hints, read
from deepzero_sim.errors import ConfigError, DeepZeroError

if TYPE_CHECKING:
    from deepzero_sim.cli.starter_files import Start

#: Settings of each kind: those that must be there, and those that a person is asked for besides.
NEEDED: dict[Kind, tuple[str, ...]] = {
    "program": ("command", "output", "format", "state_shape", "dt"),
    "python": ("solver",),
    "data": ("data",),
}
OFFERED: dict[Kind, tuple[str, ...]] = {
    "program": (
        "input",
        "template",
        "templates",
        "namelist",
        "external_input_files",
        "values",
        "parameters",
        "params_input",
        "channels",
        "channel_units",
        "axes",
        "spacing",
        "offsets",
        "reference_shape",
        "reference_command",
        "reference_values",
        "params",
        "initial",
        "periodic",
    ),
    "python": ("args", "reference_args", "params", "initial", "periodic"),
    "data": ("solver", "args", "periodic"),
}

#: Formats that the end of a file's name tells.
FORMATS: dict[str, ProgramFormat] = {".npy": "npy", ".txt": "text", ".raw": "raw"}


def run(settings: InitSettings) -> None:
    """Write settings files, and say what to do with them."""
    settings = _complete(settings)
    with leave_when_interrupted():
        from deepzero_sim.cli.starters import files_of  # noqa: PLC0415 - torch, for which nobody who is asked waits

    start, files, notes = files_of(settings)
    _write(settings.folder, files)
    for sentence in dict.fromkeys((*notes, *_next_steps(start, files))):
        console.print(sentence, soft_wrap=True)  # a command is copied as one line


# ---- what is missing


def _complete(settings: InitSettings) -> InitSettings:
    """Ask for what is missing, at a terminal.

    Raises:
        ConfigError: Something is missing, and there is nobody to ask.
    """
    if settings.kind is None:
        settings = _ask(settings, "kind") if _is_terminal() else settings
    require_that(settings.kind is not None, "say what you have: deepzero-sim init program, init python or init data.")
    kind: Kind = settings.kind or "program"
    _require_own(settings, kind)
    settings = replace(settings, format=_format_of(settings))
    missing = [name for name in NEEDED[kind] if getattr(settings, name) in (None, "", [], {})]
    if missing and not _is_terminal():
        words = ", ".join(f"--{name}" for name in missing)
        raise ConfigError(f"init {kind} needs {words}: give them, or call it at a terminal, where it asks for them.")
    asked = [*missing, *(name for name in OFFERED[kind] if _is_default(settings, name))] if missing else []
    for name in asked:
        settings = _ask(settings, name, optional=name not in missing)
    return settings


def _require_own(settings: InitSettings, kind: Kind) -> None:
    """Refuse settings of another kind, which would have no effect."""
    others = {name for known in (NEEDED, OFFERED) for names in known.values() for name in names}
    for name in sorted(others - {*NEEDED[kind], *OFFERED[kind]}):
        require_that(_is_default(settings, name), f"init {kind} has no use for {name}: leave it out, or name another kind.")


def _format_of(settings: InitSettings) -> ProgramFormat | None:
    """Return the format of the program's files: as given, or as its output's name tells."""
    output = settings.output
    if settings.format is not None or output is None:
        return settings.format
    if isinstance(output, dict) and "format" in output:
        return output["format"]  # type: ignore[no-any-return]  # one of the user's own, too
    path = str(output.get("path", "")) if isinstance(output, dict) else output
    return FORMATS.get(Path(path).suffix)


def _is_default(settings: InitSettings, name: str) -> bool:
    return bool(getattr(settings, name) == getattr(InitSettings(), name))


def _is_terminal() -> bool:
    return sys.stdin.isatty() and console.is_terminal


def _ask(settings: InitSettings, name: str, *, optional: bool = False) -> InitSettings:
    """Ask for one setting until it is usable; an empty answer leaves out what is optional."""
    question = f"{name} - {descriptions(InitSettings)[name]}{' (empty to leave it out)' if optional else ''}\n "
    while True:
        answer = Prompt.ask(question, console=console, default="" if optional else None, show_default=False)
        if optional and not answer:
            return settings
        try:
            value = assign(InitSettings, {}, [name], answer or "")[name]
            return replace(settings, **{name: read(hints(InitSettings)[name], value, name)})
        except DeepZeroError as error:
            console.print(str(error))


# ---- writing


def _write(folder: Path, files: dict[str, str | bytes]) -> None:
    """Write all files, or none."""
    there = [str(folder / name) for name in files if os.path.lexists(folder / name)]
    own = ", or name your function of initial states by --initial FILE:NAME" if str(folder / "states.py") in there else ""
    require_that(
        not there,
        f"{', '.join(there)} {'is' if len(there) == 1 else 'are'} there already, and nothing is replaced: name another "
        f"--folder, or move them{own}.",
    )
    written: list[Path] = []
    try:
        for name, content in files.items():
            _write_file(folder / name, content)
            written.append(folder / name)
    except OSError:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _write_file(path: Path, content: str | bytes) -> None:
    """Write a whole file, or nothing."""
    with replace_file(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def _next_steps(start: Start, files: Collection[str]) -> list[str]:
    """Say what was written, what is to be filled in, and the commands that take it, each as a shell reads it."""
    steps = [f"written: {', '.join(start.path(name) for name in files)}"]
    if "my_solver.py" in files:
        steps.append(f"{start.path('my_solver.py')} keeps every state as it is: put your solver into its step")
    if "states.py" in files:
        steps.append(f"{start.functions} has initial states to replace by yours")
    steps.append(f"next:  {start.command('check', 'solver.yaml', 'check.yaml')}")
    if "data.yaml" in files:
        steps.append(f"then:  {start.command('generate', 'solver.yaml', 'data.yaml')}")
    elif start.source is None:
        steps.append(
            f"{start.path('train.yaml')} names data that are not there so far: --reference_shape or --reference_args tells "
            "init of a fine solver that makes them, and train_data takes any that you have (docs/training/data.md)"
        )
    steps.append(f"then:  {start.command('train', 'solver.yaml', 'train.yaml')}")
    run, test = start.path("runs/first"), start.path("data/test.h5")
    last = ["evaluate", "--run", run, "--data", test] if "data.yaml" in files else ["show", run]
    steps.append(f"then:  {shlex.join(['deepzero-sim', *last])}")
    return steps
