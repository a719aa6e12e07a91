"""Restrictions of generated data by name: those of data from disk, held to what both solvers say of their grids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.fitting.restriction import RESTRICTIONS
from deepzero_sim.datasets.generation.generate import generate
from deepzero_sim.datasets.generation.restrictions import restriction_of
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.errors import ConfigError, SolverError
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.solvers import WakeFlow
from deepzero_sim.solvers.wake import initial_state, restrict


def spec(points: int, offset: float | None = None, **more: Any) -> SolverSpec:
    """A solver of one channel on [0, 1): cells or nodes where an offset says so."""
    known = {} if offset is None else {"spacing": (1.0 / points,), "offsets": ((offset,),)}
    return SolverSpec(name="line", state_shape=(1, points), dt=1.0, **{"dtype": "float64", **known, **more})


def wave(one: SolverSpec) -> Array:
    return np.sin(2 * np.pi * one.coordinates(0, 0))[None, None].astype(one.dtype)


def test_every_restriction_has_its_name() -> None:
    assert {"block_mean", "face_mean", "spectral", "interpolation"} < set(RESTRICTIONS)
    fine, coarse = spec(64, 0.0), spec(16, 0.0)
    for name, tolerance in {"spectral": 1e-12, "injection": 0.0, "interpolation": 1e-12, "cubic_interpolation": 1e-12}.items():
        made = restriction_of(name, fine, coarse)(wave(fine))
        assert made.shape == (1, 1, 16) and np.abs(made - wave(coarse)).max() <= tolerance, name
    cells, blocks = spec(64, 0.5), spec(16, 0.5)
    for name in ("block_mean", "face_mean"):
        assert np.allclose(restriction_of(name, cells, blocks)(wave(cells)), wave(cells).reshape(1, 1, 16, 4).mean(-1)), name


def test_nodes_from_wall_to_wall_are_taken_where_both_grids_have_them() -> None:
    fine, coarse = (SolverSpec(name="rod", state_shape=(1, points), dt=1.0) for points in (65, 17))
    values = np.arange(65, dtype=np.float32)[None, None]
    assert restriction_of("injection", fine, coarse)(values)[0, 0].tolist() == list(range(0, 65, 4))


def test_a_restriction_by_name_is_that_of_a_staggered_solver(tmp_path: Path) -> None:
    """The wake's own restriction, written by hand for its walls and mask, in every frame of a file."""
    solvers = {
        key: Component("deepzero_sim.solvers.WakeFlow", {"resolution": n}) for key, n in (("reference", 16), ("source", 8))
    }
    by_hand = Simulations(
        **solvers,
        initial="deepzero_sim.solvers.wake.initial_state",
        restrict="deepzero_sim.solvers.wake.restrict",
        steps=4,
        discard=0,
    )
    made = []
    for number, settings in enumerate((by_hand, replace(by_hand, restrict="face_mean"))):
        generate(tmp_path / f"{number}.h5", settings, [[100.0], [300.0]], SerialExecutor(), lambda word: None)
        made.append(np.asarray(trajectories.load(tmp_path / f"{number}.h5").frames))
    assert made[0].dtype == made[1].dtype == np.float32 and np.abs(made[0] - made[1]).max() < 1e-6
    assert "restricted by `face_mean`" in " ".join((tmp_path / "1.md").read_text().split())
    fine, coarse = WakeFlow(16).spec, WakeFlow(8).spec
    states = initial_state(fine, np.array([[100.0]], np.float32))
    together = restriction_of("face_mean", fine, coarse)(np.concatenate([states, states]))
    assert np.abs(together - restrict(states, coarse)).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "fine", "coarse", "says"),
    [
        ("block_maen", spec(8), spec(4), "'block_maen' .did you mean 'block_mean'"),
        ("block_mean", spec(9), spec(4), r"along axis_0, channel_0 has 9 points, no whole multiple of 4"),
        ("block_mean", spec(4), spec(8), r"must be finer than the source's, but states are \(1, 4\) and \(1, 8\)"),
        ("block_mean", spec(8, 0.0), spec(4, 0.0), r"would give values at .* set restrict to what suits"),
        ("interpolation", spec(8), spec(4), "needs positions: give the specs of reference and source spacing and offsets"),
        ("interpolation", spec(4, 0.0), spec(8, 0.0), "must be finer than the source's"),
        (
            "block_mean",
            spec(8, channels=("a",)),
            spec(4, channels=("b",)),
            r"channels of the reference in their order, but .* a, not b",
        ),
        ("block_mean", replace(spec(8), state_shape=(2, 8)), spec(4), r"keeps channels and axes, but .*\(2, 8\).*\(1, 4\)"),
        ("block_mean", replace(spec(8), state_shape=(1, 8, 8)), spec(4), r"keeps channels and axes"),
        (
            "block_mean",
            spec(8, mask=np.array([[True] * 5 + [False] * 3])),
            spec(4, mask=np.array([[True] * 3 + [False]])),
            "for 1 of the source's values",
        ),
        (
            "block_mean",
            spec(8, mask=np.array([[True] * 3 + [False] + [True] * 4])),
            spec(4),
            r"needs points that the mask of reference 'line' leaves out, for 1 of the source's values",
        ),
    ],
)
def test_grids_that_do_not_suit_are_refused_before_anything_is_computed(
    name: str, fine: SolverSpec, coarse: SolverSpec, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        restriction_of(name, fine, coarse)
    assert "\n" not in str(refused.value)


def test_values_that_the_source_cannot_hold_are_refused() -> None:
    with pytest.raises(SolverError, match="what block_mean returned must be finite"):
        restriction_of("block_mean", spec(4), spec(2, dtype="float32"))(np.full((1, 1, 4), 1e200))


def test_padding_of_the_source_is_zero() -> None:
    masked = spec(4, mask=np.array([[True, False, True, True]]))
    assert restriction_of("block_mean", spec(8), masked)(np.ones((1, 1, 8))).tolist() == [[[1, 0, 1, 1]]]


CELLS = """
import deepzero_sim as dz

class Cells(dz.Solver):
    def __init__(self, points, offsets=()):
        self.spec = dz.SolverSpec(name="cells", state_shape=(1, points), dt=1.0, spacing=(1 / points,), offsets=offsets)

    def step(self, states, params=None):
        return 0.9 * states

def initial(spec, params):
    return 1 + spec.coordinates(0, 0)[None, None].astype(spec.dtype)
"""


@pytest.mark.parametrize(
    ("offsets", "restrict", "said"), [([], "block_mean", True), ([[0.5]], "block_mean", False), ([], "injection", False)]
)
def test_means_over_cells_whose_places_nobody_says_are_said(
    tmp_path: Path, offsets: list[list[float]], restrict: str, said: bool
) -> None:
    (tmp_path / "cells.py").write_text(CELLS)
    reference, source = (
        Component(f"{tmp_path / 'cells.py'}:Cells", {"points": points, "offsets": offsets}) for points in (8, 4)
    )
    settings = Simulations(reference, source, f"{tmp_path / 'cells.py'}:initial", restrict, steps=2, discard=0)
    sentences: list[str] = []
    generate(tmp_path / "cells.h5", settings, [[]], SerialExecutor(), lambda word: None, say=sentences.append)
    assert any("give it offsets of [0.5]" in one for one in sentences) == said == bool(sentences)
