"""The command line: `deepzero-sim COMMAND`, all listed in `_COMMANDS` below.

Settings come from one YAML file (`--config`), and every key can be overridden by an option of the same name. What goes
wrong ends with one sentence on stderr and exit status 2. A solver that breaks its contract is found with exit status 1.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml
from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
    set_loader,
    set_parsing_settings,
)
from rich.prompt import Confirm

from deepzero_sim.checks.solver import CheckInterruptedError, SolverCheck
from deepzero_sim.cli.check_gradient import check
from deepzero_sim.cli.check_solver import check_named_solver
from deepzero_sim.cli.classify import classify
from deepzero_sim.cli.console import console, counting_bar, print_table, training_bar
from deepzero_sim.cli.demo import demo, make_data, train_with_bar
from deepzero_sim.cli.experiment import Comparison, compare, run_settings, trust, untrusted_parts
from deepzero_sim.cli.parse_errors import words
from deepzero_sim.cli.reports import classification, gradient_check, solver_check
from deepzero_sim.cli.reports.plain import plain
from deepzero_sim.cli.reports.rollouts import given_up, named, publish, rows
from deepzero_sim.cli.serve import models_of_run
from deepzero_sim.cli.settings import (
    BenchSettings,
    BenchWakeSettings,
    CheckSettings,
    CheckSolverSettings,
    ClassifySettings,
    CompareSettings,
    DemoSettings,
    EvaluateSettings,
    GenerateSettings,
    ServeSettings,
    TrainSettings,
)
from deepzero_sim.cli.trust import described
from deepzero_sim.common.documents import read_yaml, require_text
from deepzero_sim.common.files import LARGEST_TEXT, read_text, require_file_or_folder
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.ranks import rank_of_torchrun
from deepzero_sim.serving import serve
from deepzero_sim.training.run_folder import FAILURES

#: Seconds that a rank other than 0 leaves to rank 0 to say what went wrong: it has usually met the same.
AFTER_RANK_0 = 5.0


@dataclass(frozen=True)
class _Positional:
    """A setting that is given without an option."""

    name: str
    kind: type
    count: str  # as of argparse's nargs
    help: str


@dataclass(frozen=True)
class _Command:
    settings: type
    run: Callable[[Any], int | None]  # an exit status, where it is not 0
    help: str
    positional: _Positional | None = None
    used: Callable[[Any], Sequence[Path]] | None = None  # run folders whose code is called


def _train(settings: TrainSettings) -> None:
    progress = train_with_bar(settings)
    console.print(f"trained: {settings.run}")
    if progress.failures:
        listed = ", ".join(f"{kind} {count} times" for kind, count in progress.failures.items())
        console.print(f"failures: {listed}; see {settings.run / FAILURES}")


def _check(settings: CheckSettings) -> None:
    with counting_bar("checking gradients", 1 + len(settings.vjp) + (settings.estimator is not None)) as report:
        checked = check(settings, report)
    print_table(gradient_check.rows(checked.checks))
    for name, why in checked.left_out.items():
        console.print(f"left out {name}: {why}")
    gradient_check.publish(settings.output, checked, plain(settings))
    console.print(f"report: {settings.output / 'check.md'}")


def _check_solver(settings: CheckSolverSettings) -> int:
    """The exit status says whether the solver keeps its contract."""
    try:
        with console.status(f"checking {settings.component.name}"):
            found = check_named_solver(settings)
    except CheckInterruptedError as interrupted:
        _show_solver_check(interrupted.found, settings)
        raise
    _show_solver_check(found, settings)
    return 0 if found.holds else 1


def _show_solver_check(found: SolverCheck, settings: CheckSolverSettings) -> None:
    for table, of_words in solver_check.tables(found):
        print_table(table, of_words)
    for sentence in solver_check.sentences(found):
        console.print(sentence)
    if settings.output is not None:
        solver_check.publish(settings.output, found, plain(settings))
        console.print(f"report: {settings.output / 'check.md'}")


def _evaluate(settings: EvaluateSettings) -> None:
    method = run_settings(settings.run)["method"]
    comparison = compare({method: settings.run}, settings.data, settings.steps, settings.data_may_differ)
    _rolled_out(settings.run, f"{settings.run.name}: {method}", comparison, settings)


def _rolled_out(folder: Path, title: str, comparison: Comparison, settings: EvaluateSettings | CompareSettings) -> None:
    publish(folder, title, comparison, plain(settings))
    print_table(rows(comparison.methods))
    for sentence in given_up(comparison.methods):
        console.print(sentence)
    console.print(f"report: {folder / 'report.md'}")


def _serve(settings: ServeSettings) -> None:
    models, left_out = models_of_run(settings.run, settings.data, settings.data_may_differ)
    if left_out is not None:
        console.print(f"left out loss: {left_out}")
    serve(models, settings.host, settings.port, timeout=settings.timeout)


def _classify(settings: ClassifySettings) -> None:
    classify(settings, lambda updates: training_bar(f"training {settings.run.name}", updates, queries=True), console.print)
    _published(settings.run, settings.run.name, [settings.run])


def _compare(settings: CompareSettings) -> None:
    if settings.data is None:
        _published(settings.output, "Classifiers compared", settings.runs)
        return
    comparison = compare(named(settings.runs), settings.data, settings.steps, settings.data_may_differ)
    _rolled_out(settings.output, "Correctors compared", comparison, settings)


def _published(folder: Path, title: str, paths: Sequence[Path]) -> None:
    runs = classification.named(paths)
    print_table(classification.rows(runs))
    classification.publish(folder, title, runs)
    console.print(f"report: {folder / 'report.md'}")


def _bench_cge(settings: BenchSettings) -> None:
    # nothing else needs the benchmarks
    from deepzero_sim.benchmarks.cge import bench_cge  # noqa: PLC0415

    sys.stdout.write(json.dumps(bench_cge(settings), indent=2) + "\n")


def _bench_wake(settings: BenchWakeSettings) -> None:
    from deepzero_sim.benchmarks.wake import bench_wake  # noqa: PLC0415 - as above

    print_table(bench_wake(settings))
    console.print(f"report: {settings.output / 'report.md'}")


#: By all their words.
_COMMANDS = {
    "demo": _Command(DemoSettings, demo, "correct a coarse wake solver, from data to report, in some minutes"),
    "generate": _Command(GenerateSettings, make_data, "make trajectories with a reference solver"),
    "train": _Command(TrainSettings, _train, "train a corrector, or go on with a run that was interrupted"),
    "check": _Command(
        CheckSolverSettings,
        _check_solver,
        "whether a solver keeps its contract, and what training through it will cost",
        _Positional("name", str, "?", "the solver, an import path or file.py:Name"),
    ),
    "check-gradient": _Command(CheckSettings, _check, "compare gradients past a solver with the true one, with a report"),
    "evaluate": _Command(
        EvaluateSettings,
        _evaluate,
        "roll a trained run out on unseen data, with a report",
        used=lambda settings: [settings.run],
    ),
    "serve": _Command(
        ServeSettings, _serve, "offer a trained run to UM-Bridge clients, until Ctrl-C", used=lambda settings: [settings.run]
    ),
    "classify": _Command(ClassifySettings, _classify, "train a classifier of images, or go on with a run, with a report"),
    "compare": _Command(
        CompareSettings,
        _compare,
        "trained runs side by side, correctors on unseen data, with a report",
        _Positional("runs", Path, "+", "run folders"),
        used=lambda settings: [] if settings.data is None else settings.runs,
    ),
    "bench cge": _Command(BenchSettings, _bench_cge, "measure coordinate-wise gradients against a plain loop, as JSON"),
    "bench wake": _Command(BenchWakeSettings, _bench_wake, "compare ways to train through the wake by what they cost"),
}

#: The parser reads settings by our own rules of YAML, and imports nothing itself: names of components are text to it.
_MODE = "settings"
set_loader(_MODE, read_yaml, (yaml.YAMLError,))
set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["deepzero_sim"], instantiate_subclass_spec_in_any=False)


class _ConfigFile(ActionConfigFile):
    """`--config FILE`, `-` for standard input, or the settings themselves in braces."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        self.apply_config(parser, cfg, self.dest, f"\n{_settings_text(values)}")  # a line break: never taken for a path


