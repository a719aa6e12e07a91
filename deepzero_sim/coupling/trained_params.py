"""Scenario parameters of a solver that are trained: alone, which is calibration, or with the network, within their bounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from deepzero_sim.common.requirements import did_you_mean, require_that
from deepzero_sim.common.trained_parameter import TrainedParameter
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec

#: Share of its size by which a parameter is varied to learn of the solver with.
VARIED = 0.1


class TrainedParams(nn.Module):
    """Trained scenario parameters, called as ``trained(params, simulations)``: `(B, K)` and `(B,)` or None to `(B, K)`.

    Each is a smooth function of a weight `w` that begins with zero, so that an optimiser meets no bounds and all parameters
    are of one size to it: with `u = pace w`,

        p = start + r u                                   without bounds
        p = bound + (start - bound) exp(r u / (start - bound))   with one
        p = least + (most - least) / (1 + exp(-z - c u))  with two

    `r` is the size of the start, or its distance from the nearest bound if that is less; 1 if it is zero and there are no
    bounds. `z` belongs to the start, and `c` is so that `dp/du = r` there. The transforms of bounded parameters are those of
    EnsembleKalmanProcesses.jl (Dunbar et al. 2022, JOSS 7(80) 4869, "parameter distributions").

    Args:
        spec: Spec of the solver.
        trained: Trained parameters by their names in the spec.
        starts: Values that they start with, by name: `(1,)`, or `(S,)` of those with one a simulation.

    Attributes:
        columns: Numbers of the trained parameters among those of the solver.

    Raises:
        ConfigError: The solver has no such parameter, or bounds exclude a start.
    """

    def __init__(self, spec: SolverSpec, trained: Mapping[str, TrainedParameter], starts: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = spec.parameters
        self._trained = dict(trained)
        self.columns = tuple(_number_of(name, spec) for name in trained)
        self.weights = nn.ParameterDict()
        for column, (name, one) in zip(self.columns, self._trained.items(), strict=True):
            start = starts[name].double()
            for value in start.tolist():
                one.require_within(f"parameter {name!r}", value)
            self.register_buffer(_start_name(column), start)
            self.weights[str(column)] = nn.Parameter(torch.zeros_like(start))

    @property
    def per_simulation(self) -> bool:
        """True if a parameter has a value of its own for every simulation."""
        return any(one.per_simulation for one in self._trained.values())

    def bounds(self) -> tuple[Array, Array]:
        """Return the least and the most of every parameter of the solver, `(K,)` each, infinite for none."""
        low, high = np.full(len(self._names), -np.inf), np.full(len(self._names), np.inf)
        for column, one in zip(self.columns, self._trained.values(), strict=True):
            low[column], high[column] = one.bounds
        return low, high

    @torch.no_grad()
    def starts_from_here(self) -> dict[str, torch.Tensor]:
        """Return the present values as those that others start with, by name."""
        return {self._names[column]: self._value(column) for column in self.columns}

    def values(self) -> dict[str, float | list[float]]:
        """Return the trained values by name; a list over the simulations of those that have one each."""
        found = {name: value.tolist() for name, value in self.starts_from_here().items()}
        return {name: value if self._trained[name].per_simulation else value[0] for name, value in found.items()}

    def complete(self, params: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        """Return scenario parameters `(B, K)` of states; those that came if there are any.

        Raises:
            ConfigError: There are none, and not all are trained, with one value for all simulations.
        """
        if params is not None:
            return params
        missing = [name for name in self._names if name not in self._trained or self._trained[name].per_simulation]
        require_that(
            not missing, f"params must be given, as {', '.join(missing)} has no trained value for all simulations: pass (B, K)."
        )
        return states.new_zeros(len(states), len(self._names))

    def forward(self, params: torch.Tensor, simulations: torch.Tensor | None = None) -> torch.Tensor:
        """Put trained values in their columns.

        Args:
            params: Scenario parameters `(B, K)`; what stands in the columns of trained ones is not read, but for those of one
                value a simulation where nothing says which simulations these are.
            simulations: Numbers of the simulations in the training data, `(B,)`.
        """
        columns = list(params.unbind(dim=1))
        for column, one in zip(self.columns, self._trained.values(), strict=True):
            if one.per_simulation and simulations is None:
                continue
            value = self._value(column)
            columns[column] = (value[simulations] if one.per_simulation else value.expand(len(params))).to(params)
        return torch.stack(columns, dim=1)

    @torch.no_grad()
    def samples(self, params: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Return parameters `(B, K)` as varied as training may make them, by some :data:`VARIED` of their size.

        Args:
            params: Scenario parameters `(B, K)`.
            seed: Seed of the variation.
        """
        generator, columns = torch.Generator().manual_seed(seed), list(params.unbind(dim=1))
        for column in self.columns:
            moves = VARIED * torch.randn(len(params), generator=generator, dtype=torch.float64)
            values = torch.stack([self._value(column, float(move)) for move in moves])  # (B, 1 or S)
            which = torch.arange(len(params)) % values.shape[1]
            columns[column] = values[torch.arange(len(params)), which].to(params)
        return torch.stack(columns, dim=1)

    def _value(self, column: int, move: float = 0.0) -> torch.Tensor:
        """Compute the values of a parameter, one for all or one a simulation.

        Args:
            column: Number of the parameter.
            move: Change of the weight times the pace, `u`, from the present one.
        """
        one, start = self._trained[self._names[column]], self.get_buffer(_start_name(column))
        moved: torch.Tensor = _size(start, one) * (one.pace * self.weights[str(column)] + move)
        if one.least is None and one.most is None:
            return start + moved
        if one.least is None or one.most is None:
            bound = one.most if one.least is None else one.least
            apart = start - torch.full_like(start, bound)  # type: ignore[arg-type] # one of them is there
            return start - apart + apart * torch.exp(moved / apart)
        share = (start - one.least) / (one.most - one.least)
        slope = 1 / ((one.most - one.least) * share * (1 - share))
        value: torch.Tensor = one.least + (one.most - one.least) * torch.sigmoid(torch.logit(share) + slope * moved)
        return value


