"""The command line: `deepzero-sim demo | generate | train | evaluate`.

Settings come from one YAML file (`--config`), and every key can be overridden by an option of the same name. What goes
wrong ends with one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from deepzero_sim.console import console, print_table
from deepzero_sim.demo import demo, make_data, train_with_bar
from deepzero_sim.errors import DeepZeroError
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
    try:
        top, commands = parser()
        given: Namespace = top.parse_args(argv)
        name = given.command
        values = vars(commands[name].instantiate(given[name]))
        values.pop("config")
        _COMMANDS[name].run(_COMMANDS[name].settings(**values))
    except ArgumentError as error:
        return _fail(f"{str(error).rstrip('.')}: see the options with 'deepzero-sim COMMAND --help'.")
    except UnicodeDecodeError as error:
        return _fail(f"expected a YAML file of settings as text in UTF-8, not other bytes ({error}): check --config.")
    except DeepZeroError as error:
        return _fail(str(error))
    except OSError as error:
        what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
        return _fail(f"{what}: mend that (free some space if none is left) and call again; nothing already written is lost.")
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last checkpoint.")
    return 0


def _fail(message: str) -> int:
    print(f"deepzero-sim: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201 - for a terminal and for logs alike
    return 2


if __name__ == "__main__":
    sys.exit(main())
