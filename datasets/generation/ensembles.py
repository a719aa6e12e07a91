"""Ensembles of simulations: which there are, the seed of each, and which of them came out the same."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepzero_sim.common.components import call_function, load
from deepzero_sim.common.files import ArrayInParts, digest
from deepzero_sim.common.requirements import require_that
from deepzero_sim.common.types import Array
from deepzero_sim.datasets.frames import Frames, blocks, select
from deepzero_sim.errors import ConfigError
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solver.validation import check_states

#: Arguments of a function of initial states, and kinds of arguments that are given by place.
_ARGUMENTS = ("spec", "params", "seed")
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

#: Most simulations that a sentence lists.
MOST_LISTED = 8


class Member(NamedTuple):
    """One simulation of an ensemble.

    Args:
        number: Number of the simulation.
        params: Scenario parameters.
        seed: Seed of its initial state; None for a function of initial states that takes none.
    """

    number: int
    params: tuple[float, ...]
    seed: int | None = None

    def describe(self, spec: SolverSpec) -> str:
        """Name the simulation by its number and parameters."""
        values = ", ".join(f"{name} = {value:g}" for name, value in zip(spec.parameters, self.params, strict=True))
        return f"simulation {self.number}" + (f" ({values})" if values else "")


def ensemble(params: Sequence[Sequence[float]], starts: int | None, seed: int, spec: SolverSpec, initial: str) -> list[Member]:
    """List the simulations of a file, start after start of each row of parameters.

    Args:
        params: Scenario parameters, one row a scenario; none for a solver without parameters.
        starts: Number of initial states of each scenario; one if None.
        seed: Seed of all initial states.
        spec: Spec of the source solver.
        initial: Name of the function of initial states.

    Raises:
        ConfigError: The parameters are not those of the solver, nothing is asked for, or initial states cannot differ.
    """
    require_that(starts is None or starts >= 1, f"starts must be a positive number, not {starts}.")
    rows = [tuple(row) for row in params] if params or starts is None else [()]
    _require_params(rows, spec)
    seeded = takes_seed(initial)
    require_that(
        seeded or starts is None or starts == 1,
        f"{starts} starts need initial states that differ, but {initial} takes no seed: write it as "
        "initial(spec, params, seed), or ask for one start.",
    )
    repeated = [row for row in rows for _ in range(starts or 1)]
    return [Member(i, row, _seed_of(seed, i) if seeded else None) for i, row in enumerate(repeated)]


def _require_params(params: Sequence[Sequence[float]], spec: SolverSpec) -> None:
    expected = len(spec.parameters)
    for row in params:
        require_that(
            len(row) == expected,
            f"every simulation needs {expected} parameters ({', '.join(spec.parameters) or 'none'}) for solver "
            f"{spec.name!r}, but one has {len(row)}: {list(row)}.",
        )
        require_that(all(map(math.isfinite, row)), f"parameters of simulations must be finite numbers, not {list(row)}.")
    require_that(bool(params), "no simulations are asked for: give params at least one row, or a number of starts.")


def _seed_of(seed: int, number: int) -> int:
    """Draw the seed of a simulation, below 2**32: files of other seeds have other initial states."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def takes_seed(name: str) -> bool:
    """Tell a function of initial states that takes a seed: a third argument that is named so, or has no default.

    Raises:
        ConfigError: There is no such function, or it takes neither `(spec, params)` nor `(spec, params, seed)`.
    """
    function = load(name)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # compiled, or no function at all, which is said where it is called
        return False
    by_place = [entry for entry in signature.parameters.values() if entry.kind in _BY_PLACE]
    seeded = len(by_place) > 2 and (by_place[2].name == "seed" or by_place[2].default is inspect.Parameter.empty)
    try:
        signature.bind(*_ARGUMENTS[: 3 if seeded else 2])
    except TypeError as error:
        raise ConfigError(
            f"{name} makes initial states and is called as initial(spec, params) or initial(spec, params, seed), but it takes "
            f"{signature}: write it in one of these forms."
        ) from error
    return seeded


def initial_state(initial: str, spec: SolverSpec, member: Member) -> tuple[Array, Array]:
    """Make the initial state of a simulation, `(1, C, *N)`, and its parameters, `(1, K)`, as its reference solver takes them.

    Args:
        initial: Name of the function of initial states.
        spec: Spec of the reference solver.
        member: The simulation.
    """
    params = np.array([member.params], dtype=spec.dtype)
    seed = () if member.seed is None else (member.seed,)
    states = call_function(initial, spec, params, *seed)
    check_states(spec, states, f"what {initial} returned", "check it on one row of params", batch=1)
    return states, params


def describe_identical(frames: Frames) -> str | None:
    """Say which simulations are the same, bit for bit; None if no two are."""
    by_content = defaultdict(list)
    for simulation in range(frames.shape[0]):
        by_content[_digest_of(select(frames, [simulation]))].append(simulation)
    groups = [group for group in by_content.values() if len(group) > 1]
    if not groups:
        return None
    listed = "; ".join(_list(group) for group in groups[:MOST_LISTED]) + ("; and more" if len(groups) > MOST_LISTED else "")
    return (
        f"{listed} are identical, and say no more than one of them: let initial(spec, params, seed) make another state of "
        "every seed, or give them other params."
    )


def _digest_of(frames: Frames) -> str:
    return digest([], [ArrayInParts(frames.dtype, frames.shape, (block.states for block in blocks(frames)))])


def _list(group: Sequence[int]) -> str:
    if len(group) > MOST_LISTED:
        return f"{len(group)} simulations ({', '.join(map(str, group[:3]))} ... {group[-1]})"
    return f"simulations {', '.join(map(str, group[:-1]))} and {group[-1]}"
