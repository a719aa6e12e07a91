"""An evaluation that is under way: whether somebody still waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deepzero_sim.errors import ServerError


class Evaluation:
    """One evaluation of a model, which runs in a thread of its own and may be given up from another one."""

    def __init__(self) -> None:
        self._reason: str | None = None

    def give_up(self, reason: str) -> None:
        """Tell the evaluation to end at its next :func:`check`.

        Args:
            reason: a sentence for the client, if there still is one.
        """
        self._reason = reason

    def check(self) -> None:
        """Go on only if somebody waits for the answer.

        Raises:
            ServerError: nobody does.
        """
        if self._reason is not None:
            raise ServerError(self._reason)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make this the evaluation of the present thread."""
        _HERE.evaluation = self
        try:
            yield
        finally:
            del _HERE.evaluation


_HERE = threading.local()


def check() -> None:
    """Go on only if somebody waits for what this thread evaluates, or if that is asked for by nobody else.

    Raises:
        ServerError: nobody does.
    """
    evaluation: Evaluation | None = getattr(_HERE, "evaluation", None)
    if evaluation is not None:
        evaluation.check()
