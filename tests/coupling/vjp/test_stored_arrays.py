"""Stored states of products and their files: damaged or foreign ones are refused in one sentence, and change nothing."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import deepzero_sim as dz
from deepzero_sim.common.files import digest, digest_of_named
from deepzero_sim.common.types import Array
from deepzero_sim.coupling.probes import SolverProbe
from deepzero_sim.coupling.vjp import Auto, Coloured, JacobianField, ReferenceJacobian, StepTaken
from deepzero_sim.coupling.vjp.base import VectorJacobianProduct
from deepzero_sim.errors import ConfigError, RunError

SPEC = dz.SolverSpec(name="reaction", state_shape=(2, 12), dt=1.0, dtype="float64", parameters=("rate",))


def advance(states: Array, params: Array) -> Array:
    """Advection whose speed depends on the state, and a reaction of the two channels at a rate."""
    moved = states - 0.3 * states * (states - np.roll(states, 1, -1))
    return np.asarray(moved + params[:, :, None] * states[:, ::-1])


SOLVER = dz.as_solver(advance, SPEC)
STATES = 0.3 * np.random.default_rng(0).normal(size=(12, 2, 12))
PARAMS = np.linspace(0.01, 0.05, 12)[:, None]
COTANGENTS = np.random.default_rng(1).normal(size=STATES.shape)

MAKERS: Mapping[str, Callable[..., VectorJacobianProduct]] = {
    "field": functools.partial(JacobianField, 48, check_every=8),
    "field in blocks": functools.partial(JacobianField, 16, block=2, check_every=8),
    "reference": functools.partial(ReferenceJacobian, 4),
    "reference in blocks": functools.partial(ReferenceJacobian, 4, block=2),
    "coloured": Coloured,
    "auto": Auto,
}

#: Lists that may have any length: errors, which are compared as far as there are some.
LISTS = ("unseen", "drift.factors")

#: Arrays that there need not be: earlier versions had none, no fit took them, or they are found again.
OPTIONAL = (
    "after",
    "unseen",
    "weak",
    "refits",
    "mean",
    "references",
    "radius",
    "drift.counts",
    "drift.factors",
    "drift.states",
)


def product_of(product: VectorJacobianProduct) -> Array:
    taken = StepTaken(STATES, PARAMS, SOLVER.step(STATES, PARAMS))
    return product.product(taken, COTANGENTS, SolverProbe(SOLVER))


def prepare(name: str, **arguments: Any) -> VectorJacobianProduct:
    product = MAKERS[name](**arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a field in blocks from few products is poor
        product.prepare(STATES, PARAMS, SolverProbe(SOLVER))
    return product


@functools.cache
def state_of(name: str) -> dict[str, Array]:
    """State of a product that was used, so that all of its arrays are there."""
    product = prepare(name)
    product_of(product)
    return product.state_dict()


def bare(name: str) -> str:
    """Name of a product's array without what an Auto that chose the product puts before it."""
    return name.removeprefix("chosen.")


def damages(state: dict[str, Array]) -> list[tuple[str, dict[str, Array]]]:
    """List what is wrong with one array or another, with all arrays."""
    found: list[tuple[str, dict[str, Array]]] = [("another array", state | {"x": np.ones(3)})]
    for name, array in state.items():
        if len(state) > 1 and not bare(name).startswith(OPTIONAL):
            found.append((f"no {name}", {other: values for other, values in state.items() if other != name}))
        wrong: list[Any] = [array[None, None], array.astype(np.int8), array * 1j, array.astype(object), array.tolist(), None]
        if array.size and array.ndim and bare(name) not in LISTS:
            wrong += [array[:-1], array[:1].repeat(len(array) + 1, axis=0)]
        if array.size and array.ndim > 1:
            wrong.append(array[..., :-1])
        if array.size and bare(name) != "cosines":
            wrong += [np.full_like(array, np.nan), np.full_like(array, np.inf)]
        found += [(f"{name} {getattr(one, 'dtype', one)} {np.shape(one)}", state | {name: one}) for one in wrong]
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_a_damaged_state_is_refused_and_changes_nothing(name: str) -> None:
    state = state_of(name)
    product = MAKERS[name]()
    product.load_state_dict(state)
    before = product_of(product)
    kept = {key: array.copy() for key, array in product.state_dict().items()}
    for what, damaged in damages(state):
        with pytest.raises(ConfigError) as raised:
            product.load_state_dict(damaged)
            pytest.fail(what)
        assert str(raised.value).count(": ") >= 1 and "\n" not in str(raised.value)
    assert {key: array.tolist() for key, array in product.state_dict().items()} == {
        key: array.tolist() for key, array in kept.items()
    }
    np.testing.assert_array_equal(product_of(product), before)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("state", [None, [1], {"x": np.ones(3)}, {3: np.ones(3)}, {"points": 16}])
