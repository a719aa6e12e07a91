"""One sentence for whatever libraries raise about a file that they cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deepzero_sim.errors import DataError, DeepZeroError

#: Length of a library's own words that a sentence repeats.
_WORDS = 300


@contextmanager
def explain(what: str, as_what: str, remedy: str) -> Iterator[None]:
    """Turn any exception but our own into one sentence.

    Libraries raise whatever they run into in damaged bytes: a SyntaxError of a header, a TokenError, an error of compression.

    Args:
        what: File, or a part of it.
        as_what: Content that it should have.
        remedy: Advice.

    Raises:
        DataError: Something was raised.
    """
    try:
        yield
    except DeepZeroError:
        raise
    except Exception as error:
        words = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
        words = words or type(error).__name__
        words = words if len(words) <= _WORDS else f"{words[:_WORDS]}.."
        if "allow_pickle" in words:
            words = "it holds pickled objects, which are not loaded"
        raise DataError(f"{what} cannot be read as {as_what} ({words}): {remedy}.") from error
