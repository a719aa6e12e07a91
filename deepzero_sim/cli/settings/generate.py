"""Settings of `deepzero-sim generate`: trajectories of a reference solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepzero_sim.cli.options import Command
from deepzero_sim.common.components import Component
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
        simulations: Solvers, initial states, restriction and length. A reference without a name is the source but for the args
            that it has.
        files: Files to write.
        workers: Workers that run simulations.
        on_failure: Response to a step of the reference solver that fails: abort or retry(3); or a mapping from kinds to these.
        solver: Coarse solver, as the other commands take it: the source of simulations that name none.
    """

    simulations: Simulations
    files: list[DataFile]
    workers: Workers = field(default_factory=Workers)
    on_failure: OnFailure = "abort"
    solver: Component | None = None

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take the source from the solver, and from the source what a reference without a name leaves out.

        Raises:
            ConfigError: The source is there twice, or nothing says what the reference is based on.
        """
        simulations, solver = values.get("simulations"), values.get("solver")
        if not isinstance(simulations, Mapping):
            return values
        source = simulations.get("source", solver)
        if solver is not None and source != solver:
            raise ConfigError("simulations.source is another solver than solver: leave out one of them.")
        if source is None:
            raise ConfigError(
                "the following settings are required: simulations.source, or solver in its place, such as --config solver.yaml "
                "before the settings of the data."
            )
        reference = simulations.get("reference")
        if isinstance(reference, Mapping) and "name" not in reference and isinstance(source, Mapping):
            reference = merge(source, reference)
        given = {"reference": reference} if "reference" in simulations else {}
        return {**values, "simulations": {**simulations, "source": source, **given}}

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


def merge(source: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys and values with changes to some, at any depth."""
    both = {key for key, value in changes.items() if isinstance(value, Mapping) and isinstance(source.get(key), Mapping)}
    return {**source, **{key: merge(source[key], value) if key in both else value for key, value in changes.items()}}


COMMANDS = {"generate": Command(GenerateSettings, "generate.make_data")}