def _size(start: torch.Tensor, one: TrainedParameter) -> torch.Tensor:
    """Return the change of a parameter that is a large one: `r` of :class:`TrainedParams`."""
    own = torch.where(start == 0, torch.inf, start.abs())
    apart = [(start - bound).abs() for bound in (one.least, one.most) if bound is not None]
    size = torch.stack([own, *apart]).amin(dim=0)
    return torch.where(size.isinf(), torch.ones_like(size), size)


def module_of(corrector: nn.Module, trained: TrainedParams | None) -> nn.Module:
    """Return the module of all that is trained."""
    return corrector if trained is None else NetworkWithParams(corrector, trained)


#: Prefixes of the names of tensors in a :class:`NetworkWithParams`.
CORRECTOR, PARAMS = "corrector.", "trained_params."


def _start_name(column: int) -> str:
    return f"start_{column}"


def _number_of(name: str, spec: SolverSpec) -> int:
    if name in spec.parameters:
        return spec.parameters.index(name)
    known = f"those of solver {spec.name!r}, {', '.join(spec.parameters)}" if spec.parameters else "of a solver that has some"
    raise ConfigError(f"train_params must name parameters, {known}, not {name!r}{did_you_mean(name, spec.parameters)}.")


def starts_of(spec: SolverSpec, trained: Mapping[str, TrainedParameter], params: Array) -> dict[str, torch.Tensor]:
    """Return the values that parameters start with where settings name them, or as the data have them.

    Args:
        spec: Spec of the solver.
        trained: Trained parameters by name.
        params: Scenario parameters of the training data, `(S, K)`.
    """
    starts = {}
    for name, one in trained.items():
        values = torch.tensor(params[:, _number_of(name, spec)], dtype=torch.float64)
        found = values if one.per_simulation else values.mean(dim=0, keepdim=True)
        starts[name] = found if one.start is None else torch.full_like(found, one.start)
    return starts


def starts_within(tensors: Mapping[str, torch.Tensor], spec: SolverSpec) -> dict[str, torch.Tensor]:
    """Return the values that saved parameters began with, by name.

    Args:
        tensors: Tensors of :class:`TrainedParams`, by their names there.
        spec: Spec of the solver.
    """
    starts = ((name, tensors.get(_start_name(column))) for column, name in enumerate(spec.parameters))
    return {name: start for name, start in starts if start is not None}


class NetworkWithParams(nn.Module):
    """A corrector and the scenario parameters that are trained with it, as the one module that training knows.

    Args:
        corrector: Corrector.
        trained: Trained parameters.
    """

    def __init__(self, corrector: nn.Module, trained: TrainedParams) -> None:
        super().__init__()
        self.corrector, self.trained_params = corrector, trained

    def forward(self, states: torch.Tensor, params: torch.Tensor | None = None) -> torch.Tensor:
        output: torch.Tensor = self.corrector(states, params)
        return output
