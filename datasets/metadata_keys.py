"""Entries of metadata by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: Entries that may differ between data and a solver, where somebody says that it is meant.
MetadataKey: TypeAlias = Literal[
    "name",
    "dt",
    "channels",
    "channel_units",
    "parameters",
    "parameter_units",
    "axes",
    "spacing",
    "offsets",
    "mask",
]
