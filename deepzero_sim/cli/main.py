"""The command line: `deepzero-sim COMMAND`, all listed in `COMMANDS` below, each in a module of its own.

Settings come from one YAML file (`--config`), and every key can be overridden by an option of the same name. An error ends with
one sentence on stderr and exit status 2. A solver that breaks its contract is reported by exit status 1.

Help, and errors in settings, wait for nothing that takes long: a command's settings are in `deepzero_sim/cli/settings/`, which
imports no torch, and what runs it is imported when its settings are good.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, NoReturn

import deepzero_sim as dz
from deepzero_sim.cli.options import Command, Parser, read_options
from deepzero_sim.cli.start import PROGRAM, leave_when_interrupted
from deepzero_sim.common.documents import require_text
from deepzero_sim.common.requirements import did_you_mean
from deepzero_sim.errors import ConfigError, DeepZeroError
from deepzero_sim.execution.ranks.place import rank_of_torchrun

#: Seconds that a rank other than 0 leaves to rank 0 to report an error: it has usually met the same.
AFTER_RANK_0 = 5.0


class _Entry(NamedTuple):
    """An entry of the table of commands: module of `settings/`, and description."""

    module: str
    description: str


#: Commands by all their words.
COMMANDS = {
    "init": _Entry("init", "write settings files to begin with, for a program, a solver in Python, or data"),
    "demo": _Entry("demo", "correct a coarse wake solver, from data to report, in some minutes"),
    "generate": _Entry("generate", "make trajectories with a reference solver"),
    "show": _Entry("show", "first pictures of data of any known layout, or of a trained run"),
    "convert": _Entry("convert", "bring data of other programs into one file of trajectories, and say what is in them"),
    "train": _Entry("train", "train a corrector, or go on with a run that was interrupted"),
    "check": _Entry("check_solver", "whether a solver keeps its contract, and what training through it will cost"),
    "check-gradient": _Entry("check_gradient", "compare gradients past a solver with the true one, with a report"),
    "evaluate": _Entry("evaluate", "roll a trained run out on unseen data, with a report"),
    "serve": _Entry("serve", "offer a trained run to UM-Bridge clients, until Ctrl-C"),
    "classify": _Entry("classify", "train a classifier of images, or go on with a run, with a report"),
    "compare": _Entry("compare", "trained runs side by side, correctors on unseen data, with a report"),
    "bench cge": _Entry("bench", "measure coordinate-wise gradients against a plain loop, as JSON"),
    "bench wake": _Entry("bench", "compare ways to train through the wake by what they cost"),
    "bench flows": _Entry("bench", "compare gradients past the solver on many flows, against exact ones"),
}

#: First words of several commands.
_GROUPS = {"bench": "measure this machine, or compare methods"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 if a solver breaks its contract, or 2 if an error was reported.

    Raises:
        SystemExit: Help was asked for, or on a rank of torchrun other than 0 rank 0 has run the command.
    """
    _accept_any_terminal()
    try:
        with _sigterm_as_interrupt(), plain_warnings():
            command, settings, trusting = read_command(sys.argv[1:] if argv is None else list(argv))
            for folder in () if command.runs is None else command.runs(settings):
                _find("cli.trust.ask_for_trust")(folder, trusting)
            run = _find(f"cli.{command.run}")
            with _ranks(settings):
                return run(settings) or 0
    except (Exception, KeyboardInterrupt) as error:
        return _fail(_sentence(error))


def _find(path: str) -> Callable[..., Any]:
    """Import a function of this package when it is to be called: most of them wait seconds for torch."""
    module, _, name = f"deepzero_sim.{path}".rpartition(".")
    with leave_when_interrupted():
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def read_command(words: Sequence[str]) -> tuple[Command, Any, bool]:
    """Find the command that words begin with, and read its settings from the others.

    Returns:
        The command, its settings, and whether runs of others are trusted.

    Raises:
        ConfigError: They are not usable.
        SystemExit: Help was asked for.
    """
    for word in words:
        require_text(word)
    name = next((name for name in COMMANDS if list(words[: name.count(" ") + 1]) == name.split()), None)
    if name is None:
        _require_command(words)
        _parser().parse_args(words)
        raise ConfigError(f"name a command: see '{PROGRAM} --help'.")
    module, description = COMMANDS[name]
    command: Command = importlib.import_module(f"deepzero_sim.cli.settings.{module}").COMMANDS[name]
    settings, trusting = read_options(name, command, description, words[name.count(" ") + 1 :])
    return command, settings, trusting


