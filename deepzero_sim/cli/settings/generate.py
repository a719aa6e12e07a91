"""Settings of `deepzero-sim generate`: trajectories of a reference solver."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import Command
from deepzero_sim.common.settings import Settings
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.training.runs.settings import OnFailure, Positive, Seed, Workers


@dataclass
class DataFile(Settings):
    """One file of trajectories to be made.

    Args:
        output: HDF5 file.
        params: Scenario parameters, one row a scenario; none for a solver without parameters.
        starts: Number of simulations of each scenario, from different initial states; one if not given.
        seed: Seed of the initial states, where the function that makes them takes one.
    """

    output: Path
    params: list[list[float]] = field(default_factory=list)
    starts: Positive | None = None
    seed: Seed = 0

    @property
    def simulations(self) -> int:
        """Number of simulations."""
        return max(1, len(self.params)) * (self.starts or 1)


@dataclass
class GenerateSettings(Settings):
    """Data to be made.

    Args:
        simulations: Solvers, initial states, restriction and length.
        files: Files to write.
        workers: Workers that run simulations.
        on_failure: Response to a step of the reference solver that fails: abort or retry(3); or a mapping from kinds to these.
    """

    simulations: Simulations
    files: list[DataFile]
    workers: Workers = field(default_factory=Workers)
    on_failure: OnFailure = "abort"

    def __post_init__(self) -> None:
        super().__post_init__()
        if FailurePolicy(self.on_failure).ever_drops:
            raise ConfigError(
                f"on_failure of data must be abort or retry(3), not {self.on_failure!r}: a simulation with a gap is none."
            )
        if not self.files:
            raise ConfigError("no files are asked for: give files at least one output with its params or starts.")
        cards = [file.output.absolute().parent / file.output.stem for file in self.files]
        shared = next((card for card in cards if cards.count(card) > 1), None)
        if shared is not None:
            raise ConfigError(f"each output must have a name and a card of its own, but two would be {shared}: rename one.")


COMMANDS = {"generate": Command(GenerateSettings, "generate.make_data")}
