"""Restriction of the reference's states to the source's grid, by name or by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from deepzero_sim.common.components import call_function
from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.fitting.regridding import Restriction, grid_of_solver
from deepzero_sim.datasets.source import is_function
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_states

#: Restriction of states `(B, C, *N)` of the reference to those of the source.
Restrict: TypeAlias = Callable[[Array], Array]

#: Restrictions by name, in the order that they are proposed in: of cells, of nodes, of staggered fields, of all others.
SUITABLE = ("block_mean", "injection", "face_mean", "interpolation")


def restriction_of(name: str, reference: SolverSpec, source: SolverSpec) -> Restrict:
    """Return the restriction that a name stands for.

    Args:
        name: Name of a restriction of this package, or import path or `file.py:Name` of ``restrict(states, spec)``.
        reference: Spec of the reference solver.
        source: Spec of the source solver.

    Raises:
        ConfigError: There is no such restriction, or it does not suit the grids of the two.
    """
    restrict = _by_function(name, source) if is_function(name) else _by_name(name, reference, source)

    def check_and_restrict(states: Array) -> Array:
        frame = restrict(states)
        check_states(source, frame, f"what {name} returned", "check it on one state", batch=len(states))
        return frame

    return check_and_restrict


def _by_function(name: str, source: SolverSpec) -> Restrict:
    return lambda states: call_function(name, states, source)


def _by_name(name: str, reference: SolverSpec, source: SolverSpec) -> Restrict:
    for what, ours, theirs in (("channels", source.channels, reference.channels), ("axes", source.axes, reference.axes)):
        require_that(
            not ours or not theirs or ours == theirs,
            f"restrict: {name} takes the {what} of the reference in their order, but they are {', '.join(theirs)}, not "
            f"{', '.join(ours)} as the source's: name them alike, or restrict by a function, restrict(states, spec).",
        )
    fine, coarse = grid_of_solver(reference), grid_of_solver(source)
    shapes = (reference.state_shape, source.state_shape)
    require_that(
        shapes[0][0] == shapes[1][0] and len(shapes[0]) == len(shapes[1]),
        f"restrict: {name} keeps channels and axes, but states of the reference are {shapes[0]} and those of the source "
        f"{shapes[1]}: restrict by a function, restrict(states, spec).",
    )
    require_that(
        all(theirs >= ours for theirs, ours in zip(*(shape[1:] for shape in shapes), strict=True)),
        f"restrict: the grid of reference {reference.name!r} must be finer than the source's, but states are {shapes[0]} and "
        f"{shapes[1]}: exchange the two.",
    )
    require_that(
        "interpolation" not in name or all(one.spacing and one.offsets for one in (reference, source)),
        f"restrict: {name} needs positions: give the specs of reference and source spacing and offsets, or take another.",
    )
    try:
        restriction = Restriction(name, fine, coarse, f"what reference {reference.name!r} computes", source.name)
    except DataError as error:  # no data are at fault here, but settings
        raise ConfigError(str(error)) from error
    active = source.active()
    require_that(
        bool(restriction.mask[active].all()),
        f"restrict: {name} needs points that the mask of reference {reference.name!r} leaves out, for "
        f"{int((active & ~restriction.mask).sum())} of the source's values: restrict by a function, restrict(states, spec).",
    )

    def restrict(states: Array) -> Array:
        with np.errstate(over="ignore"):  # infinity is refused
            return np.where(active, restriction(states), 0.0).astype(source.dtype)

    return restrict
