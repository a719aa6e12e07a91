"""The solver contract: what a spec refuses, and what `checked_step` catches on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from problems import Burgers, Counting, LogisticSolver, initial_states

from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, InvalidStateError, NonFiniteError, SolverCrashError, SolverError
from deepzero_sim.solver.contract import Solver, as_solver
from deepzero_sim.solver.spec import SolverSpec, entries_but_mask
from deepzero_sim.solver.stepping import checked_step

SPEC = SolverSpec(name="plain", state_shape=(1, 16), dt=0.1, dtype="float64")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state_shape": (16,)}, "add the channel axis"),
        ({"state_shape": (1, 0)}, "all positive"),
        ({"dtype": "float16"}, "float32, float64"),
        ({"dt": 0.0}, "dt must be a positive number"),
        ({"dt": float("nan")}, "dt must be a positive number"),
        ({"max_batch": 0}, "max_batch must be a positive number"),
        ({"channels": ("u", "v")}, "channels must have 1 entries, not 2"),
        ({"parameters": ("nu",), "parameter_units": ("1", "1")}, "parameter_units must have 1 entries, not 2"),
        ({"axes": ("y", "x")}, "axes must have 1 entries"),
        ({"spacing": (1.0, 1.0)}, "spacing must have 1 entries"),
        ({"offsets": ((0.0,), (0.5,))}, "offsets must have 1 entries"),
        ({"mask": np.ones((1, 8), dtype=bool)}, r"mask must be .* shape of a state, \(1, 16\), not bool of shape \(1, 8\)"),
        ({"mask": np.ones((1, 16))}, "mask must be a bool array .* not float64"),
        ({"dt": float("inf")}, "dt must be a positive number, not inf"),
    ],
)
def test_spec_refuses(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SolverSpec(**{"name": "plain", "state_shape": (1, 16), "dt": 0.1, **fields})


def test_spec_takes_a_list_as_shape() -> None:
    spec = SolverSpec(name="plain", state_shape=[1, 16], dt=0.1, dtype="float64")  # type: ignore[arg-type]
    assert checked_step(as_solver(lambda s: s, spec), initial_states(2)).shape == (2, 1, 16)


def test_spec_geometry() -> None:
    spec = SolverSpec(name="staggered", state_shape=(2, 4), dt=1.0, spacing=(0.25,), offsets=((0.0,), (0.5,)))
    assert spec.active().shape == (2, 4) and spec.active().all()
    np.testing.assert_allclose(spec.coordinates(0, 0), [0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(spec.coordinates(1, 0), [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(SPEC.coordinates(0, 0), np.arange(16))


def test_solver_is_abstract() -> None:
    with pytest.raises(TypeError):
        Solver()  # type: ignore[abstract]


def test_function_as_solver() -> None:
    states, params = initial_states(3), np.full((3, 2), 2.0)
    np.testing.assert_array_equal(checked_step(as_solver(lambda s: 2 * s, SPEC), states), 2 * states)
    solver = as_solver(lambda s, p: s * p[:, :1, None], SPEC)
    np.testing.assert_array_equal(checked_step(solver, states, params), 2 * states)


def broken(function: Callable[[Array], Any]) -> Solver:
    return as_solver(function, SPEC)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda s: s.tolist(), InvalidStateError, "returned must be a numpy array, not list"),
        (lambda s: None, InvalidStateError, "returned must be a numpy array, not NoneType"),
        (lambda s: s[:, :, :-1], InvalidStateError, r"returned must have shape \(2, 1, 16\), not \(2, 1, 15\)"),
        (lambda s: s[:1], InvalidStateError, r"returned must have shape \(2, 1, 16\), not \(1, 1, 16\)"),
        (lambda s: s.astype("float32"), InvalidStateError, "must be float64, not float32: convert it"),
        (lambda s: np.where(s > 0, np.nan, s), NonFiniteError, r"values are NaN or infinite, the first at \(0, 0, "),
        (lambda s: np.full_like(s, np.inf), NonFiniteError, "32 of 32 values are NaN or infinite"),
        (lambda s: s[:, 1], SolverCrashError, "solver 'plain' raised IndexError: index 1 is out of bounds"),
    ],
)
def test_what_a_solver_returns_is_checked(function: Callable[[Array], Any], error: type[SolverError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        checked_step(broken(function), initial_states(2))
    assert "\n" not in str(caught.value)


def test_a_crash_keeps_its_cause_and_a_solver_error_passes_through() -> None:
    with pytest.raises(SolverCrashError) as caught:
        checked_step(broken(lambda s: 1 / 0), initial_states(1))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def refuse(states: Array) -> Array:
        raise NonFiniteError("the solver's own words.")

    with pytest.raises(NonFiniteError, match=r"^the solver's own words\.$"):
        checked_step(broken(refuse), initial_states(1))


@pytest.mark.parametrize(
    ("states", "error", "words"),
    [
        (initial_states(2).tolist(), InvalidStateError, "is given to solver 'burgers' must be a numpy array, not list"),
        (initial_states(2)[0], InvalidStateError, r"must have shape \(batch, 1, 16\), not \(1, 16\)"),
        (initial_states(2, dtype="float32"), InvalidStateError, "must be float64, not float32"),
        (initial_states(2) * np.nan, NonFiniteError, r"32 of 32 values .* the first at \(0, 0, 0\)"),
    ],
)
def test_what_is_given_to_a_solver_is_checked(states: Any, error: type[SolverError], words: str) -> None:
    solver = Counting(Burgers())
    with pytest.raises(error, match=words):
        checked_step(solver, states)
    assert solver.calls == 0


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (None, InvalidStateError, r"needs parameters of shape \(2, 1\) \(rate\), got None"),
        (
            np.array([["a"], ["b"]]),
            InvalidStateError,
            r"the parameters .* must be real numbers, not <U1: convert them",
        ),
        (np.array([[None], [1]]), InvalidStateError, r"must be real numbers, not object: convert them"),
        (np.array([[1j], [1]]), InvalidStateError, r"must be real numbers, not complex128: convert them"),
        (np.zeros((2, 1), "M8[s]"), InvalidStateError, r"must be real numbers, not datetime64\[s\]: convert them"),
        (np.ma.masked_less(np.eye(2, 1), 1), InvalidStateError, r"must be numbers, not a masked array, .*: fill them"),
        ([[1.0], [1.0]], InvalidStateError, "must be a numpy array, not list"),
        (np.ones(2), InvalidStateError, r"not \(2,\): one row for each state"),
        (np.ones((3, 1)), InvalidStateError, r"not \(3, 1\)"),
        (np.ones((2, 2)), InvalidStateError, r"not \(2, 2\)"),
        (np.array([[1.0], [np.nan]]), NonFiniteError, "parameters of solver 'logistic' .rate. must be finite"),
    ],
)
def test_parameters_are_checked(params: Any, error: type[SolverError], words: str) -> None:
    with pytest.raises(error, match=words):
        checked_step(LogisticSolver(), initial_states(2), params)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 7, 100])
def test_max_batch_changes_nothing_but_the_size_of_calls(max_batch: int) -> None:
    states, params = initial_states(7), np.linspace(0.01, 0.1, 7)[:, None]
    solver = Counting(Burgers(max_batch=max_batch))
    np.testing.assert_array_equal(checked_step(solver, states, params), Burgers().step(states, params))
    assert (solver.states, solver.calls) == (7, -(-7 // max_batch))


class Reusing(Burgers):
    """Like many compiled solvers, it hands out the same memory every time."""

    def step(self, states: Array, params: Array | None = None) -> Array:
        if not hasattr(self, "memory"):
            self.memory = np.empty((8, *states.shape[1:]))
        self.memory[: len(states)] = super().step(states, params)
        return self.memory[: len(states)]


def test_a_solver_may_hand_out_the_same_memory_again() -> None:
    states = initial_states(4)
    np.testing.assert_array_equal(checked_step(Reusing(max_batch=1), states), Burgers().step(states))
    solver = Reusing()
    first = checked_step(solver, states)
    checked_step(solver, 2 * states)
    np.testing.assert_array_equal(first, Burgers().step(states))


@pytest.mark.parametrize(
    "function", [lambda s: np.broadcast_to(s[:, :, :1], s.shape), lambda s: s[:, :, ::-1], np.asfortranarray]
)
def test_any_layout_of_memory_will_do(function: Callable[[Array], Array]) -> None:
    states = initial_states(3)
    result = checked_step(broken(function), states)
    assert result.flags.writeable and result.flags.c_contiguous
    np.testing.assert_array_equal(result, function(states))


def test_an_empty_batch_stays_empty() -> None:
    assert checked_step(Burgers(), initial_states(0)).shape == (0, 1, 16)


def test_burgers_conserves_and_dissipates() -> None:
    states = initial_states(3, points=64)
    solver, current = Burgers(64), states
    for _ in range(50):
        current = checked_step(solver, current)
    np.testing.assert_allclose(current.sum(-1), states.sum(-1), atol=1e-12)
    assert (np.square(current).sum() < 0.9 * np.square(states).sum()).all()


#: What YAML makes of NO, off, null, 1e3, 12:30 and other words, and what Python code may hand over.
NO_TEXT = [False, True, None, 1000.0, 750, 3, b"u", ["u"]]


@pytest.mark.parametrize("word", NO_TEXT)
@pytest.mark.parametrize("field", ["channels", "channel_units", "parameters", "parameter_units", "axes"])
def test_a_name_or_unit_of_a_spec_is_text(field: str, word: Any) -> None:
    fields = {"parameters": ("nu",), field: (word,)}
    with pytest.raises(ConfigError, match=rf"^SolverSpec 'plain': {field} must be text, not .*: put it in quotes"):
        SolverSpec(name="plain", state_shape=(1, 16), dt=0.1, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["channels", "channel_units", "parameters", "parameter_units", "axes"])
def test_a_text_alone_is_one_name(field: str) -> None:
    fields = {"parameters": ("nu",), field: "velocity"}
    assert getattr(SolverSpec(name="plain", state_shape=(1, 16), dt=0.1, **fields), field) == ("velocity",)  # type: ignore[arg-type]


def test_a_text_that_may_be_several_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parameters must be a list, or one text without commas, .*: write \['nu', 'Re'\]"):
        SolverSpec(name="plain", state_shape=(1, 16), dt=0.1, parameters="nu, Re")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"nu", None, 3, True, {"nu": 1}, {"nu"}])
@pytest.mark.parametrize("field", ["channels", "channel_units", "parameters", "parameter_units", "axes", "spacing", "offsets"])
def test_a_list_of_a_spec_is_one(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^SolverSpec 'plain' must have a list for {field}, such as \["):
        SolverSpec(name="plain", state_shape=(1, 16), dt=0.1, **{field: value})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "name must not be empty"),
        ({"name": " "}, "name must not be empty"),
        ({"channels": ("",)}, "channels must have names"),
        ({"parameters": ("nu", " ")}, "parameters must have names"),
        ({"parameters": ("nu", "nu")}, "parameters must have different names"),
        ({"state_shape": (1, 4, 4), "axes": ("x", "x")}, "axes must have different names"),
        ({"state_shape": 16}, "must be .channels, points, .*, not 16: add the channel axis"),
        ({"state_shape": None}, "not None"),
        ({"state_shape": "16"}, "not '16'"),
        ({"state_shape": (True, 16)}, r"not \(True, 16\)"),
        ({"dt": "1e-3"}, "dt must be a positive number, not '1e-3': write 0.001"),
        ({"dt": "soon"}, r"dt must be a positive number, not 'soon'\."),
        ({"dt": True}, "dt must be a positive number, not True"),
        ({"dt": None}, "dt must be a positive number, not None"),
        ({"dt": 10**400}, "dt must be a positive number, not 1000"),
        ({"spacing": (10**400,)}, "spacing must be finite numbers, not 1000"),
        ({"spacing": ("5e-1",)}, "spacing must be finite numbers, not '5e-1': write 0.5"),
        ({"spacing": (True,)}, "spacing must be finite numbers, not True"),
        ({"spacing": (float("nan"),)}, "spacing must be finite numbers, not nan"),
        ({"spacing": (0.0,)}, "spacing must not be 0"),
        ({"offsets": (0.5,)}, "must have a list for offsets"),
        ({"offsets": (("half",),)}, "offsets must be finite numbers, not 'half'"),
        ({"offsets": ((False,),)}, "offsets must be finite numbers, not False"),
        ({"offsets": ((0.0, 0.5),)}, "offsets must have 1 numbers for each channel"),
        ({"offsets": ((),)}, "offsets must have 1 numbers for each channel"),
        ({"max_batch": True}, "max_batch must be a positive number"),
        ({"stencil": False}, "stencil must be a whole number"),
        ({"mask": [[True] * 16]}, "mask must be a numpy array, not list"),
    ],
)
def test_a_spec_refuses_what_yaml_makes_of_words_and_numbers(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SolverSpec(**{"name": "plain", "state_shape": (1, 16), "dt": 0.1, **fields})
    assert "\n" not in str(caught.value)


def test_lists_and_arrays_are_taken_as_tuples() -> None:
    spec = SolverSpec(
        name="plain",
        state_shape=np.array([2, 4]),  # type: ignore[arg-type]
        dt=np.float32(0.5),  # type: ignore[arg-type]
        channels=["u", np.str_("v")],  # type: ignore[arg-type]
        parameters=["nu"],  # type: ignore[arg-type]
        spacing=np.array([0.25]),  # type: ignore[arg-type]
        offsets=[[0], [0.5]],  # type: ignore[arg-type]
    )
    assert (spec.state_shape, spec.channels, spec.parameters) == ((2, 4), ("u", "v"), ("nu",))
    assert (spec.spacing, spec.offsets) == ((0.25,), ((0.0,), (0.5,)))
    assert (spec.dt, type(spec.dt)) == (0.5, float)
    assert [type(size) for size in spec.state_shape] == [int, int]
    assert [type(name) for name in spec.channels] == [str, str]


def test_wider_parameters_are_blamed_and_not_what_the_solver_returned() -> None:
    solver = as_solver(lambda s, p: s * p[:, :1, None], SolverSpec(name="decay", state_shape=(1, 4), dt=0.1, parameters=("k",)))
    states = np.ones((2, 1, 4), dtype=np.float32)
    with pytest.raises(InvalidStateError) as caught:
        checked_step(solver, states, np.ones((2, 1)))
    assert str(caught.value) == (
        "the parameters of solver 'decay' must be float32 as its states are, not float64, which made its result float64: "
        "convert them (.astype('float32') of an array, .float() of a tensor)."
    )
    assert checked_step(solver, states, np.ones((2, 1), dtype=np.float32)).dtype == np.float32


def test_a_solver_that_returns_another_type_by_itself_is_blamed_itself() -> None:
    spec = SolverSpec(name="decay", state_shape=(1, 4), dt=0.1, parameters=("k",))
    with pytest.raises(InvalidStateError, match="what solver 'decay' returned must be float32, not float64"):
        checked_step(
            as_solver(lambda s, p: s.astype("float64"), spec), np.ones((1, 1, 4), "float32"), np.ones((1, 1), "float32")
        )


@pytest.mark.parametrize(
    ("states", "params", "words"),
    [
        (np.ones((1, 1, 17)), None, r"is given to solver 'plain' must have shape \(batch, 1, 16\), not \(1, 1, 17\)"),
        (np.ones((1, 1, 16), dtype="float32"), None, "must be float64, not float32: convert it with .astype"),
        ([[[1.0] * 16]], None, "must be a numpy array, not list"),
        (np.ones((1, 1, 16)), np.ones(2), r"not \(2,\): one row for each state"),
    ],
)
def test_a_function_as_solver_checks_what_it_is_called_with_directly(states: Any, params: Any, words: str) -> None:
    def refuse(*arguments: Array) -> Array:
        raise AssertionError("called all the same")

    with pytest.raises(InvalidStateError, match=words):
        as_solver(refuse, SPEC).step(states, params)


def test_a_spec_and_a_solver_say_what_they_are() -> None:
    mask = np.ones((2, 4, 8), dtype=bool)
    mask[0, 0] = False
    spec = SolverSpec(name="flow", state_shape=(2, 4, 8), dt=0.1, channels=("u", "v"), parameters="nu", mask=mask)  # type: ignore[arg-type]
    words = "SolverSpec('flow': u, v on 4 x 8 points, dt=0.1, float32, parameters nu, 56 of 64 values in the mask)"
    assert repr(spec) == words
    assert repr(as_solver(lambda s: s, spec)) == f"FunctionSolver({words})"
    assert repr(Burgers()).startswith("Burgers(SolverSpec('burgers': ")

    class Late(Solver):
        def step(self, states: Array, params: Array | None = None) -> Array:
            return states

    assert "Late object at" in repr(Late())


def test_a_spec_without_a_unit_of_time_has_the_entries_of_earlier_versions() -> None:
    """Runs know solvers and first steps by digests of them."""
    assert "time_unit" not in entries_but_mask(SPEC)
    assert entries_but_mask(replace(SPEC, time_unit="s")) == {**entries_but_mask(SPEC), "time_unit": "s"}
