"""Options and files of settings, collected in the order given and read as one command's typed settings."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

from deepzero_sim.cli.start import PROGRAM
from deepzero_sim.common.documents import read_yaml, write_yaml
from deepzero_sim.common.files import LARGEST_TEXT, read_text, require_file_or_folder
from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.common.settings import (
    SEE_HELP,
    Entry,
    allows,
    append,
    assign,
    defaults,
    entries,
    keys_of,
    read,
    takes_path,
    to_plain,
)
from deepzero_sim.errors import ConfigError

#: Sentence for commands that take networks, products or estimators.
SEE_COMPONENTS = (
    "The args of networks, products, estimators and layer ratios are on the page docs/reference/components.md; in Python, "
    "help(deepzero_sim.models.small) shows those of one."
)


@dataclass(frozen=True)
class Command:
    """A command: what it is told and what it does.

    Args:
        settings: Dataclass of its settings.
        run: Module of `deepzero_sim.cli` and function in it that runs the command on its settings, such as `train.run`;
            it returns an exit status where that is not 0.
        positional: Setting that is given without an option, empty for none.
        also_called: Options for the positional setting, as other commands call what it names.
        runs: Function that returns the run folders whose code the command calls, None if there are never any.
        see: Sentence at the end of its help.
    """

    settings: type
    run: str
    positional: str = ""
    runs: Callable[[Any], Sequence[Path]] | None = None
    see: str = ""
    also_called: tuple[str, ...] = ()


class Parser(argparse.ArgumentParser):
    """A parser that reports errors as ours."""

    def error(self, message: str) -> NoReturn:
        """Refuse the words given.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{message}: {SEE_HELP}.")


def read_options(name: str, command: Command, description: str, words: Sequence[str]) -> tuple[Any, bool]:
    """Read a command's settings from its options; later ones win over earlier ones.

    Args:
        name: Words of the command.
        command: Command.
        description: Sentence on it, for its help.
        words: Options and their values.

    Returns:
        The settings, and whether runs of others are trusted.

    Raises:
        ConfigError: An option or value cannot be used.
        SystemExit: Help was asked for.
    """
    options, unknown = _parser(name, command, description, words).parse_known_args(words)
    _require_none(unknown, command.settings)
    given: dict[str, Any] = {}
    for key, value in _pairs(options.given or []):
        if key == "config":
            given = assign(command.settings, given, (), _settings_in(value))
        elif key.endswith("+"):
            given = append(command.settings, given, key.removesuffix("+"), value)
        else:
            given = assign(command.settings, given, key.split("."), value)
    if options.print_config:
        _print_config(command.settings, given)
    return read(command.settings, given), getattr(options, "trust", False)


def _require_none(unknown: Sequence[str], settings: type) -> None:
    """Refuse words that are no options of a command, with a suggestion for the first that looks like one."""
    if not unknown:
        return
    known = ["config", "print_config", *(entry.key for entry in entries(settings))]
    option = next((word.removeprefix("--").partition("=")[0] for word in unknown if word.startswith("--")), None)
    meant = "" if option is None else did_you_mean(option, known, getattr(settings, "meant", None))
    if option is None and "output" in known:
        meant = f" (did you mean '--output {unknown[-1]}'?)"
    raise ConfigError(f"unrecognized arguments: {' '.join(unknown)}{meant}: {SEE_HELP}.")


