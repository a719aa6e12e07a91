"""Couplings: where in a step of the solver the network acts.

In every step the network is asked once, before or after the solver: `n = C(s)` or `n = C(P(s))`. What it returns changes what
the solver takes, or what the solver gave.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias, final, get_args

import torch

from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.stepped_inputs import with_input_channels, with_inputs_at_rest

#: Golden ratio, whose multiples are spread evenly between whole numbers.
GOLDEN = (5**0.5 - 1) / 2


class Coupling(abc.ABC):
    """A way for a network to act on the steps of a solver; it keeps no state.

    Attributes:
        network_first: True if the network is asked before the solver, on the state that the step begins with.
        of_inputs: True if the network provides the solver's inputs, False if it corrects states.
    """

    network_first: ClassVar[bool]
    of_inputs: ClassVar[bool] = False

    def adapt(self, solver: Solver) -> Solver:
        """Return the solver that is stepped: with its inputs, if it reads any, at the values of its spec.

        Raises:
            ConfigError: The coupling does not suit the solver.
        """
        return with_inputs_at_rest(solver)

    def output_shape(self, spec: SolverSpec) -> tuple[int, ...]:
        """Return the shape of what the network returns for a state, without the batch axis."""
        return spec.input_shape if self.of_inputs else spec.state_shape

    def before(self, states: torch.Tensor, output: torch.Tensor | None, spec: SolverSpec) -> torch.Tensor:
        """Return what the stepped solver takes.

        Args:
            states: States `(B, C, *N)`.
            output: Output of the network, `(B, *output_shape)`; None if the network is asked after the solver.
            spec: Spec of the solver.
        """
        return states

    def after(self, advanced: torch.Tensor, output: torch.Tensor, spec: SolverSpec) -> torch.Tensor:
        """Return the states one coupled step later, `(B, C, *N)`.

        Args:
            advanced: States that the stepped solver gave.
            output: Output of the network, `(B, *output_shape)`.
            spec: Spec of the solver.
        """
        return advanced

    def samples(self, states: torch.Tensor, output: torch.Tensor, spec: SolverSpec) -> torch.Tensor:
        """Return what the stepped solver takes, varied as much as training may vary it, to learn of the solver with.

        Args:
            states: States of the data, `(B, C, *N)`.
            output: Output of the network that training starts with, for them.
            spec: Spec of the solver.
        """
        return self.before(states, output if self.network_first else None, spec)


@final
class After(Coupling):
    """A correction of what the solver gave: `s' = P(s) + C(P(s))`."""

    network_first = False

    def after(self, advanced: torch.Tensor, output: torch.Tensor, spec: SolverSpec) -> torch.Tensor:
        return advanced + output.to(advanced)


@final
class Before(Coupling):
    """A correction of what the solver takes: `s' = P(s + C(s))`."""

    network_first = True

    def before(self, states: torch.Tensor, output: torch.Tensor | None, spec: SolverSpec) -> torch.Tensor:
        assert output is not None
        return states + output.to(states)


@final
class Inside(Coupling):
    """Fields that the solver reads besides its state, such as an eddy viscosity or a forcing: `s' = P(s, u)` with

        u = value + scale * C(s)

    within `least` and `most` of each :class:`~deepzero_sim.InputField` of the solver's spec.
    """

    network_first = True
    of_inputs = True

    def adapt(self, solver: Solver) -> Solver:
        if not solver.spec.inputs:
            raise ConfigError(
                f"coupling inside needs a solver that reads inputs, and the spec of {solver.spec.name!r} names none: give "
                "inputs to its spec, or take coupling after."
            )
        return with_input_channels(solver)

    def before(self, states: torch.Tensor, output: torch.Tensor | None, spec: SolverSpec) -> torch.Tensor:
        assert output is not None
        fields = [_field(output[:, i], one.value, one.scale, one.least, one.most) for i, one in enumerate(spec.inputs)]
        active = torch.from_numpy(spec.active_inputs()).to(states)
        return torch.cat([states, torch.stack(fields, dim=1).to(states) * active], dim=1)

    def after(self, advanced: torch.Tensor, output: torch.Tensor, spec: SolverSpec) -> torch.Tensor:
        return advanced[:, : spec.state_shape[0]]

    def samples(self, states: torch.Tensor, output: torch.Tensor, spec: SolverSpec) -> torch.Tensor:
        """Return states with fields that are varied by smooth noise of all shares, from nothing to each field's scale.

        What matters most of a network that is trained already are its own fields.
        """
        shares = torch.arange(len(output), dtype=torch.float64) * GOLDEN % 1  # spread evenly over any few of the states
        return self.before(
            states, output + shares.to(output).reshape(-1, *[1] * (output.dim() - 1)) * smooth_noise(output), spec
        )


def smooth_noise(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Draw fields `(B, U, *N)` of unit size that vary over a fifth of the domain, and a tenth of that from point to point."""
    generator, grid = torch.Generator().manual_seed(seed), like.shape[2:]
    coarse = torch.randn(*like.shape[:2], *[5] * len(grid), generator=generator)
    smooth = coarse
    for axis, points in enumerate(grid, start=2):
        place = torch.linspace(0, 4, points)
        below = place.floor().long().clamp(max=3)
        share = (place - below).reshape(-1, *[1] * (smooth.dim() - 1 - axis))
        smooth = torch.lerp(smooth.index_select(axis, below), smooth.index_select(axis, below + 1), share)
    return (smooth + 0.1 * torch.randn(like.shape, generator=generator)).to(like)


def _field(output: torch.Tensor, value: float, scale: float, least: float | None, most: float | None) -> torch.Tensor:
    field = value + scale * output
    return field if least is None and most is None else field.clamp(least, most)


#: Couplings that have a name.
CouplingName: TypeAlias = Literal["after", "before", "inside"]

_BY_NAME: Mapping[str, type[Coupling]] = {"after": After, "before": Before, "inside": Inside}


def as_coupling(given: CouplingName | Coupling) -> Coupling:
    """Return a coupling as it is, or make the one that a name stands for.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(given, Coupling):
        first = getattr(given, "network_first", None)
        if not isinstance(first, bool):
            raise ConfigError(
                f"coupling {type(given).__name__} must set network_first to True, for a network that is asked before the "
                f"solver, or to False, not {first!r}."
            )
        return given
    if isinstance(given, str) and given in _BY_NAME:
        return _BY_NAME[given]()
    if isinstance(given, type) and issubclass(given, Coupling):
        raise ConfigError(f"coupling must be a coupling, not its class: call it, {given.__name__}().")
    names = ", ".join(get_args(CouplingName))
    raise ConfigError(f"coupling must be one of {names}, or a dz.couplings.Coupling, not {given!r}.")
