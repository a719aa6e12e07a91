"""States and scenario parameters, held to a solver's spec."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.requirements import Words, require
from deepzero_sim.common.types import Array
from deepzero_sim.errors import InvalidStateError, NonFiniteError
from deepzero_sim.solver.spec import SolverSpec


def check_states(spec: SolverSpec, states: Array, what: str, remedy: str, batch: int | None = None) -> None:
    """Check that states are an array of a spec's shape and type, with finite numbers.

    Args:
        spec: Spec of the solver.
        states: Array that came, `(B, C, *N)` if all is well.
        what: Beginning of the error's sentence, such as ``"what solver 'burgers' returned"``.
        remedy: End of the sentence for numbers that are not finite.
        batch: Number of states that must be there; None for any.

    Raises:
        InvalidStateError: The shape or the type is another.
        NonFiniteError: A number is NaN or infinite.
    """
    check_form(spec, states, what, batch)
    check_finite(states, what, remedy)


def check_form(spec: SolverSpec, states: Array, what: str, batch: int | None = None) -> None:
    """Check that states are an array of a spec's shape and type; see :func:`check_states` for the arguments.

    Raises:
        InvalidStateError: The shape or the type is another.
    """
    # plain conditions, as every call of a solver passes here twice: sentences are only made where one fails
    if not isinstance(states, np.ndarray):
        raise InvalidStateError(f"{what} must be a numpy array, not {type(states).__name__}: convert it first.")
    if type(states) is not np.ndarray and np.ma.is_masked(states):
        raise InvalidStateError(f"{what} must be numbers, not a masked array, whose values are missing in part: fill them.")
    if states.shape[1:] != spec.state_shape or batch not in (None, len(states)):
        wanted = ", ".join(map(str, ("batch" if batch is None else batch, *spec.state_shape)))
        raise InvalidStateError(f"{what} must have shape ({wanted}), not {states.shape}: check the solver's spec and the data.")
    if states.dtype != np.dtype(spec.dtype):
        raise InvalidStateError(f"{what} must be {spec.dtype}, not {states.dtype}: convert it with .astype('{spec.dtype}').")


def check_call(spec: SolverSpec, states: Array, params: Array | None, inputs: Array | None = None) -> None:
    """Check the arguments of a step that is asked of a solver directly: solvers of ours begin with it, as it is cheap.

    Args:
        spec: Spec of the solver.
        states: States `(B, C, *N)`.
        params: Scenario parameters `(B, K)` or None.
        inputs: Fields that the step reads besides its state, `(B, U, *N)`; None for a solver that reads none.

    Raises:
        InvalidStateError: A shape or a type is another, or there are no parameters where the solver needs some.
        NonFiniteError: A parameter is NaN or infinite.
    """
    check_form(spec, states, argument_name(spec))
    check_params(spec, states, params)
    check_inputs(spec, inputs, len(states))


def check_inputs(spec: SolverSpec, inputs: Array | None, count: int) -> None:
    """Check that inputs have a field of each kind for each state, if the solver reads any.

    Args:
        spec: Spec of the solver.
        inputs: Array that came.
        count: Number of states.

    Raises:
        InvalidStateError: The shape or the type is another, or there are none where the solver reads some.
    """
    if not spec.inputs and inputs is None:
        return
    names = f" ({', '.join(spec.input_names)})" if spec.inputs else ", none"
    expected = f"solver {spec.name!r} reads inputs{names}: a {spec.dtype} array of shape {(count, *spec.input_shape)}"
    came = Words(f"{inputs.dtype} of shape {inputs.shape}" if isinstance(inputs, np.ndarray) else type(inputs).__name__)
    fits = (
        isinstance(inputs, np.ndarray) and inputs.shape == (count, *spec.input_shape) and inputs.dtype == np.dtype(spec.dtype)
    )
    require(fits and bool(spec.inputs), expected, came, "pass them as third, step(states, params, inputs)", InvalidStateError)


def argument_name(spec: SolverSpec) -> str:
    """Name what is given to a solver, for messages."""
    return f"what is given to solver {spec.name!r}"


def check_finite(states: Array, what: str, remedy: str) -> None:
    """Check that states hold finite numbers only; see :func:`check_states` for the arguments.

    Raises:
        NonFiniteError: A number is NaN or infinite.
    """
    finite = np.isfinite(states)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NonFiniteError(
            f"{what} must be finite, but {int((~finite).sum())} of {states.size} values are NaN or infinite, "
            f"the first at {first}: {remedy}."
        )


def require_states(spec: SolverSpec, states: Array, params: Array | None) -> None:
    """Check states and parameters of which one at least is needed.

    Raises:
        InvalidStateError: There is none, or the shape or the type is another.
        NonFiniteError: A number is NaN or infinite.
    """
    check_states(spec, states, f"the states of solver {spec.name!r}", "check the data")
    if not len(states):
        raise InvalidStateError(f"one state of solver {spec.name!r} is needed at least, but there is none: pass (B, C, *N).")
    check_params(spec, states, params)


def check_params(spec: SolverSpec, states: Array, params: Array | None) -> None:
    """Check that scenario parameters have one row for each state, with finite numbers only.

    Raises:
        InvalidStateError: The shape or the type is another, or there are none where the solver needs some.
        NonFiniteError: A number is NaN or infinite.
    """
    if params is None and not spec.parameters:
        return
    names = f" ({', '.join(spec.parameters)})" if spec.parameters else ""
    needs, subject = f"solver {spec.name!r} needs parameters of shape ({len(states)}", f"the parameters of solver {spec.name!r}"
    if params is None:
        raise InvalidStateError(f"{needs}, {len(spec.parameters)}){names}, got None: pass them.")
    kind = Words(type(params).__name__)
    require(isinstance(params, np.ndarray), f"{subject} must be a numpy array", kind, error=InvalidStateError)
    fits = params.ndim == 2 and len(params) == len(states) and params.shape[1] == (len(spec.parameters) or params.shape[1])
    expected = f"{needs}, {len(spec.parameters) or 'any'}){names}"
    require(fits, expected, params.shape, "one row for each state", InvalidStateError)
    real = params.dtype.kind in "fiub"
    require(real, f"{subject}{names} must be real numbers", Words(params.dtype), "convert them", InvalidStateError)
    if type(params) is not np.ndarray and np.ma.is_masked(params):
        raise InvalidStateError(f"{subject}{names} must be numbers, not a masked array, whose values are missing: fill them.")
    if not np.isfinite(params).all():
        raise NonFiniteError(f"{subject}{names} must be finite: check the data.")
