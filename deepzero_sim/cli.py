"""The command line: `deepzero-sim demo | generate | train | evaluate`.

Settings come from one YAML file (`--config`), and every key can be overridden by an option of the same name. What goes
wrong ends with one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from deepzero_sim.console import console, print_table
from deepzero_sim.demo import demo, make_data, train_with_bar
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.experiment import compare, plain, run_settings
from deepzero_sim.report import publish, rows
from deepzero_sim.settings import DemoSettings, EvaluateSettings, GenerateSettings, TrainSettings


@dataclass(frozen=True)
class _Command:
    settings: type
    run: Callable[[Any], None]
    help: str


def _train(settings: TrainSettings) -> None:
    train_with_bar(settings)
    console.print(f"trained: {settings.run}")


def _evaluate(settings: EvaluateSettings) -> None:
    method = run_settings(settings.run)["method"]
    comparison = compare({method: settings.run}, settings.data, settings.steps)
    publish(settings.run, f"{settings.run.name}: {method}", comparison, plain(settings))
    print_table(rows(comparison.methods))
    console.print(f"report: {settings.run / 'report.md'}")


_COMMANDS = {
    "demo": _Command(DemoSettings, demo, "correct a coarse wake solver, from data to report, in some minutes"),
    "generate": _Command(GenerateSettings, make_data, "make trajectories with a reference solver"),
    "train": _Command(TrainSettings, _train, "train a corrector, or go on with a run that was interrupted"),
    "evaluate": _Command(EvaluateSettings, _evaluate, "roll a trained run out on unseen data, with a report"),
}


def parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of everything, and those of the commands."""
    top = ArgumentParser(
        prog="deepzero-sim", description="Train networks through solvers without gradients.", exit_on_error=False
    )
    subcommands = top.add_subcommands(dest="command")
    commands = {}
    for name, command in _COMMANDS.items():
        sub = ArgumentParser(description=command.help, exit_on_error=False)
        sub.add_argument("--config", action="config", help="a YAML file of settings")
        sub.add_class_arguments(command.settings)
        subcommands.add_subcommand(name, sub, help=command.help)
        commands[name] = sub
    return top, commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 if it ended with an error that was reported."""
    _take_any_terminal()
    try:
        name, settings = _parsed(argv)
        _COMMANDS[name].run(settings)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(_sentence(error))
    return 0


def _sentence(error: BaseException) -> str:
    """What went wrong, for people."""
    match error:
        case ArgumentError():
            return f"{_words(error)}: see the options with 'deepzero-sim COMMAND --help'."
        case DeepZeroError():
            return str(error)
        case MemoryError():
            return f"there is not enough memory ({error}): take smaller batches, chunks or grids, and call again."
        case OSError():
            what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
            return f"{what}: mend that (free some space if none is left) and call again; nothing already written is lost."
        case KeyboardInterrupt():
            return "interrupted; the same command goes on from the last checkpoint."
    return f"{type(error).__name__}: {error}: a fault of this program; please report it with its settings."


def _take_any_terminal() -> None:
    """Print to where there is no terminal, or one that does not know our letters."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parsed(argv: Sequence[str] | None) -> tuple[str, Any]:
    """The command and its settings.

    Raises:
        ArgumentError, ConfigError: they are not usable.
    """
    top, commands = parser()
    try:
        given: Namespace = top.parse_args(argv)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"expected a YAML file of settings as text in UTF-8, not other bytes ({error}): check --config."
        ) from error
    except RecursionError as error:
        raise ConfigError("the settings contain themselves: write out what is named by an anchor (&) in --config.") from error
    name = given.command
    _check(_COMMANDS[name].settings, given[name])
    values = vars(commands[name].instantiate(given[name]))
    values.pop("config")
    return name, _COMMANDS[name].settings(**values)


def _check(settings: type, given: Any, within: str = "") -> None:
    """Refuse what the parser lets pass: null where a value is needed, a plain value where there must be keys."""
    hints = get_type_hints(settings)
    if not isinstance(given, Namespace):
        raise ConfigError(f"{within} must hold keys ({', '.join(hints)}), not {given!r}: write them out or leave {within} out.")
    for name, kind in hints.items():
        value, key = given.get(name), f"{within}.{name}".lstrip(".")
        kinds = (kind, *get_args(kind))
        if value is None and NoneType not in kinds:
            raise ConfigError(f"{key} must have a value, not null: give it one, or leave it out.")
        for keys in () if value is None or get_origin(kind) is list else filter(is_dataclass, kinds):
            _check(keys, value, key)  # type: ignore[arg-type]


def _words(error: ArgumentError) -> str:
    """What the parser says, shorter where it lists all it has tried."""
    message = str(error).rstrip(".")
    keyless = re.match(
        r'Parser key "([\w.]+)":\s+(?:Unable to load config|Subclasses are disabled|Does not validate .*Component)',
        message,
        re.DOTALL,
    )
    if keyless is None:
        return message
    value = re.search(r"(?:Unable to load config|thus) '(.*?)'|Given value: (.*)", message, re.DOTALL)
    came = next(filter(None, value.groups()), "nothing") if value else "that"
    return f"{keyless[1]} must hold keys with values, such as {{name: package.module.Name, args: {{}}}}, not {came}"


def _fail(message: str) -> int:
    print(f"deepzero-sim: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201 - for a terminal and for logs alike
    return 2


if __name__ == "__main__":
    sys.exit(main())
