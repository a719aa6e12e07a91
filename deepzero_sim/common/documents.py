"""Documents: YAML and JSON of people and programs, read within bounds so that a small file cannot take much time or memory.

Settings are YAML 1.2 in what tells numbers from text: `010` and `1:30` are no eight and ninety.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, ClassVar

import yaml

from deepzero_sim.errors import ConfigError

#: Values and keys that a document may hold, all aliases written out.
LARGEST = 250_000

#: Lists and mappings that may stand one in another.
DEEPEST = 100

#: Digits that a whole number may have: all of them are floating-point numbers, too.
DIGITS = 300


def read_yaml(text: str) -> Any:
    """Read YAML.

    Raises:
        ConfigError: The text is too large, too deep, contains itself, has a key twice or a number that no computer holds.
        yaml.YAMLError: The text is no YAML.
    """
    if _MAY_NEST.search(text):
        _require_bounds(yaml.parse(text, Loader=_Loader))
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader


def write_yaml(value: Any, *, sort_keys: bool = False) -> str:
    """Write plain values as YAML that :func:`read_yaml` reads as the same values: what looks like a number is quoted."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=sort_keys, allow_unicode=True)


def flow_yaml(value: Any) -> str:
    """Write plain values as YAML on one line, `{a: [1, 2]}`, which :func:`read_yaml` reads as the same values."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """Write a table whose first row is its head."""
    head, *body = table
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def read_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: The text is no JSON, too deep, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_to_dict)
    except RecursionError as error:
        raise ValueError("lists and objects stand too deep in one another") from error


def require_text(text: str) -> str:
    """Refuse letters that no name, path or message can have: a NUL, or half a letter, as bytes are read that are not UTF-8."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"settings are text in UTF-8 without NUL, not {text[:200]!r}: write it in other letters.")
    return text


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is there twice")
        result[key] = value
    return result


#: Letters that any text with lists, mappings, aliases or tags has.
_MAY_NEST = re.compile(r"[\[{:&*!\n]|- ")


class _Refused(yaml.YAMLError):
    """YAML that says more than plain values."""


def _require_bounds(events: Iterator[Any]) -> None:
    """Count what a document would hold without aliases, before anything is made of it."""
    sizes: dict[str, int] = {}  # by anchor
    within: list[tuple[str | None, int]] = []  # anchors and sizes so far of the lists and mappings around
    for event in events:
        anchor, size = getattr(event, "anchor", None), 1
        if getattr(event, "tag", None) not in (None, "!"):
            raise _Refused(f"there is a tag ({event.tag}), but settings are plain values")
        if isinstance(event, yaml.CollectionStartEvent):
            within.append((anchor, 1))
            if len(within) > DEEPEST:
                raise ConfigError(
                    f"settings may stand {DEEPEST} deep in one another, but these are deeper: write them flatter."
                )
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor in (name for name, _ in within):
                raise ConfigError(
                    f"the settings contain themselves: write out what is named by an anchor (&{anchor}) in --config."
                )
            size = sizes.get(str(anchor), 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor is not None:
            sizes[anchor] = size
        if within:
            within[-1] = within[-1][0], within[-1][1] + size
            size = within[-1][1]
        if size > LARGEST:
            raise ConfigError(
                f"settings may hold {LARGEST:,} values, aliases written out, but these hold more: keep arrays in files of "
                "their own."
            )


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values: no dates, no numbers but those that look like one, every key once."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge mappings named by `<<`, whose keys a mapping's own may replace; its own are there once."""
        if not getattr(node, "flattened", False):
            self._require_unique(node)
            node.flattened = True  # type: ignore[attr-defined]
        super().flatten_mapping(node)

    def _require_unique(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for name, _ in node.value:
            if name.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(name, deep=True)
            if not isinstance(key, Hashable):
                continue  # what cannot be a key is refused as one
            if key in seen:
                raise ConfigError(
                    f"the key {key!r} is there twice in one mapping of the settings (line {name.start_mark.line + 1}): "
                    "leave out one of them."
                )
            seen.add(key)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """Read a whole number."""
        if len(node.value) > DIGITS:
            raise ConfigError(
                f"a number in the settings has {len(node.value)} digits, and may have {DIGITS}: write a smaller one."
            )
        return int(self.construct_yaml_int(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Read text, which may be written with escapes."""
        return require_text(str(self.construct_scalar(node)))

    def construct_decimal(self, node: yaml.ScalarNode) -> float:
        """Read a number that is not whole; `.inf` is infinite, what is only too large to be held is refused."""
        value = float(self.construct_yaml_float(node))
        if math.isinf(value) and "inf" not in node.value.lower():
            raise ConfigError(f"{node.value} in the settings is larger than any number here may be: write a smaller one.")
        return value


class _Dumper(yaml.SafeDumper):
    """Plain values, text quoted that any reader of YAML takes for a number or a date."""


_WHOLE = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_DECIMAL = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*(?:\.(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
for _either in (_Loader, _Dumper):
    _either.add_implicit_resolver("tag:yaml.org,2002:int", _WHOLE, list("-+0123456789"))
    _either.add_implicit_resolver("tag:yaml.org,2002:float", _DECIMAL, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_decimal)
