"""Names of files of a run folder that settings are held to."""

from __future__ import annotations

#: Settings of a run.
CONFIG = "config.yaml"
