"""Settings as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepzero_sim.common.documents import write_yaml


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Plain settings as they are listed on a page."""
    return write_yaml(dict(settings))


def plain(settings: Any) -> dict[str, Any]:
    """Settings as plain values, the run's own path left out: a folder may be moved."""

    def value(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: value(entry) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [value(entry) for entry in item]
        return str(item) if isinstance(item, Path) else item

    return {key: value(item) for key, item in asdict(settings).items() if key != "run"}
