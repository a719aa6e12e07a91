"""jinja2's sandbox with limits: whatever a template says, it ends, and takes no more memory than a large file does.

Whatever can make much of little is held to limits: what loops go through, what is written, what operators make, and the
widths and numbers of filters and methods. Nothing is computed when a template is compiled.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import BuiltinMethodType
from typing import Any

from jinja2 import Template, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

#: Characters that a template may write in all, items of its loops, and characters or items of any value that it makes.
MOST = 10**7

#: What to do instead.
INSTEAD = "arrays are handed over by inputs"

#: Bits of a whole number.
MOST_BITS = 10**4

#: Seconds that it may take.
LONGEST = 30.0

#: Filters whose numbers are values, not widths.
OF_VALUES = ("default", "d", "format", "format_map")

#: What is formatted by `%` and by the method `format`: an escape, and a width or precision of more than four digits or one
#: that is an argument.
_PERCENT = "%%", re.compile(r"%(?:\([^)]*\))?[-+ #0]*\d*\.?(?:\d{5}|\*)")
_BRACES = "{{", re.compile(r"\{[^{}]*(?:\{|:[^{}]*\d{5})")


class Allowance:
    """What one filling in may still do."""

    def __init__(self) -> None:
        self._left, self._end = MOST, time.monotonic() + LONGEST

    def take(self, amount: int) -> None:
        """Take from it.

        Raises:
            OverflowError: there is not so much left.
        """
        self._left -= amount
        if self._left < 0:
            raise OverflowError(f"it goes through, or writes, more than {MOST:.0e} items or characters; {INSTEAD}")
        if time.monotonic() > self._end:
            raise OverflowError(f"it takes more than {LONGEST:g} s")


_allowance: ContextVar[Allowance] = ContextVar("_allowance")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with limits.

    Args:
        settings: of jinja2's Environment.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **settings: Any) -> None:
        super().__init__(optimized=False, **settings)
        del self.globals["lipsum"], self.filters["random"]  # the same values make the same file
        self.filters = {name: _limited(name, function) for name, function in self.filters.items()}
        self.filters.update({"~written": _written, "~sized": _sized})

    def limited(self, tree: nodes.Template) -> Template:
        """A template that counts what it does; the tree is changed."""
        return Template.from_code(self, self.compile(_Counting().visit(tree)), self.globals)

    def filled_in(self, template: Template, values: Mapping[str, Any]) -> str:
        """A template's text.

        Raises:
            OverflowError: it is beyond the limits.
            Exception: whatever an expression makes of its values.
        """
        token = _allowance.set(Allowance())
        try:
            return template.render(values)
        finally:
            _allowance.reset(token)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator's result, if it is not too large."""
        _allowance.get().take(1)
        if operator == "%" and isinstance(left, str):
            _need_narrow(left, *_PERCENT)
        elif operator == "+":
            _sized((left, right))
        elif operator != "%" and isinstance(left, int) and isinstance(right, int):
            _need_few_bits(operator, left, right)
        elif operator == "*":
            _need_at_most(_times(left) * _times(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, *args: Any, **named: Any) -> Any:
        """What a function, macro or method returns, if it is not too large."""
        _allowance.get().take(1)
        _sized((args, named))
        method = getattr(called, "__wrapped__", called)  # the sandbox wraps format
        if isinstance(method, BuiltinMethodType):
            if method.__name__ in ("format", "format_map"):
                _need_narrow(str(method.__self__), *_BRACES)
            _need_small(method.__name__, method.__self__, (*args, *named.values()))
        return super().call(context, called, *args, **named)


class _Counting(NodeTransformer):
    """Leads what is written and what is put together through filters that count it, and counts the rounds of loops."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's name
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_through("~written", nodes.Const(" ")), lineno=node.lineno))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_through("~written", part) for part in node.nodes]
        return node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self._made(node) if node.ctx == "load" else node

    def _made(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _through("~sized", node)

    visit_List = visit_Dict = visit_Concat = _made  # noqa: N815


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _written(value: object) -> str:
    text = value if isinstance(value, str) else str(_sized(value))
    _allowance.get().take(len(text))
    return text


def _sized(value: Any) -> Any:
    _need_at_most(_size(value))
    return value


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = int(hasattr(function, "jinja_pass_arg"))  # it takes what jinja2 passes before the value

    @functools.wraps(function)
    def limited(*args: Any, **named: Any) -> Any:
        _allowance.get().take(1)
        passed, (value, *more) = args[:first], args[first:]
        if isinstance(value, Iterator):
            value = list(value)
        if name == "format":
            _need_narrow(str(value), *_PERCENT)
        _need_small(name, value, (*more, *named.values()))
        return function(*passed, value, *more, **named)

    return limited


def _need_small(name: str, value: object, arguments: Iterable[object]) -> None:
    """A filter or method makes no more than its value times its largest argument, a text or a width."""
    widths = () if name in OF_VALUES else [abs(argument) for argument in arguments if isinstance(argument, int)]
    _need_at_most(_size(value) * max((1, *widths, *map(_size, arguments))))


def _times(factor: object) -> int:
    return max(factor, 0) if isinstance(factor, int) else _size(factor)


def _need_narrow(text: str, escape: str, wide: re.Pattern[str]) -> None:
    if wide.search(text.replace(escape, "")):
        raise OverflowError("a width must be a number below 10000 that stands in what is formatted")


def _need_at_most(size: int) -> None:
    if size > MOST:
        raise OverflowError(f"it makes more than {MOST:.0e} characters or items of one value; {INSTEAD}")


def _need_few_bits(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if bits > MOST_BITS:
        raise OverflowError(f"it makes a whole number of more than {MOST_BITS} bits")


def _size(value: object) -> int:
    """Characters, or items, those of inner ones with them; it stops where there are too many."""
    if isinstance(value, float | int):  # most are
        return 1
    if isinstance(value, str | bytes | range):
        return len(value)
    if isinstance(value, Mapping):
        value = (*value.keys(), *value.values())
    if not isinstance(value, list | tuple | set | frozenset):
        return 1
    size = len(value)
    for item in value:
        if isinstance(item, str | bytes | Mapping | list | tuple | set | frozenset):
            size += _size(item)
        if size > MOST:
            break
    return size
