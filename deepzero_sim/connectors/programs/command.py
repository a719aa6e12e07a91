"""A solver's command: found when the solver is made, its placeholders filled in for every call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from deepzero_sim.connectors.programs.paths import is_spelt
from deepzero_sim.connectors.programs.templates import PLACEHOLDER, Text, Values
from deepzero_sim.errors import ConfigError


class Command:
    """A program and its arguments. No shell reads them.

    Args:
        command: the program and its arguments; a program with a slash in it is a path from the current folder, any other is
            looked for in `PATH`. Arguments may hold placeholders, as templates do.
        environment: variables beside those of this process.

    Raises:
        ConfigError: there is no such program, or the settings are not usable.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str | float]) -> None:
        if isinstance(command, str) or not isinstance(command, Sequence) or not command:
            raise ConfigError(
                f"command must be a list of a program and its arguments, such as [./solver, in.npy], not {command!r}."
            )
        if not all(isinstance(word, str | int | float | Path) and is_spelt(str(word)) for word in command):
            raise ConfigError(f"command must be a list of words and numbers, not {list(command)!r}.")
        if truth := [word for word in command if isinstance(word, bool)]:
            raise ConfigError(
                f"command must be a list of words and numbers, not {truth[0]!r}: put it in quotes, as YAML takes off and NO "
                "for false."
            )
        self._words = [_found(str(command[0])), *(_word(str(word)) for word in command[1:])]
        self._environment = {os.fsencode(name): os.fsencode(value) for name, value in _variables(environment).items()}

    def words(self, values: Values) -> list[str]:
        """The command with its placeholders filled in.

        Raises:
            ConfigError: they cannot be.
        """
        return [word.render(values) if isinstance(word, Text) else word for word in self._words]

    def environment(self) -> dict[bytes, bytes]:
        """Of the program; in bytes, as it is handed over."""
        return {**os.environb, **self._environment}

    def need_files(self, there: Collection[str]) -> None:
        """Refuse arguments that name files of the current folder, which the program, in its own folder, does not find.

        Args:
            there: files of the working folder, before the program starts or after it ended.

        Raises:
            ConfigError: an argument is such a file.
        """
        for word in (word.rpartition("=")[2] for word in self._words[1:] if isinstance(word, str)):  # --deck=deck.nml
            if _is_here(word) and str(PurePosixPath(word)) not in there:
                raise ConfigError(
                    f"{word} in command is a file of the current folder, but the program starts in a folder of its own: name "
                    f"it in external_input_files, or by its absolute path, {Path(word).absolute()}; where the program writes "
                    "it, name it in external_output_files."
                )

    @property
    def has_placeholders(self) -> bool:
        """Whether arguments differ from call to call."""
        return any(isinstance(word, Text) for word in self._words)

    @property
    def program(self) -> str:
        """Its path."""
        return str(self._words[0])


def _word(word: str) -> str | Text:
    return Text(word, f"the argument {word!r} of command") if PLACEHOLDER in word else word


def _is_here(word: str) -> bool:
    try:
        return not Path(word).is_absolute() and Path(word).is_file()
    except OSError:  # no path: too long
        return False


def _found(program: str) -> str:
    path = Path(program).absolute() if "/" in program else shutil.which(program)
    if path is None:
        raise ConfigError(f"there is no program {program!r} in PATH: install it, or name it by a path such as ./{program}.")
    if not Path(path).is_file():
        raise ConfigError(f"there is no program {path}: check the path, it starts at the current folder; compile it first.")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{path} must be a program that may be executed: chmod +x it, or name its interpreter before it.")
    return str(path)


def _variables(environment: Any) -> dict[str, str]:
    fit = isinstance(environment, Mapping) and all(
        isinstance(name, str)
        and name
        and "=" not in name
        and isinstance(value, str | int | float)
        and is_spelt(f"{name}{value}")
        for name, value in environment.items()
    )
    if not fit:
        raise ConfigError(f"environment must be words or numbers by the names of variables, not {environment!r}.")
    return {name: str(value) for name, value in environment.items()}
