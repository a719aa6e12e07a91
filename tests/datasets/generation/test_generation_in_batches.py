"""Simulations that are stepped in one call: neither workers, kills nor failures of others change a bit of any."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.frames import IN_MEMORY
from deepzero_sim.datasets.generation import simulation_tasks
from deepzero_sim.datasets.generation.batch import MOST_NUMBERS, TOGETHER, Batch, batches
from deepzero_sim.datasets.generation.ensembles import Member
from deepzero_sim.datasets.generation.generate import generate
from deepzero_sim.datasets.generation.simulations import Simulations
from deepzero_sim.errors import ConfigError, DeepZeroError, SolverError, SolverKilledError, StatesFailedError
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.solver.contract import Solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.spec import SolverSpec

#: A solver that rounds by the size of the batch and the place in it, as some libraries do, and fails for a rate of 5.
ROUNDS = """
    import numpy as np
    import deepzero_sim as dz

    class Rounds(dz.Solver):
        def __init__(self, points=4, fails="never"):
            self.spec = dz.SolverSpec(
                name="rounds", state_shape=(1, points), dt=1.0, dtype="float64", parameters=("rate",)
            )
            self.fails = fails

        def step(self, states, params=None):
            if self.fails == "whole" and (params == 5).any():
                raise ValueError("a rate of 5")
            if self.fails == "wrongly set" and (params == 5).any():
                raise dz.ConfigError("a rate of 5 is not to be had.")
            places = np.arange(len(states))[:, None, None]
            made = 0.9 * states + params[:, :, None] + 1e-9 * len(states) + 1e-12 * places
            if self.fails == "infinite":
                made[params[:, 0] == 5] = np.inf
            return made

    def initial(spec, params, seed):
        if params[0, 0] == 7:
            raise ValueError("a rate of 7")
        return np.random.default_rng(seed).normal(size=(1, *spec.state_shape))

    def restrict(states, spec):
        return states[:, :, ::2].copy()

    def strict(states, spec):
        if (states > 30).any():
            raise ValueError("more than 30")
        return restrict(states, spec)
"""

RATES = [[float(rate)] for rate in (1, 2, 3, 4, 0, 6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rounds.py").write_text(textwrap.dedent(ROUNDS))
    return tmp_path


def simulations(folder: Path, fails: str = "never", **changes: object) -> Simulations:
    file = folder / "rounds.py"
    fine, coarse = (Component(f"{file}:Rounds", {"points": points, "fails": fails}) for points in (4, 2))
    made = Simulations(fine, coarse, f"{file}:initial", f"{file}:restrict", 6, 1, batch_size=3)
    return replace(made, **changes)  # type: ignore[arg-type]


def frames_of(
    path: Path, settings: Simulations, params: Sequence[Sequence[float]] = RATES, executor: Executor | None = None
) -> Array:
    rows = [list(row) for row in params]
    assert generate(path, settings, rows, executor or SerialExecutor(), lambda word: None)
    return np.asarray(trajectories.load(path).frames)


def test_the_solver_of_these_tests_rounds_by_the_batch(folder: Path) -> None:
    together, alone = (frames_of(folder / f"{size}.h5", simulations(folder, batch_size=size)) for size in (3, 1))
    assert not np.array_equal(together, alone) and np.allclose(together, alone, atol=1e-6)


def test_workers_change_no_bit_of_what_is_stepped_together(folder: Path, executors: dict[str, Executor]) -> None:
    made = [frames_of(folder / f"{name}.h5", simulations(folder), executor=one) for name, one in executors.items()]
    assert len(made) > 2 and all(np.array_equal(one, made[0]) for one in made)


def test_parts_that_a_kill_left_change_no_bit_of_those_made_later(folder: Path) -> None:
    whole = frames_of(folder / "whole.h5", simulations(folder))
    file, said = folder / "killed.h5", list[str]()
    with pytest.raises(KeyboardInterrupt):
        generate(file, simulations(folder), RATES, SerialExecutor(), _kill_at_the_end())
    (parts,) = folder.glob("killed.h5.*.parts")
    for number in (1, 2, 3):  # of the first batch and of the second
        (parts / f"{number:04d}.h5").unlink()
    assert generate(file, simulations(folder), RATES, SerialExecutor(), said.append)
    assert sorted(said) == ["found"] * 3 + ["made"] * 3
    assert np.array_equal(np.asarray(trajectories.load(file).frames), whole)


def _kill_at_the_end() -> Callable[[str], None]:
    said: list[str] = []

    def report(word: str) -> None:
        said.append(word)
        if len(said) == len(RATES):
            raise KeyboardInterrupt

    return report


def test_a_batch_is_reported_before_the_next_one_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this thread, too: a bar that moves only at the end tells nobody how long it takes."""
    order: list[str] = []
    run = simulation_tasks._simulate

    def note(task: simulation_tasks.Task) -> Any:
        order.append("begun")
        return run(task)

    monkeypatch.setattr(simulation_tasks, "_simulate", note)
    generate(folder / "data.h5", simulations(folder), RATES, SerialExecutor(), order.append)
    assert order == (["begun"] + ["made"] * 3) * 2


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("whole", r"a rate of 5 .*failure: exception, step 1, simulation {} \(rate = 5\)"),
        ("infinite", r"must be finite.*step 1, simulation {} \(rate = 5\)"),
        ("wrongly set", r"a rate of 5 is not to be had \(in simulation {} \(rate = 5\)\)"),
    ],
)
def test_one_that_fails_changes_no_bit_of_the_others(folder: Path, fails: str, says: str, place: int) -> None:
    params = [[1.0], [2.0], [3.0]]
    whole = frames_of(folder / "whole.h5", simulations(folder, fails), params)
    params[place] = [5.0]
    with pytest.raises(DeepZeroError, match=says.format(place)):
        frames_of(folder / "failed.h5", simulations(folder, fails), params)
    (parts,) = folder.glob("failed.h5.*.parts")
    others = [number for number in range(3) if number != place]
    assert sorted(part.name for part in parts.iterdir()) == [f"{number:04d}.h5" for number in others]
    (folder / "rounds.py").write_text("")  # the parts alone say what follows
    import h5py  # noqa: PLC0415

    for number in others:
        with h5py.File(parts / f"{number:04d}.h5") as file:
            assert np.array_equal(file["frames"][()], whole[number])


