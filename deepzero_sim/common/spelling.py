"""Names that settings misspell."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from deepzero_sim.errors import ConfigError


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The known name that is most like one that is not, as a question in parentheses to be put behind it; empty if none is."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def require_known(given: Iterable[object], known: Sequence[str], what: str) -> None:
    """Refuse names that there are not.

    Args:
        given: the names.
        known: those that there are.
        what: has them, for messages.

    Raises:
        ConfigError: one of the names is none of them.
    """
    for name in given:
        if name not in known:
            raise ConfigError(f"{what} may have {', '.join(known)}, not {name!r}{did_you_mean(name, known)}.")