def _pairs(given: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values; several words of a positional setting are one list."""
    for one in filter(None, given):
        yield one if isinstance(one, tuple) else (one[0][0], [value for _, value in one])


def _parser(name: str, command: Command, description: str, words: Sequence[str]) -> Parser:
    """Build the parser of one command, whose options note their key and text in the order given."""
    usage = f"{PROGRAM} {name} {f'[{command.positional}] ' if command.positional else ''}[--config FILE] [--KEY VALUE ...]"
    parser = Parser(usage=usage, description=description, epilog=command.see)
    add = functools.partial(parser.add_argument, dest="given", action="append")
    add(
        "--config", type=_note_as("config"), metavar="FILE", help="YAML file of settings, - for standard input, or {key: value}"
    )
    parser.add_argument("--print_config", action="store_true", help="print all settings as YAML, and exit")
    if command.runs is not None:
        parser.add_argument("--trust", action="store_true", help="use runs of others: import and run what their settings name")
    for entry in entries(command.settings):
        key, kind = entry.key, entry.kind
        if key == command.positional:
            nargs = "*" if allows(kind, list) else "?"
            parser.add_argument("given", action="append", nargs=nargs, type=_note_as(key), metavar=key, help=_help(entry))
            for other in command.also_called:
                add(f"--{other}", type=_note_as(key), help=argparse.SUPPRESS)
            continue
        add(f"--{key}", type=_note_as(key), metavar=_metavar(entry), help=_help(entry))
        hidden = [f"{key}+"] if allows(kind, list) else _keys_within(key, words) if allows(kind, dict) else []
        for inner in hidden:
            add(f"--{inner}", type=_note_as(inner), help=argparse.SUPPRESS)
    return parser


def _note_as(key: str) -> Callable[[str], tuple[str, str]]:
    return lambda text: (key, text)


def _keys_within(key: str, words: Sequence[str]) -> list[str]:
    """Return the keys of a mapping that options name: `solver.args.resolution`."""
    options = (word.removeprefix("--").partition("=")[0] for word in words if word.startswith(f"--{key}."))
    return list(dict.fromkeys(options))


def _metavar(entry: Entry) -> str:
    if get_origin(entry.kind) is Literal:
        return f"{{{','.join(get_args(entry.kind))}}}"
    return "KEYS" if keys_of(entry.kind) and not takes_path(entry.kind) else entry.key.rpartition(".")[2].upper()


def _help(entry: Entry) -> str:
    return f"{entry.description}{_default(entry)}".replace("%", "%%")


def _default(entry: Entry) -> str:
    """Say what holds where a setting is not given."""
    if keys_of(entry.kind) and not takes_path(entry.kind):
        return ""  # its keys say it
    if entry.default is not MISSING:
        return f" (default: {json.dumps(to_plain(entry.default))})"
    return f" (required where {entry.optional} has keys)" if entry.optional else " (required)"


def _settings_in(given: str) -> dict[Any, Any]:
    """Read what `--config` gives: a file, `-` for standard input, or the settings themselves in braces.

    Raises:
        ConfigError: There is no such file, or it holds no mapping in YAML.
    """
    if given == "-":
        text = sys.stdin.read(LARGEST_TEXT)
    elif given.lstrip().startswith("{"):
        text = given
    else:
        require_file_or_folder(given)
        text = read_text(Path(given), "a YAML file of settings")
    try:
        settings = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{given} cannot be read as YAML ({error}): mend it.") from error
    if not isinstance(settings, dict):
        what = "nothing" if settings is None else type(settings).__name__
        raise ConfigError(f"{given} must hold settings as key: value lines, not {what}: check --config.")
    _require_each_once(settings)
    return settings


def _require_each_once(settings: dict[Any, Any]) -> None:
    """Refuse a setting that is given by its dotted name and within a mapping, too."""
    given = Counter(path for key, value in settings.items() for path in _paths(tuple(str(key).split(".")), value))
    for path, count in given.items():
        if count > 1:
            raise ConfigError(f"{'.'.join(path)} is there twice in the settings: leave out one of them.")


def _paths(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the places of values in a setting, as keys from the outermost on."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _paths((*path, str(key)), inner)
    else:
        yield path


def _print_config(settings: type, given: dict[str, Any]) -> NoReturn:
    """Print all settings as they would be used, null where one is missing, and end the program."""
    values = defaults(settings) | given
    known = {name: None if value is MISSING else to_plain(value) for name, value in values.items()}
    sys.stdout.write(write_yaml(known))
    sys.exit(0)