def test_initial_states_and_restrictions_fail_by_themselves(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a rate of 7; .* \(in simulation 1 \(rate = 7\)\)"):
        frames_of(folder / "a.h5", simulations(folder), [[1.0], [7.0], [2.0]])
    strict = simulations(folder, restrict=f"{folder / 'rounds.py'}:strict")
    with pytest.raises(ConfigError, match=r"more than 30; .* \(in simulation 2 \(rate = 60\)\)"):
        frames_of(folder / "b.h5", strict, [[1.0], [2.0], [60.0]])
    for name, there in (("a", ["0000.h5", "0002.h5"]), ("b", ["0000.h5", "0001.h5"])):
        (parts,) = folder.glob(f"{name}.h5.*.parts")
        assert sorted(part.name for part in parts.iterdir()) == there


class Faulty(Solver):
    """Fails as it is told, call by call: numbers are places, text is the reason why a whole call fails, None is well."""

    def __init__(self, *calls: object) -> None:
        self.spec = SolverSpec(name="faulty", state_shape=(1, 2), dt=1.0)
        self.calls = list(calls)
        self.sizes: list[int] = []

    def step(self, states: Array, params: Array | None = None) -> Array:
        self.sizes.append(len(states))
        told = self.calls.pop(0) if self.calls else None
        if isinstance(told, str):
            raise SolverError(told)
        if told is not None:
            raise StatesFailedError({told: SolverKilledError("killed", 9)}, states + 1)  # type: ignore[dict-item]
        return states + 1


def begun(solver: Solver, count: int = 3, policy: str = "abort") -> Batch:
    members = [Member(number, (), number) for number in range(count)]
    return Batch(solver, members, f"{__file__}:number_of", FailurePolicy(policy))


def number_of(spec: SolverSpec, params: Array, seed: int) -> Array:
    return np.full((1, *spec.state_shape), seed, dtype=spec.dtype)


def test_steps_are_counted_with_those_taken_again() -> None:
    assert begun(Faulty()).step(1).steps == 3
    solver = Faulty(1)  # the second fails, and the others are stepped anew with a copy of the first in its place
    batch = begun(solver)
    assert batch.step(1).steps == 6 and solver.sizes == [3, 3] and set(batch.failures) == {1}
    assert batch.states[[0, 2], 0, 0].tolist() == [1, 3]
    assert batch.step(2).steps == 3 and batch.states[:, 0, 0].tolist() == [2, 2, 4]


def test_retries_are_counted_and_named() -> None:
    batch = begun(Faulty(1), policy="retry(1)")
    account = batch.step(4)
    assert account.steps == 4 and not batch.failures
    assert [(one.action, one.query) for one in account.incidents] == [("retried", "step 4, simulation 1")]


def test_a_call_that_fails_though_each_state_alone_does_not_fails_for_all() -> None:
    batch = begun(Faulty("busy"))
    batch.step(1)
    assert batch.is_over and all("busy" in str(error) for error in batch.failures.values())


def test_batches_depend_on_settings_and_solvers_alone(folder: Path) -> None:
    spec = SolverSpec(name="a", state_shape=(1, 8), dt=1.0)
    items = [Member(number, (), None) for number in range(10)]
    settings = simulations(folder, batch_size=None)
    parted = batches(items, settings, spec, spec)
    assert [[member.number for member in one] for one in parted] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]] and TOGETHER == 4
    assert len(batches(items, settings, replace(spec, max_batch=2), spec)) == 5
    large = replace(spec, state_shape=(1, MOST_NUMBERS // 2))
    assert (
        len(batches(items, settings, large, spec)) == 5
        and len(batches(items, replace(settings, batch_size=10), large, spec)) == 1
    )
    long = replace(settings, steps=IN_MEMORY // 32 // 3, discard=0)
    assert len(batches(items, long, spec, spec)) == 5, "frames of a batch must fit into memory together"


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_batch_has_a_size(folder: Path, size: object) -> None:
    with pytest.raises(ConfigError, match="batch_size must be a positive number of simulations"):
        simulations(folder, batch_size=size)
