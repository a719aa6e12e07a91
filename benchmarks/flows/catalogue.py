"""Flows by name: coarse solver, fine reference and differentiable twin, data, network. Nothing heavy is imported here.

All parts are named as settings name them, so that data and runs are made, and resumed, as those of any user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepzero_sim.cli.settings.bench import FlowMethod, FlowName
from deepzero_sim.cli.settings.generate import DataFile
from deepzero_sim.common.components import Component
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.solvers.wake import TEST_REYNOLDS, TRAIN_REYNOLDS

_HERE = "deepzero_sim.benchmarks.flows"

#: Seeds of the initial states of training and of unseen simulations.
TRAIN_SEED, TEST_SEED = 0, 1


@dataclass(frozen=True)
class Ensemble:
    """Simulations of a data file.

    Args:
        starts: Number of simulations of each row of parameters, from random initial states; None of a flow whose initial state
            is always the same.
        params: Rows of scenario parameters; none of a flow without.
    """

    starts: int | None
    params: tuple[float, ...] = ()

    def file(self, path: Path, seed: int) -> DataFile:
        """Return the settings of its file."""
        return DataFile(path, [[value] for value in self.params], self.starts, seed)


@dataclass(frozen=True)
class Flow:
    """Flow with a differentiable twin of its coarse solver.

    Args:
        description: Equation and grid, in a few words.
        coarse: Coarse solver.
        fine: Reference.
        twin: Differentiable solver of the coarse one's step.
        initial: Function of initial states.
        restrict: Restriction of the reference's states to the coarse grid.
        warm_up: Steps before the first frame.
        network: Corrector, whose convolutions suit the domain; the emulator has the same form.
        needs: Package that the solvers need besides the package's own, and the extra that has it.
        frames: Frames of a simulation.
        train: Simulations to train on.
        test: Unseen simulations.
        reference: Arguments of the reference Jacobian.
        jacobian_field: Arguments of the field.
        radius: Radius of the coloured product, in points; None where points have no order in space or are too many.
        untrained: Methods whose products are measured, but take so long that a training would take hours.
        larger: Ratios of larger domains, and grids, to its own, on which costs are measured too; 1 among them.
    """

    description: str
    coarse: Component
    fine: Component
    twin: Component
    initial: str
    restrict: str
    warm_up: int
    network: Component
    needs: tuple[str, str] = ("exponax", "bench")
    frames: int = 64
    train: Ensemble = Ensemble(16)
    test: Ensemble = Ensemble(6)
    reference: dict[str, Any] = field(default_factory=dict)
    jacobian_field: dict[str, Any] = field(default_factory=dict)
    radius: int | None = None
    untrained: tuple[FlowMethod, ...] = ()
    larger: tuple[int, ...] = ()

    @property
    def simulations(self) -> Simulations:
        """Settings of its simulations."""
        steps = self.warm_up + self.frames - 1
        return Simulations(self.fine, self.coarse, self.initial, self.restrict, steps, self.warm_up)


def _network(padding: str = "circular", **sizes: int) -> Component:
    return Component("small", {"width": 16, "blocks": 2, "kernel": 3, "padding": padding, **sizes})


def _spectral(flow: str, description: str, warm_up: int = 0, **changes: Any) -> Flow:
    solver = Component(f"{_HERE}.spectral.SpectralSolver", {"flow": flow})
    fine = Component(solver.name, {"flow": flow, "fine": True})
    given: dict[str, Any] = {"network": _network(), **changes}
    return Flow(description, solver, fine, solver, f"{_HERE}.spectral.initial", "spectral", warm_up, **given)


def _spectral_1d(flow: str, description: str, warm_up: int = 0) -> Flow:
    return _spectral(flow, description, warm_up, radius=4, train=Ensemble(24), network=_network(kernel=5))


def _own(module: str, solver: str, restrict: str, description: str, **changes: Any) -> Flow:
    name = f"{_HERE}.{module}.{solver}"
    coarse, fine = Component(name), Component(name, {"fine": True})
    return Flow(description, coarse, fine, coarse, f"{_HERE}.{module}.initial", restrict, 0, **changes)


def _wake() -> Flow:
    solver = "deepzero_sim.solvers.WakeFlow"
    return Flow(
        "wake of a cylinder, staggered, 64 x 32, dt 1",
        Component(solver, {"resolution": 32}),
        Component(solver, {"resolution": 128}),
        Component("deepzero_sim.solvers.PhiFlowWake", {"resolution": 32}),
        "deepzero_sim.solvers.wake.initial_state",
        "deepzero_sim.solvers.wake.restrict",
        600,
        _network("zeros", width=8, blocks=1),
        ("phi", "phiflow"),
        train=Ensemble(None, TRAIN_REYNOLDS),
        test=Ensemble(None, TEST_REYNOLDS),
        frames=128,
        reference={"block": 2},
        jacobian_field={"block": 2},
        radius=2,
    )


#: Flows by name, in the order of the report.
FLOWS: dict[FlowName, Flow] = {
    "burgers-1d": _spectral_1d("burgers-1d", "Burgers, 64 points, dt 0.01"),
    "korteweg-de-vries-1d": _spectral_1d("korteweg-de-vries-1d", "Korteweg-de Vries, 64 points, dt 0.02", 20),
    "kuramoto-sivashinsky-1d": _spectral_1d("kuramoto-sivashinsky-1d", "Kuramoto-Sivashinsky, 64 points, dt 0.25", 200),
    "kuramoto-sivashinsky-2d": _spectral("kuramoto-sivashinsky-2d", "Kuramoto-Sivashinsky, 32 x 32, dt 0.1", 200),
    "navier-stokes-2d": _spectral(
        "navier-stokes-2d", "Navier-Stokes, decaying vorticity, 32 x 32, dt 0.1", 10, larger=(1, 2, 4, 8, 16)
    ),
    "kolmogorov-2d": _spectral("kolmogorov-2d", "Navier-Stokes, Kolmogorov forcing, vorticity, 32 x 32, dt 0.1", 200),
    "burgers-2d": _spectral("burgers-2d", "Burgers, 2 channels, 32 x 32, dt 0.02"),
    "gray-scott-2d": _spectral("gray-scott-2d", "Gray-Scott, 2 channels, 32 x 32, dt 2.5", 20),
    "burgers-3d": _spectral(
        "burgers-3d",
        "Burgers, conservative, 3 channels, 16 x 16 x 16, dt 0.02",
        train=Ensemble(12),
        test=Ensemble(4),
        network=_network(width=8, blocks=1),
        reference={"block": 4},
        untrained=("ReferenceJacobian",),  # 0.8 s for the products of four states, which the solver advances in 2 ms
        larger=(1, 2, 4),
    ),
    "wake-2d": _wake(),
    "channel-2d": _own(
        "channel",
        "ChannelSolver",
        "block_mean",
        "advection, diffusion and reaction with walls, an obstacle and a variable coefficient, 32 x 32, dt 0.01",
        network=_network("replicate"),
        needs=("jax", "bench"),
        radius=2,
    ),
    "burgers-mesh": _own(
        "mesh",
        "MeshSolver",
        f"{_HERE}.mesh.restrict",
        "Burgers, linear finite elements on 225 vertices of an unstructured mesh, implicit, dt 0.02",
        network=Component(f"{_HERE}.networks.mesh_network", {"width": 16, "layers": 4}),
        needs=("skfem", "bench"),
    ),
}