def _require_command(words: Sequence[str]) -> None:
    """Refuse a first word that begins no command, and a second one that does not go on with it."""
    for count in (1, 2):
        given = " ".join(words[:count])
        known = dict.fromkeys(" ".join(name.split()[:count]) for name in COMMANDS)
        if len(words) >= count and not words[count - 1].startswith("-") and given not in known:
            there_are = ", ".join(name for name in known if name.count(" ") == count - 1)
            raise ConfigError(f"there is no command {given!r}{did_you_mean(given, known)}: take one of {there_are}.")


def _parser() -> Parser:
    """Build the parser of the program's help, and of words that name no command."""
    parser = Parser(prog=PROGRAM, description="Train networks through solvers without gradients.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and exit")
    groups = {"": parser.add_subparsers(required=True, metavar=_choice(""))}
    for group, description in _GROUPS.items():
        within = groups[""].add_parser(group, description=description, help=description)
        groups[group] = within.add_subparsers(required=True, metavar=_choice(f"{group} "))
    for name, (_, description) in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        groups[group].add_parser(word, help=description)
    return parser


class _Version(argparse.Action):
    """Option that prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        sys.stdout.write(f"{PROGRAM} {dz.__version__}\n")
        parser.exit()


def _choice(beginning: str) -> str:
    """Name what is missing where words end too early: the command, and which there are."""
    following = (name.removeprefix(beginning).split()[0] for name in COMMANDS if name.startswith(beginning))
    return f"command ({', '.join(dict.fromkeys(following))})"


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Take SIGTERM, by which batch systems end programs, as Ctrl-C; torchrun's ranks handle it themselves."""
    if threading.current_thread() is not threading.main_thread() or rank_of_torchrun() is not None:
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as sentences, without the line of code that a user of commands has nothing to do with."""
    previous = warnings.formatwarning

    def format_plainly(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return f"warning: {message}\n" if category is UserWarning else previous(message, category, filename, lineno, line)

    warnings.formatwarning = format_plainly
    try:
        yield
    finally:
        warnings.formatwarning = previous


def _ranks(settings: Any) -> AbstractContextManager[object]:
    """Return the context of a command: if torchrun started it, only rank 0 comes through, and the others work for it."""
    if getattr(getattr(settings, "workers", None), "backend", None) == "ranks":
        context: AbstractContextManager[object] = _find("execution.executors.open_executor")("ranks")
        return context
    rank = rank_of_torchrun()
    if rank is not None and rank[1] > 1:
        raise ConfigError(
            f"torchrun started this command {rank[1]} times, and each would do all of it: share the work with "
            "--workers.backend ranks if the command has workers, or start it once, without torchrun."
        )
    return nullcontext()


def _sentence(error: BaseException) -> str:
    """Explain an error to people."""
    match error:
        case DeepZeroError():
            return str(error)
        case RuntimeError() | MemoryError() if _is_of_memory(error):
            reason = str(error).rpartition("] ")[2].partition("\n")[0] or type(error).__name__
            return f"there is not enough memory ({reason}): take a smaller network, batches, chunks or grids, and call again."
        case OSError():
            what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
            return f"{what}: mend that (free some space if none is left) and call again; nothing already written is lost."
        case KeyboardInterrupt():
            return "interrupted; what was trained or made so far is kept, and the same command goes on from there."
    return f"{type(error).__name__}: {error}: a fault of this program; please report it with its settings."


def _is_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell whether memory is short; torch has an error class of its own for a GPU's, and none for main memory."""
    text = str(error)
    short = "can't allocate memory" in text or "not enough memory" in text
    return short or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _accept_any_terminal() -> None:
    """Print even where there is no terminal, or one that does not know our letters."""
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as we run
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(message: str) -> int:
    rank = rank_of_torchrun()
    if rank is not None and rank[0] > 0:
        time.sleep(AFTER_RANK_0)  # torchrun ends this rank in the meantime if rank 0 fails too
        message = f"rank {rank[0]}: {message}"
    print(f"{PROGRAM}: {_shorten(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201 - for a terminal and for logs alike
    return 2


def _shorten(message: str) -> str:
    """Leave out the middle of a message that shows a very long value."""
    return message if len(message) <= 2000 else f"{message[:1200]} ... {message[-400:]}"
