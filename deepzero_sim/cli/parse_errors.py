"""What the command line's parser says of settings that it cannot take, in the words of who wrote them."""

from __future__ import annotations

import re

from jsonargparse import ArgumentError

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}

#: What is expected, in the parser's words: some values, a type, or keys.
_EXPECTED = re.compile(r"Expected an? (?:typing\.Literal\[(.*?)\]|<class '(int|float|bool|str)'>|(dot import path string))")

_CAME = re.compile(r"(?:Got|Given) value: (.*?)(?: - Expected| Given value|$)")

#: A component that is written as one word.
_KEYLESS = re.compile(
    r'Parser key "([\w.]+)": (?:Unable to load config|Subclasses are disabled|Importing|Does not validate .*Component)'
)

#: Text by keys, the text of one of them cut in two at a comma, as YAML reads `{key: some, words}`.
_CUT = re.compile(r'Parser key "([\w.]+)": .*dict\[str, str\].*Given value: \{.*\'([^\']+)\', \'([^\']+)\': None\b')


def words(error: ArgumentError) -> str:
    """One sentence without a full stop: which key, what was expected, what came."""
    message = " ".join(str(error).split()).rstrip(".")
    return _without_keys(message) or _cut_at_a_comma(message) or _of_another_kind(message) or message


def _without_keys(message: str) -> str | None:
    found = _KEYLESS.match(message)
    if found is None:
        return None
    value = re.search(r"(?:Unable to load config|thus|Importing) '(.*?)'|Given value: (.*)", message)
    came = next(filter(None, value.groups()), "nothing") if value else "that"
    key = "what --config names" if found[1] == "config" else found[1]
    return f"{key} must hold keys with values, such as {{name: package.module.Name, args: {{}}}}, not {came}"


def _cut_at_a_comma(message: str) -> str | None:
    found = _CUT.match(message)
    if found is None:
        return None
    key, head, tail = found.groups()
    return f'{key} must be text, or text by keys, but {tail} stands alone: quote what has a comma, "{head}, {tail}"'


def _of_another_kind(message: str) -> str | None:
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    expected, came = _EXPECTED.search(message), _CAME.search(message)
    if not keys or expected is None or came is None:
        return None
    choices, kind, _ = expected.groups()
    what = f"one of {choices.replace(chr(39), '')}" if choices else _KINDS.get(kind, "keys with values")
    return f"{'.'.join(keys)} must be {what}, not {came[1]}"