def test_what_is_no_state_is_refused(name: str, state: Any) -> None:
    with pytest.raises(ConfigError, match="state_dict gave"):
        MAKERS[name]().load_state_dict(state)


@pytest.mark.parametrize("name", ["field", "field in blocks", "reference", "reference in blocks"])
def test_the_state_of_a_solver_with_other_states_is_refused(name: str) -> None:
    spec = dz.SolverSpec(name="wider", state_shape=(2, 13), dt=1.0, dtype="float64", parameters=("rate",))
    other = dz.as_solver(advance, spec)
    bound, loose = MAKERS[name](), MAKERS[name]()
    bound.bind(other)
    with pytest.raises(ConfigError, match=r"state of \w+ must .*\(?.*2, 13\).*, not .*12"):
        bound.load_state_dict(state_of(name))
    loose.load_state_dict(state_of(name))
    states = np.ones((1, 2, 13))
    taken = StepTaken(states, PARAMS[:1], other.step(states, PARAMS[:1]))
    with pytest.raises(ConfigError, match=r"state of \w+ must .*\(?.*2, 13\).*, not .*12"):
        loose.product(taken, states, SolverProbe(other))


def test_a_choice_of_what_there_is_not_is_refused() -> None:
    told = {"chosen": {"name": "Auto", "arguments": {}}, "reason": "", "steps": 0, "trials": []}
    for change in (
        {},
        {"chosen": {"name": "JacobianField", "arguments": {"probes": 3}}},
        {"chosen": {"name": "JacobianField", "arguments": [1]}},
        {"chosen": {"name": "StraightThrough", "arguments": {}}, "steps": -1},
        {"chosen": {"name": "StraightThrough", "arguments": {}}, "trials": [{"name": "x", "cosine": "y"}]},
        {"chosen": {"name": "StraightThrough", "arguments": {}}, "more": 1},
    ):
        choice = np.frombuffer(json.dumps(told | change).encode(), np.uint8).astype(np.float64)
        with pytest.raises(
            ConfigError, match="the state of Auto must hold a choice of a product as 'choice', not what is none"
        ):
            Auto().load_state_dict({"choice": choice})


@pytest.mark.parametrize("name", MAKERS)
def test_a_product_shares_its_state_with_nobody_who_writes_to_it(name: str) -> None:
    product, twin = MAKERS[name](), MAKERS[name]()
    given = {key: array.copy() for key, array in state_of(name).items()}
    product.load_state_dict(given)
    twin.load_state_dict(given)
    expected = product_of(twin)
    for array in given.values():
        array[...] = 7
    for array in product.state_dict().values():
        if array.flags.writeable:
            array[...] = 7
    np.testing.assert_array_equal(product_of(product), expected)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "coloured"])
def test_a_file_that_holds_what_cannot_be_used_is_refused_whatever_its_checksum_says(name: str, tmp_path: Path) -> None:
    file = tmp_path / "jacobians.safetensors"
    prepare(name, file=file)
    with safe_open(file, framework="numpy") as opened:
        facts = json.loads(opened.metadata()["facts"])
        arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it is no mapping
    for change in (
        lambda array: array[:-1] if array.ndim else array[None, None],
        lambda array: array[None],
        lambda array: np.full_like(array, np.nan),
        lambda array: array.astype(np.int8),
    ):
        write(file, {key: change(array) for key, array in arrays.items()}, facts)
        with pytest.raises(RunError, match=r"jacobians\.safetensors must .*, not .*: remove it to have its Jacobians measured"):
            prepare(name, file=file)
    write(file, {}, facts)
    with pytest.raises(RunError, match=r"must have numbers of shape .*, not none: remove it to have its Jacobians measured"):
        prepare(name, file=file)
    write(file, arrays, facts)
    np.testing.assert_array_equal(product_of(prepare(name, file=file)), product_of(prepare(name)))


def write(file: Path, arrays: dict[str, Array], facts: dict[str, dict[str, Any]]) -> None:
    """Write a file of Jacobians with checksums that fit."""
    for key, fact in facts.items():
        fact["content"] = digest_of_named([], {n.partition(".")[2]: a for n, a in arrays.items() if n.startswith(f"{key}.")})
    text = json.dumps(facts)
    save_file(arrays, file, metadata={"format": "deepzero-sim jacobians 2", "facts": text, "sha256": digest([text])})
