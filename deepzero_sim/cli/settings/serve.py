"""Settings of `deepzero-sim serve`: a trained run, offered over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import Source


@dataclass
class ServeSettings(Settings):
    """A trained run, offered over HTTP.

    Args:
        run: Run folder.
        host: Name or address of this machine to listen on. There is no password: others reach it as they reach the address.
        port: Port to listen on; 0 for a free one.
        timeout: Seconds that one evaluation may take.
        data: Trajectories that batches of the loss are cut from; the run's training data if none are given.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int = 4242
    timeout: float = 300.0
    data: Source | None = None
    data_may_differ: list[MetadataKey] = field(default_factory=list)


COMMANDS = {"serve": Command(ServeSettings, "serve.run", runs=lambda settings: [settings.run])}
