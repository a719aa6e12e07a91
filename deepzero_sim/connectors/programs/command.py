"""Command of a solver: its program is found when the solver is made, its placeholders are filled in for every call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from deepzero_sim.common.requirements import require, require_that
from deepzero_sim.connectors.programs.paths import is_encodable
from deepzero_sim.connectors.programs.templates import PLACEHOLDER, Text, Values


class Command:
    """A program and its arguments. No shell reads them.

    Args:
        command: Program and its arguments; a program with a slash in it is a path from the current folder, any other is
            looked for in `PATH`. Arguments may hold placeholders, as templates do.
        environment: Variables besides those of this process.

    Attributes:
        program: Path of the program.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str | float]) -> None:
        listed = isinstance(command, Sequence) and not isinstance(command, str) and len(command) > 0
        require(listed, "command must be a list of a program and its arguments, such as [./solver, in.npy]", command)
        usable = all(isinstance(word, str | int | float | Path) and is_encodable(str(word)) for word in command)
        require(usable, "command must be a list of words and numbers", list(command))
        for word in command:
            quote = "put it in quotes, as YAML takes off and NO for false"
            require(not isinstance(word, bool), "command must be a list of words and numbers", word, quote)
        self.program = _find_program(str(command[0]))
        words = map(str, command[1:])
        self._arguments = [Text(word, f"the argument {word!r} of command") if PLACEHOLDER in word else word for word in words]
        self._environment = {os.fsencode(name): os.fsencode(value) for name, value in _variables(environment).items()}

    def words(self, values: Values) -> list[str]:
        """Return the program and its arguments with their placeholders filled in."""
        return [self.program, *(word.render(values) if isinstance(word, Text) else word for word in self._arguments)]

    def environment(self) -> dict[bytes, bytes]:
        """Return the environment of the program; in bytes, as it is handed over."""
        return {**os.environb, **self._environment}

    def require_reachable_files(self, there: Collection[str]) -> None:
        """Refuse arguments that name files of the current folder, which the program, in its own folder, does not find.

        The files of that folder, before the program starts or after it ended, are `there`.
        """
        for word in (word.rpartition("=")[2] for word in self._arguments if isinstance(word, str)):  # --deck=deck.nml
            require_that(
                str(PurePosixPath(word)) in there or not _is_file_here(word),
                f"{word} in command is a file of the current folder, but the program starts in a folder of its own: name "
                f"it in external_input_files, or by its absolute path, {Path(word).absolute()}; where the program writes "
                "it, name it in external_output_files.",
            )

    @property
    def has_placeholders(self) -> bool:
        """True if arguments differ from call to call."""
        return any(isinstance(word, Text) for word in self._arguments)


def _is_file_here(word: str) -> bool:
    try:
        return not Path(word).is_absolute() and Path(word).is_file()
    except OSError:  # no path: too long
        return False


def _find_program(program: str) -> str:
    path = str(Path(program).absolute()) if "/" in program else shutil.which(program) or ""
    require_that(bool(path), f"there is no program {program!r} in PATH: install it, or name it by a path such as ./{program}.")
    there, executable = Path(path).is_file(), os.access(path, os.X_OK)
    require_that(there, f"there is no program {path}: check the path, it starts at the current folder; compile it first.")
    require_that(executable, f"{path} must be a program that may be executed: chmod +x it, or name its interpreter before it.")
    return path


def _variables(environment: Any) -> dict[str, str]:
    usable = isinstance(environment, Mapping) and all(
        isinstance(key, str) and key and "=" not in key and isinstance(word, str | int | float) and is_encodable(f"{key}{word}")
        for key, word in environment.items()
    )
    require(usable, "environment must be words or numbers by the names of variables", environment)
    return {name: str(value) for name, value in environment.items()}
