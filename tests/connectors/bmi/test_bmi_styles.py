"""Components of every style: of BMI 1 and 2, of other types and grids; what they are handed, and what they hand out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bmi_tanks import Tanks

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.bmi.solver import BMISolver
from deepzero_sim.errors import ConfigError, InvalidStateError, NonFiniteError, SolverCrashError, SolverError
from deepzero_sim.solver.stepping import checked_step

STATES = np.random.default_rng(0).random((3, 1, 4))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (path := tmp_path / "tanks.txt").write_text("")
    return path


def tanks(config: Path, state: Any = ("volume",), params: Any = (), *, base: type = Tanks, **changed: Any) -> BMISolver:
    """A solver of tanks of which a test changes attributes; arguments of the solver begin with `of_`."""
    arguments = {key.removeprefix("of_"): changed.pop(key) for key in list(changed) if key.startswith("of_")}
    return BMISolver(type("Tanks", (base,), changed), config, state, params, **arguments)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("word", ["float", "REAL", "real (4)"])
def test_the_item_size_decides(config: Path, dtype: str, word: str) -> None:
    solver = tanks(config, params=["rate"], words={"volume": word, "rate": word}, dtypes=dict.fromkeys(Tanks.dtypes, dtype))
    assert solver.spec.dtype == np.dtype(dtype).name
    states = STATES.astype(dtype)
    rates = np.array([[0.0], [0.5], [1.0]], dtype)
    half = np.dtype(dtype).type(0.5)
    np.testing.assert_array_equal(checked_step(solver, states, rates), states * (1 - half * rates[:, :, None]))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("double", r"'double' of 4 bytes, 16 bytes in all, which do not fit"),
        (None, "None of 4 bytes"),
        ("complex", "name a type of real or whole numbers of that size"),
        ("real*8", "mend its get_var_itemsize"),
    ],
)
def test_what_the_item_size_contradicts_is_refused(config: Path, word: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tanks(config, words={"volume": word}, dtypes={**Tanks.dtypes, "volume": "f4"})


@pytest.mark.parametrize(("item", "total"), [(0, 32), (8, 0), (8, 31), (-8, 32), (None, 32), (8.0, 32), (True, 4)])
def test_sizes_that_are_none_are_refused(config: Path, item: Any, total: Any) -> None:
    answers = {"get_var_itemsize": lambda self, name: item, "get_var_nbytes": lambda self, name: total}
    with pytest.raises(ConfigError, match="which do not fit: mend"):
        tanks(config, **answers)


def test_variables_of_two_precisions_make_a_state_of_the_larger_one(config: Path) -> None:
    solver = tanks(config, ["volume", "area"], dtypes={**Tanks.dtypes, "area": "f4"})
    assert solver.spec.dtype == "float64"
    states = np.random.default_rng(1).random((2, 2, 4)).astype("f4").astype("f8")
    np.testing.assert_array_equal(checked_step(solver, states), 0.5 * states)


@pytest.mark.parametrize("word", ["int", "logical", "INTEGER (4)"])
def test_a_state_of_whole_numbers_is_refused(config: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=r"'area' .* must hold float32 or float64 to be a part of the state, not int32"):
        tanks(config, ["volume", "area"], dtypes={**Tanks.dtypes, "area": "i4"}, words={"area": word})


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [("i4", 2.0**31), ("i4", -(2.0**31) - 1), ("u1", -1.0), ("u1", 256.0), ("i8", 2.0**63), ("?", 2.0), ("?", 0.5)],
)
def test_whole_numbers_beyond_their_type_are_refused(config: Path, dtype: str, wrong: float) -> None:
    solver = tanks(config, params=["rate"], dtypes={**Tanks.dtypes, "rate": dtype})
    assert np.array_equal(checked_step(solver, STATES, np.ones((3, 1))), 0.5 * STATES)
    with pytest.raises(InvalidStateError, match=r"'rate' holds whole numbers \(.*\), but it was given"):
        checked_step(solver, STATES, np.full((3, 1), wrong))


def test_a_parameter_beyond_single_precision_is_refused(config: Path) -> None:
    solver = tanks(config, params=["rate"], dtypes={**Tanks.dtypes, "rate": "f4"})
    with pytest.raises(NonFiniteError, match=r"'rate' holds float32, which cannot hold 1e\+39"):
        checked_step(solver, STATES, np.full((3, 1), -1e39))


class Returning(Tanks):
    """As in BMI 1: `get_value` leaves its buffer alone."""

    def get_value(self, name: str, dest: Any = None) -> Any:
        return self.values[name].copy()


class Viewing(Tanks):
    """Hands out its own memory."""

    def get_value(self, name: str) -> Any:  # type: ignore[override]
        return self.values[name]


class Pointing(Tanks):
    """Only hands out its own memory, by the function that is there for it."""

    def get_value(self, name: str, dest: Any) -> Any:
        raise NotImplementedError

    def get_value_ptr(self, name: str) -> Any:
        return self.values[name]


class Status(Tanks):
    """Fills the buffer, and returns the status of C."""

    def get_value(self, name: str, dest: Any) -> Any:
        dest[:] = self.values[name]
        return 0


class Listing(Tanks):
    """Returns a list of Python."""

    def get_value(self, name: str, dest: Any) -> Any:
        return self.values[name].tolist()


class Keeping(Tanks):
    """Keeps what it is handed as its own memory, and writes to what it handed out."""

    def set_value(self, name: str, src: Any) -> None:
        self.values[name] = src

    def get_value(self, name: str, dest: Any) -> Any:
        dest[:] = self.values[name]
        self.values[name] = dest
        return dest


@pytest.mark.parametrize("base", [Returning, Viewing, Pointing, Status, Listing, Keeping])
@pytest.mark.parametrize("reuse", [False, True])
def test_values_are_got_and_set_in_every_style(config: Path, base: type, reuse: bool) -> None:
    solver = tanks(config, params=["rate"], base=base, of_reuse=reuse)
    states, rates = STATES.copy(), np.array([[0.0], [0.5], [1.0]])
    advanced = checked_step(solver, states, rates)
    kept = advanced.copy()
    np.testing.assert_array_equal(advanced, STATES * (1 - 0.5 * rates[:, :, None]))
    checked_step(solver, 2 * states, rates)  # nothing that was handed out or in is written to later
    np.testing.assert_array_equal(advanced, kept)
    np.testing.assert_array_equal(states, STATES)
    solver.close()


@pytest.mark.parametrize(
    ("returned", "error", "said"),
    [
        (lambda values, dest: values[:-1], InvalidStateError, r"an array of shape \(3,\) in place of 4 values"),
        (lambda values, dest: np.append(values, 1), InvalidStateError, r"an array of shape \(5,\)"),
        (lambda values, dest: values.reshape(2, 2), InvalidStateError, r"shape \(2, 2\) in place of 4 values"),
        (lambda values, dest: values + 1j, InvalidStateError, "complex128"),
        (lambda values, dest: ["a"] * 4, InvalidStateError, "returned for 'volume'"),
        (lambda values, dest: [[1, 2], [3]], InvalidStateError, "returned for 'volume'"),
        (lambda values, dest: np.ma.masked_less(values, 2), InvalidStateError, "values are masked out"),
        (lambda values, dest: None, NonFiniteError, "must fill the array that it is given with 'volume', or return one"),
        (lambda values, dest: dest, NonFiniteError, "but did neither"),
        (lambda values, dest: (dest.fill(1), values + 1)[1], InvalidStateError, "other values of 'volume' than it returns"),
    ],
)
def test_a_get_value_that_gives_no_values_is_named(config: Path, returned: Any, error: type[SolverError], said: str) -> None:
    changed = {"get_value": lambda self, name, dest: returned(self.values[name], dest)}
    with pytest.raises(ConfigError, match=f"get_value of BMI component Tanks .*{said}"):
        tanks(config, **changed)
    solver = tanks(config)  # and when it begins later
    solver._make = type("Tanks", (Tanks,), changed)
    with pytest.raises(error, match=said):
        checked_step(solver, STATES)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_an_array_of_the_grids_shape_is_in_c_order(config: Path, shape: tuple[int, int]) -> None:
    def get_value(self: Any, name: str) -> Any:
        return np.asfortranarray(self.values[name].reshape(2, 3)).reshape(shape) if name == "volume" else self.values[name]

    grids = {**Tanks.grids, 0: ("rectilinear", (2, 3))}
    if shape == (3, 2):
        with pytest.raises(ConfigError, match=r"an array of shape \(3, 2\) in place of 6 values"):
            tanks(config, grids=grids, get_value=get_value)
        return
    states = np.arange(6.0).reshape(1, 1, 2, 3)
    solver = tanks(config, grids=grids, get_value=get_value, params={"rate": "rate"})
    np.testing.assert_array_equal(checked_step(solver, states, np.ones((1, 1))), 0.5 * states)


@pytest.mark.parametrize("end", [math.nan, math.inf, None, 1e300, np.float64("nan")])
@pytest.mark.parametrize("reuse", [False, True])
def test_an_end_that_is_none_never_comes(config: Path, end: Any, reuse: bool) -> None:
    solver = tanks(config, end=end, of_reuse=reuse)
    for _ in range(2):
        np.testing.assert_array_equal(checked_step(solver, STATES, None), 0.5 * STATES)
    solver.close()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"end": "never"}, "get_end_time of BMI component Tanks must return a number, not 'never'"),
        ({"end": -1.0}, "must run for a step of 0.5 at least, but ends before"),
        ({"get_current_time": lambda self: None}, "get_current_time of BMI component Tanks must return a number, not None"),
        ({"dt": 0.0}, "get_time_step of BMI component Tanks must return how long a step is, not 0.0: give spec its dt"),
        ({"dt": None}, "not None: give spec its dt"),
        ({"dt": math.nan}, "not nan: give spec its dt"),
    ],
)
def test_times_that_are_none_are_refused(config: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tanks(config, **changed)


@pytest.mark.parametrize("dt", [0.0, None, math.nan])
def test_a_step_that_is_told_by_the_spec_alone_is_held_to_the_clock(config: Path, dt: Any) -> None:
    assert np.array_equal(checked_step(tanks(config, dt=dt, of_spec={"dt": 0.5}), STATES), 0.5 * STATES)
    with pytest.raises(SolverCrashError, match=r"must advance its clock by 0.25 a step, but it went from 0 to 0.5"):
        checked_step(tanks(config, dt=dt, of_spec={"dt": 0.25}), STATES)


def test_a_clock_that_is_lost_is_a_failure(config: Path) -> None:
    solver = tanks(config)
    solver._make = type("Tanks", (Tanks,), {"get_current_time": lambda self: self.time or math.nan})
    with pytest.raises(SolverCrashError, match=r"went from nan to 0.5"):
        checked_step(solver, STATES)


def test_a_grid_that_grows_is_a_failure(config: Path) -> None:
    class Growing(Tanks):
        def update(self) -> None:
            super().update()
            self.values["volume"] = np.append(self.values["volume"], 1.0)

    with pytest.raises(InvalidStateError, match=r"'volume' .* must keep its size of 32 bytes, but has 40 now"):
        checked_step(tanks(config, base=Growing), STATES)


FINE = {"grids": {0: ("uniform_rectilinear", (2, 3)), 1: ("uniform_rectilinear", (2, 3)), 2: ("scalar", ())}}


def stagger(**changed: Any) -> dict[str, Any]:
    return {**FINE, "spacing": {0: (0.5, 0.25), 1: (0.5, 0.25)}, "origin": {0: (0.0, 0.125), 1: (0.25, 0.0)}, **changed}


def test_every_variable_has_the_offsets_of_its_own_grid(config: Path) -> None:
    spec = tanks(config, ["volume", "area"], **stagger()).spec
    assert (spec.state_shape, spec.axes, spec.spacing) == ((2, 2, 3), ("y", "x"), (0.5, 0.25))
    assert spec.offsets == ((0.0, 0.5), (0.5, 0.0))


@pytest.mark.parametrize("word", ["UNIFORM_RECTILINEAR", "uniform rectilinear  ", "uniform_rectilinear\0\0"])
def test_a_grid_is_known_however_its_type_is_written(config: Path, word: str) -> None:
    spec = tanks(config, **stagger(grids={**FINE["grids"], 0: (word, (2, 3))})).spec
    assert spec.state_shape == (1, 2, 3)


def test_grids_of_other_spacing_are_refused(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"grids of one spacing, .*'volume' has \(0.5, 0.25\) and 'area' \(0.25, 0.25\)"):
        tanks(config, ["volume", "area"], **stagger(spacing={0: (0.5, 0.25), 1: (0.25, 0.25)}))


def test_grids_of_which_one_has_no_spacing_have_none_together(config: Path) -> None:
    spec = tanks(config, ["volume", "area"], **stagger(grids={**FINE["grids"], 1: ("rectilinear", (2, 3))})).spec
    assert (spec.state_shape, spec.spacing, spec.offsets, spec.axes) == ((2, 2, 3), (), (), ("y", "x"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"spacing": {0: (0.0, 0.5)}}, "get_grid_spacing of BMI component Tanks must not be 0"),
        ({"get_grid_origin": lambda self, grid: [0.0]}, "get_grid_origin of BMI component Tanks must give 2 numbers"),
        ({"get_grid_shape": lambda self, grid, shape: None}, r"get_grid_shape of .* must give 2 numbers|6 values on a grid"),
        ({"get_grid_spacing": lambda self, grid, spacing: 1 / 0}, "raised ZeroDivisionError in get_grid_spacing"),
        ({"get_grid_rank": lambda self, grid: None}, "get_grid_rank of BMI component Tanks must return a number, not None"),
    ],
)
def test_grids_that_contradict_themselves_are_refused(config: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tanks(config, **stagger(**changed))


def test_shapes_are_returned_as_in_bmi_1(config: Path) -> None:
    answers = {
        "get_grid_shape": lambda self, grid: self.grids[grid][1],
        "get_grid_spacing": lambda self, grid: self.spacing[grid],
        "get_grid_origin": lambda self, grid: list(self.origin[grid]),
    }
    spec = tanks(config, **stagger(**answers)).spec
    assert (spec.state_shape, spec.spacing, spec.offsets) == ((1, 2, 3), (0.5, 0.25), ((0.0, 0.5),))


def test_shapes_of_8_bytes_are_found_not_to_fit(config: Path) -> None:
    def fill_int64(self: Any, grid: int, shape: np.ndarray) -> None:  # as C that takes the pointer for one of int64
        np.lib.stride_tricks.as_strided(shape, (4,), (4,)).view(np.int64)[:] = self.grids[grid][1]

    with pytest.raises(ConfigError, match=r"has 6 values on a grid of \(2, 0\)"):
        tanks(config, **stagger(get_grid_shape=fill_int64))


def test_units_that_are_none_are_left_out(config: Path) -> None:
    assert tanks(config, get_var_units=lambda self, name: None).spec.channel_units == ()
    assert tanks(config, get_var_units=lambda self, name: "m3").spec.channel_units == ("m3",)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"state": {False: "volume"}}, "False is no name, so put it in quotes"),
        ({"state": [False]}, "False is no name, so put it in quotes"),
        ({"state": {"v": None}}, "None is no name"),
        ({"state": {"": "volume"}}, "'' is no name"),
        ({"state": ["volume", "volume"]}, "name each variable once"),
        ({"state": {"u": "volume", "v": "volume"}}, "name each variable once"),
        ({"state": ["volume"], "params": ["volume"]}, "both name 'volume': take one out"),
        ({"state": ["volume"], "params": {1000.0: "rate"}}, "1000.0 is no name"),
        ({"state": ["volume"], "params": "rate"}, r"params must be a list of variables .*: write \['rate'\]"),
        ({"state": 3}, "state must be a list of variables"),
        ({"state": None}, "state must name one variable .* it is empty"),
    ],
)
def test_names_are_text_and_each_stands_once(config: Path, names: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BMISolver(Tanks, config, **names)


@pytest.mark.parametrize("params", [None, np.ones((3, 2)), np.ones((2, 1))])
def test_parameters_that_do_not_fit_are_refused_by_a_step_alone(config: Path, params: Array | None) -> None:
    with pytest.raises(InvalidStateError, match=r"needs parameters of shape \(3, 1\)"):
        tanks(config, params=["rate"]).step(STATES, params)
    with pytest.raises(InvalidStateError, match="params names no variables"):
        tanks(config).step(STATES, np.ones((3, 1)))


def test_components_that_share_their_memory_are_found(config: Path) -> None:
    class Shared(Tanks):
        memory: ClassVar[dict[str, Any]] = {}

        def initialize(self, config: str) -> None:
            super().initialize(config)
            self.memory.update(self.values)
            self.values = self.memory

    one, other = (tanks(config, base=Shared, of_reuse=True) for _ in range(2))
    checked_step(one, STATES[:1])
    checked_step(other, 2 * STATES[:1])
    with pytest.raises(SolverCrashError, match="another component of this process shares its memory, so leave out reuse"):
        checked_step(one, STATES[:1])
    for solver in (one, other):
        solver.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reuse": "false"}, "reuse must be true or false, not 'false': write it without quotes"),
        ({"reuse": 0}, "reuse must be true or false, not 0"),
        ({"steps_per_call": True}, "steps_per_call must be a whole number of steps, 1 or more, not True"),
        ({"config": 3}, "config must be the path of the file .*, not 3"),
        ({"config": None}, "not None"),
        ({"spec": 3}, "spec must be a SolverSpec, or a mapping of its fields, not int"),
        ({"spec": ["dt"]}, "spec must be a SolverSpec, or a mapping of its fields, not list"),
        ({"spec": {"dt": "5e-1"}}, "the spec says that dt is 5e-1, but BMI component Tanks says 0.5"),
        ({"spec": {"channels": 3}}, "must have a list for channels"),
        ({"spec": {"channels": [False]}}, "channels must be text, not False: put it in quotes"),
        ({"spec": {"mask": [["true"] * 4]}}, "must hold true and false only, without quotes"),
    ],
)
def test_settings_that_yaml_took_for_something_else_are_refused(config: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BMISolver(Tanks, **{"config": config, "state": ["volume"], **settings})


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8"])
def test_a_field_that_is_all_nan_before_it_is_set_is_one(config: Path, dtype: str) -> None:
    class Unset(Tanks):
        def initialize(self, config: str) -> None:
            super().initialize(config)
            self.values["volume"][:] = np.nan

    states = STATES.astype("f4").astype("f8")
    solver = tanks(config, base=Unset, dtypes={**Tanks.dtypes, "volume": dtype}, of_spec={"dtype": "float64"})
    np.testing.assert_array_equal(checked_step(solver, states), 0.5 * states)
    solver._make = type("Tanks", (Unset,), {"dtypes": solver._make.dtypes, "set_value": lambda *_: None})  # type: ignore[attr-defined]
    with pytest.raises(NonFiniteError, match="4 of 4 values are NaN"):
        checked_step(solver, states[:1])
