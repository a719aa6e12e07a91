"""Settings of `deepzero-sim convert`: data of any known layout into one file of trajectories."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from deepzero_sim.cli.options import Command
from deepzero_sim.common.components import Component
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import DataSource


@dataclass(kw_only=True)
class ConvertSettings(DataSource):
    """A conversion of data of any known layout.

    Args:
        path: File or folder of the data to read.
        output: File to write, such as data.h5; nothing is replaced.
        solver: Solver whose grid, step, channels and parameters the data are fitted to; none to take them as they are.
        to: Layout to write: that of this package, or The Well's.
        data_may_differ: Things that the data may say otherwise than the solver: dt, channel_units, spacing, mask and so on.
    """

    output: Path
    solver: Component | None = None
    to: Literal["deepzero-sim", "well"] = "deepzero-sim"
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    @property
    def source(self) -> DataSource:
        """Data to convert, and what is said of them."""
        return DataSource(**{one.name: getattr(self, one.name) for one in fields(DataSource)})


COMMANDS = {"convert": Command(ConvertSettings, "convert.run", "path", also_called=("data", "path"))}
