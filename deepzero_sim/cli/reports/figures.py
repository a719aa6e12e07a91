"""Figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepzero_sim.common.files import replace_file
from deepzero_sim.errors import MissingExtraError


def pyplot() -> Any:
    """Import matplotlib's pyplot, set to draw without a screen.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional, and slow to import

        mpl.use("Agg")
        from matplotlib import pyplot as plot  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("drawing figures", "matplotlib", "report") from error
    return plot


def save(plot: Any, path: Path, figure: Any) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    with replace_file(path) as aside:
        figure.savefig(aside, format="png", dpi=110, bbox_inches="tight")
    plot.close(figure)
