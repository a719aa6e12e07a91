"""Settings of `deepzero-sim check`: a check of a solver's contract, and of what training through it will cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deepzero_sim.cli.options import SEE_COMPONENTS, Command
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import Settings
from deepzero_sim.datasets.metadata_keys import MetadataKey
from deepzero_sim.datasets.source import Source
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.runs.settings import Positive, Seconds, Seed, small_network


@dataclass
class CheckSolverSettings(Settings):
    """A check of a solver's contract, and of what training through it will cost.

    Args:
        name: Solver, where it takes no arguments: an import path or file.py:Name.
        solver: Solver with its arguments, in place of name.
        data: Trajectories whose frames are the sample states; without data or initial, they are made up.
        initial: Import path or file.py:Name of initial(spec, params) or initial(spec, params, seed), which makes sample states.
        params: Scenario parameters, one row a sample state.
        output: Folder of the check's solver_check.json and solver_check.md; none to print it only.
        seconds: Seconds that the check may take, about; what does not fit is left out, and says so.
        network: Corrector whose gradients' cost is estimated: small, mercury, mars_moon, or an import path or file.py:Name.
        unroll: Solver steps of a rollout, for that.
        batch_size: Rollouts of a gradient, likewise.
        seed: Seed of everything that is drawn.
        data_may_differ: Things that the data may say otherwise than the solver: name, dt, channels, mask and so on.
    """

    name: str | None = None
    solver: Component | None = None
    data: Source | None = None
    initial: str | None = None
    params: list[list[float]] | None = None
    output: Path | None = None
    seconds: Seconds = 60.0
    network: Component = field(default_factory=small_network)
    unroll: Positive = 8
    batch_size: Positive = 2
    seed: Seed = 0
    data_may_differ: list[MetadataKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.name is None) == (self.solver is None):
            raise ConfigError("name one solver: as deepzero-sim check file.py:Name or, with arguments, by solver in --config.")
        if self.data is not None and (self.initial is not None or self.params is not None):
            raise ConfigError("sample states come from data, which hold their params, or from initial and params: not both.")

    @property
    def component(self) -> Component:
        """Solver, however it was named."""
        return self.solver if self.solver is not None else Component(str(self.name))


COMMANDS = {"check": Command(CheckSolverSettings, "check_solver.run", positional="name", see=SEE_COMPONENTS)}