def _settings_text(given: str) -> str:
    """The text of settings, which is a mapping in YAML.

    Raises:
        ConfigError: it is not, or there is no such file.
    """
    if given == "-":
        text = sys.stdin.read(LARGEST_TEXT)
    else:
        text = given if given.lstrip().startswith("{") else read_text(Path(given), "a YAML file of settings")
    try:
        settings = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{given} cannot be read as YAML ({error}): mend it.") from error
    if not isinstance(settings, dict):
        what = "nothing" if settings is None else type(settings).__name__
        raise ConfigError(f"{given} must hold settings as key: value lines, not {what}: check --config.")
    _require_each_once(settings)
    for value in settings.values():
        if isinstance(value, str):  # a path of data, or of a file with the keys of this setting
            require_file_or_folder(value)
    return text


def _require_each_once(settings: dict[Any, Any]) -> None:
    """Refuse what is given by its dotted name and within a mapping, too."""
    given = [path for key, value in settings.items() for path in _paths(tuple(str(key).split(".")), value)]
    for path in given:
        if given.count(path) > 1:
            raise ConfigError(f"{'.'.join(path)} is there twice in the settings: leave out one of them.")


def _paths(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """Yield where the values lie that a setting holds, as keys from the outermost on."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _paths((*path, str(key)), inner)
    else:
        yield path


#: Words that commands begin with.
_GROUPS = {"bench": "measure this machine, or compare methods"}


def parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of everything, and those of the commands."""
    top = ArgumentParser(
        prog="deepzero-sim",
        description="Train networks through solvers without gradients.",
        exit_on_error=False,
        parser_mode=_MODE,
    )
    subcommands = {"": top.add_subcommands(dest="command")}
    groups = {
        name: ArgumentParser(description=words, exit_on_error=False, parser_mode=_MODE) for name, words in _GROUPS.items()
    }
    for name, group in groups.items():
        subcommands[""].add_subcommand(name, group, help=_GROUPS[name])
        subcommands[name] = group.add_subcommands(dest="command")
    commands = {}
    for name, command in _COMMANDS.items():
        sub = ArgumentParser(description=command.help, exit_on_error=False, parser_mode=_MODE)
        sub.add_argument("--config", action=_ConfigFile, help="a YAML file of settings")
        given = command.positional
        if given is not None:
            sub.add_argument(given.name, nargs=given.count, type=given.kind, help=given.help)
        if command.used is not None:
            sub.add_argument("--trust", action="store_true", help="use runs of others: import and run what their settings name")
        sub.add_class_arguments(command.settings, skip=set() if given is None else {given.name})
        within, _, word = name.rpartition(" ")
        subcommands[within].add_subcommand(word, sub, help=command.help)
        commands[name] = sub
    return top, commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 if a solver breaks its contract, or 2 if an error was reported.

    Raises:
        SystemExit: on a rank of torchrun other than 0, when rank 0 has run the command.
    """
    _take_any_terminal()
    try:
        with _terminated_as_interrupted():
            name, settings, trusting = _parsed(argv)
            command = _COMMANDS[name]
            for run in () if command.used is None else command.used(settings):
                _trust(run, trusting)
            with _ranks(settings):
                return command.run(settings) or 0
    except (Exception, KeyboardInterrupt) as error:
        return _fail(_sentence(error))


def _trust(run: Path, trusting: bool) -> None:
    """Ask, where somebody sits, whether what a run of somebody else names may be imported and run; without a yes it is not."""
    named = untrusted_parts(run)
    if named and not trusting and sys.stdin.isatty() and console.is_terminal:
        for key, part in named.items():
            console.print(f"{run} was not made by you on this machine, and would import or run this {key}: {described(part)}")
        trusting = Confirm.ask("Do you trust that?", console=console, default=False)
    if trusting:
        trust(run)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, by which batch systems end programs, is taken as Ctrl-C is. What torchrun's ranks do with it is their own."""
    if threading.current_thread() is not threading.main_thread() or rank_of_torchrun() is not None:
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _ranks(settings: Any) -> AbstractContextManager[object]:
    """What to run a command in: if torchrun started it, only rank 0 comes through, and the others work for it."""
    if getattr(getattr(settings, "workers", None), "backend", None) == "ranks":
        return open_executor("ranks")
    found = rank_of_torchrun()
    if found is not None and found[1] > 1:
        raise ConfigError(
            f"torchrun started this command {found[1]} times, and each would do all of it: share the work with "
            "--workers.backend ranks if the command has workers, or start it once, without torchrun."
        )
    return nullcontext()


def _sentence(error: BaseException) -> str:
    """What went wrong, for people."""
    match error:
        case ArgumentError():
            return f"{words(error)}: see the options with 'deepzero-sim COMMAND --help'."
        case DeepZeroError():
            return str(error)
        case RuntimeError() | MemoryError() if _is_of_memory(error):
            said = str(error).rpartition("] ")[2].partition("\n")[0] or type(error).__name__
            return f"there is not enough memory ({said}): take a smaller network, batches, chunks or grids, and call again."
        case OSError():
            what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
            return f"{what}: mend that (free some space if none is left) and call again; nothing already written is lost."
        case KeyboardInterrupt():
            return "interrupted; what was trained or made so far is kept, and the same command goes on from there."
    return f"{type(error).__name__}: {error}: a fault of this program; please report it with its settings."


def _is_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether there is too little of it; torch has an error of its own for a GPU's, and none for main memory."""
    said = ("can't allocate memory" in str(error)) or ("not enough memory" in str(error))
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _take_any_terminal() -> None:
    """Print to where there is no terminal, or one that does not know our letters."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parsed(argv: Sequence[str] | None) -> tuple[str, Any, bool]:
    """The command, its settings, and whether runs of others are trusted.

    Raises:
        ArgumentError, ConfigError: they are not usable.
    """
    top, commands = parser()
    words_given = sys.argv[1:] if argv is None else list(argv)
    for word in words_given:
        require_file_or_folder(word.partition("=")[2] if require_text(word).startswith("--") else word)
    try:
        given: Namespace = top.parse_args(words_given)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"expected a file of settings as text in UTF-8, not other bytes ({error}): check the paths."
        ) from error
    except OverflowError as error:
        raise ConfigError(f"a number in the settings is larger than any here may be ({error}): write a smaller one.") from error
    words = []
    while "command" in given:
        words.append(given.command)
        given = given[given.command]
    name = " ".join(words)
    _check_keys(_COMMANDS[name].settings, given)
    values = vars(commands[name].instantiate(given))
    values.pop("config")
    trusting = values.pop("trust", False)
    return name, _COMMANDS[name].settings(**values), trusting


def _check_keys(settings: type, given: Any, within: str = "") -> None:
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
            _check_keys(keys, value, key)  # type: ignore[arg-type]


def _fail(message: str) -> int:
    found = rank_of_torchrun()
    if found is not None and found[0] > 0:
        time.sleep(AFTER_RANK_0)  # torchrun ends this rank in the meantime if rank 0 fails too
        message = f"rank {found[0]}: {message}"
    print(f"deepzero-sim: {_shortened(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201 - for a terminal and for logs alike
    return 2


def _shortened(message: str) -> str:
    """Leave out the middle of a message that shows a very long value."""
    return message if len(message) <= 2000 else f"{message[:1200]} ... {message[-400:]}"


if __name__ == "__main__":
    sys.exit(main())
