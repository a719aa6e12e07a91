"""Program of a newcomer, as an `ExecutableSolver`: what its templates take, and how its reference differs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepzero_sim.cli.settings.init import InitSettings, ProgramFile
from deepzero_sim.common.components import Component
from deepzero_sim.common.requirements import require_that
from deepzero_sim.connectors.programs.namelists.deck import groups_of
from deepzero_sim.connectors.programs.templates import MOST_CHARACTERS, PLACEHOLDER, Text, read_source
from deepzero_sim.errors import ConfigError

#: Seconds that one run of a program may take.
TIMEOUT = 300

#: Arguments of `ExecutableSolver` that many programs need sooner or later, with values that change nothing.
OFFERS: dict[str, Any] = {
    "external_input_files": [],
    "external_output_files": [],
    "values": {},
    "allowed_return_codes": [0],
    "at_once": None,
}

#: Entries of the spec that a file of data or a report has a use for, with values that change nothing.
SPEC_OFFERS: dict[str, Any] = {"channels": [], "channel_units": [], "axes": [], "spacing": [], "offsets": [], "stencil": None}


def program_of(settings: InitSettings) -> Component:
    """Describe a program as a solver.

    Raises:
        ConfigError: The command or a template cannot be used, or something that they need is missing.
    """
    assert settings.command is not None and settings.state_shape is not None
    words = split_command(settings.command)
    texts = [*_texts_of(words), *_templates(settings).values()]
    parameters = settings.parameters or _keys_of(texts, "params")
    _require_known(texts, "params", parameters, "parameters", "--parameters '[{}]'")
    _require_known(texts, "values", settings.values, "values", "--values '{{{}: 1}}'")
    _require_used(settings, texts, parameters)
    inputs = [_file(settings.input, settings)] if settings.input is not None else []
    inputs += [{**_file(settings.params_input, settings), "of": "params"}] if settings.params_input is not None else []
    spec: dict[str, Any] = {"name": Path(words[0]).stem, "state_shape": settings.state_shape, "dt": settings.dt}
    told: dict[str, Any] = {"channels": settings.channels, "channel_units": settings.channel_units}
    told |= {"axes": settings.axes, "spacing": settings.spacing}
    told |= {"offsets": settings.offsets, "parameters": parameters}
    args = {
        "spec": {**spec, "dtype": "float64", **{key: value for key, value in told.items() if value}},
        "command": words,
        "inputs": inputs,
        "outputs": [_file(settings.output, settings)],
        "external_input_files": settings.external_input_files,
        "templates": {target: text.where.removeprefix("the template ") for target, text in _templates(settings).items()},
        "namelists": _namelists(settings, parameters),
        "values": settings.values,
    }
    return Component("deepzero_sim.ExecutableSolver", {**{key: one for key, one in args.items() if one}, "timeout": TIMEOUT})


def reference_args(settings: InitSettings) -> dict[str, Any] | None:
    """Return the arguments in which the reference differs from the program; None if there is to be none.

    Raises:
        ConfigError: Its command or its values cannot be used.
    """
    if settings.reference_shape is None:
        for name in ("reference_command", "reference_values"):
            require_that(not getattr(settings, name), f"{name} is of a reference: give its grid, too, by reference_shape.")
        return None
    args: dict[str, Any] = {"spec": {"state_shape": settings.reference_shape}}
    if settings.spacing and settings.state_shape is not None:
        pairs = zip(settings.spacing, settings.state_shape[1:], settings.reference_shape[1:], strict=False)
        args["spec"]["spacing"] = [_finer(*pair) for pair in pairs]
    if settings.reference_command is not None:
        words = split_command(settings.reference_command)
        _require_known(_texts_of(words), "values", settings.values, "values", "--values '{{{}: 1}}'")
        args["command"] = words
    if settings.reference_values:
        _require_differing(settings.reference_values, settings.values)
        args["values"] = settings.reference_values
    return args


def _finer(spacing: float, points: int, fine: int) -> float:
    """Return the distance of so many points on the same axis, of cells or, where only these fit, of nodes with both ends."""
    nodes = fine % points != 0 and points > 1 and fine > 1 and (fine - 1) % (points - 1) == 0
    return spacing * (points - nodes) / (fine - nodes)


def _require_differing(fine: Mapping[str, Any], coarse: Mapping[str, Any]) -> None:
    other = sorted(fine.keys() - coarse.keys())
    require_that(
        not other, f"reference_values has {', '.join(other)}, which values has not: give both a value of the same name."
    )


def split_command(command: str) -> list[str]:
    """Split a command as a shell does; a placeholder is one word."""
    try:
        words = shlex.split(re.sub(r"\{\{\s*(.*?)\s*\}\}", lambda found: f"'{{{{ {found[1]} }}}}'", command))
    except ValueError as error:
        raise ConfigError(f"command {command!r} cannot be split into words ({error}): check its quotes.") from error
    require_that(bool(words), "command must name a program, not nothing.")
    return words


def _texts_of(words: Sequence[str]) -> list[Text]:
    return [Text(word, f"the argument {word!r} of command") for word in words if PLACEHOLDER in word]


def _templates(settings: InitSettings) -> dict[str, Text]:
    """Read templates, by the names of the files that they become."""
    templates: dict[str, Text] = {}
    for source in [*([] if settings.template is None else [settings.template]), *settings.templates]:
        target = source.name.removesuffix(".j2")
        require_that(target not in templates, f"two templates become {target} in the program's folder: rename one of them.")
        text = read_source(source, f"template {target}", MOST_CHARACTERS)
        templates[target] = Text(text, f"the template {source}")
    return templates


def _file(given: ProgramFile, settings: InitSettings) -> dict[str, Any]:
    """Return a file as the connector takes it."""
    entry = given if isinstance(given, dict) else {"path": given}
    require_that("path" in entry, f"a file of the program must have a path, not only {', '.join(entry) or 'nothing'}.")
    return entry if "format" in entry else {"path": entry["path"], "format": settings.format, **entry}


def _namelists(settings: InitSettings, parameters: Sequence[str]) -> dict[str, Any]:
    """Fill in the entries of a namelist that have parameters' names."""
    if settings.namelist is None:
        return {}
    values: dict[str, dict[str, str]] = {}
    for name, group in groups_of(settings.namelist, parameters).items():
        values.setdefault(group, {})[name] = f"{{{{ params.{name} }}}}"
    return {settings.namelist.name: {"file": str(settings.namelist), "values": values}}


