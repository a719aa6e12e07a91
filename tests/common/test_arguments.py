"""What a user can type wrong in a call of ours is said in one sentence, by errors of ours, whatever the class or function."""

from __future__ import annotations

import importlib
import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from problems import Burgers

import deepzero_sim as dz
from deepzero_sim.errors import ArgumentError

#: Values of which hardly an argument can be made.
SENSELESS = (None, "text", [1, 2], {}, math.nan, math.inf, True, -1, 0, 1.5, object())

#: It opens a server where it is given something to serve.
NOT_CALLED = {"serve"}


def public() -> Iterator[Any]:
    for module in ("", ".vjp", ".models", ".solvers", ".datasets"):
        found = importlib.import_module(f"deepzero_sim{module}")
        for name in found.__all__:
            value = getattr(found, name)
            is_error = inspect.isclass(value) and issubclass(value, BaseException)
            if callable(value) and not is_error and not inspect.isabstract(value) and name not in NOT_CALLED:
                yield pytest.param(value, id=f"{module}.{name}".lstrip("."))


def required(called: Callable[..., Any]) -> dict[str, None]:
    parameters = inspect.signature(called).parameters.values()
    return {p.name: None for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


@pytest.mark.parametrize("called", list(public()))
def test_an_argument_that_there_is_not_or_that_is_missing_is_refused_by_an_error_of_ours(called: Callable[..., Any]) -> None:
    with pytest.raises(dz.ConfigError, match="no_such_word"):
        called(**required(called), no_such_word=1)
    if required(called):
        with pytest.raises(dz.ConfigError) as refused:
            called()
        assert isinstance(refused.value, TypeError) and "\n" not in str(refused.value)


@pytest.mark.parametrize("called", list(public()))
def test_senseless_values_are_refused_by_errors_of_ours_or_taken(called: Callable[..., Any]) -> None:
    names = [
        name for name, p in inspect.signature(called).parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    needed = required(called)
    for value in SENSELESS:
        for given in (dict.fromkeys(needed, value), *({**needed, name: value} for name in names)):
            try:
                called(**given)
            except dz.DeepZeroError as error:
                assert len(str(error)) < 2000, error


def test_a_misspelt_argument_is_told_what_it_is_most_like() -> None:
    for call, meant in (
        (lambda: dz.CGE(stepsize=1e-3), "step_size"),
        (lambda: dz.SolverSpec(name="a", state_shap=(1, 2), dt=1.0), "state_shape"),
        (lambda: dz.vjp.Coloured(step_sizes=1e-3), "step_size"),
        (lambda: dz.SolverLoop(Burgers(), None, unrol=3), "unroll"),  # type: ignore[call-arg, arg-type]
        (lambda: dz.check_solver(Burgers(), second=3), "seconds"),  # type: ignore[call-arg]
        (lambda: dz.open_executor(worker=3), "workers"),  # type: ignore[call-arg]
    ):
        with pytest.raises(ArgumentError, match=f"did you mean '{meant}'"):
            call()


def test_arguments_of_a_subclass_s_own_are_its_own() -> None:
    class Mine(dz.CGE):
        def __init__(self, size: float) -> None:
            super().__init__(step_size=size)

    assert Mine(size=0.5).step_size == 0.5
    with pytest.raises(TypeError, match="stepsize"):
        Mine(stepsize=0.5)  # type: ignore[call-arg]


def test_what_is_called_in_the_right_way_is_what_it_was() -> None:
    assert pickle.loads(pickle.dumps(dz.warm_up_cosine)) is dz.warm_up_cosine  # noqa: S301
    assert list(inspect.signature(dz.CGE).parameters)[:1] == ["step_size"]
    assert dz.vjp.Detached() is not None and not inspect.signature(dz.vjp.Detached).parameters
    spec = pickle.loads(pickle.dumps(Burgers().spec))  # noqa: S301
    assert spec.name == "burgers" and np.array_equal(spec.active(), Burgers().spec.active())

    class Both(dz.Solver, torch.nn.Module):
        """A solver that is a module, too."""

        def __init__(self) -> None:
            super().__init__()
            self.spec, self.layer = Burgers().spec, torch.nn.Linear(1, 1)

        def step(self, states: Any, params: Any = None) -> Any:
            return states

    assert len(list(Both().parameters())) == 2