def _keys_of(texts: Sequence[Text], name: str) -> list[str]:
    return list(dict.fromkeys(key for text in texts for key in text.keys_of(name)))


def _require_known(texts: Sequence[Text], name: str, known: Any, setting: str, example: str) -> None:
    """Refuse placeholders of which nobody says what they stand for."""
    for text in texts:
        for key in text.keys_of(name):
            require_that(
                key in known,
                f"{text.where} has {{{{ {name}.{key} }}}}, but {setting} has {', '.join(known) or 'nothing'}: give "
                f"{example.format(key)}, or mend the placeholder.",
            )


def _require_used(settings: InitSettings, texts: Sequence[Text], parameters: Sequence[str]) -> None:
    """Refuse a state, parameters or values that nothing hands to the program."""
    names = {name for text in texts for name in text.names}
    require_that(
        settings.input is not None or "state" in names,
        "the program gets no state: give --input, the file that it reads it from, or write {{ state }} into a template.",
    )
    require_that(
        not settings.values or "values" in names, "values are for placeholders {{ values.NAME }}, of which there is none."
    )
    if settings.params_input is not None or any("params" in text.names and not text.keys_of("params") for text in texts):
        return  # all of them, one after the other
    reached = {*_keys_of(texts, "params")}
    reached |= set() if settings.namelist is None else set(groups_of(settings.namelist, parameters))
    for name in parameters:
        require_that(
            name in reached,
            f"the parameter {name} does not reach the program: put {{{{ params.{name} }}}} into command or template, or give "
            "namelist one that has an entry of that name.",
        )
