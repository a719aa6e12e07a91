"""Jacobian fields as named arrays of real numbers, for checkpoints and files."""

from __future__ import annotations

import numpy as np

from deepzero_sim.common.types import Array
from deepzero_sim.coupling.vjp.base_jacobian import BaseJacobian
from deepzero_sim.coupling.vjp.field.field_report import FieldReport, Reason
from deepzero_sim.coupling.vjp.field.fitting import Field, Products
from deepzero_sim.coupling.vjp.field.kernel_grid import KernelGrid
from deepzero_sim.coupling.vjp.field.local_stencils import LocalStencils
from deepzero_sim.coupling.vjp.field.measured_base import MeasuredBase
from deepzero_sim.coupling.vjp.field.operators import FieldOperators
from deepzero_sim.coupling.vjp.field.probing import LENGTH
from deepzero_sim.coupling.vjp.field.state_features import FeatureMap, FilterGrid, count_sources
from deepzero_sim.coupling.vjp.stored_arrays import StoredArrays
from deepzero_sim.solver.spec import SolverSpec

_REASONS = tuple(Reason)

#: Most points along an axis: what the sizes of transforms are found for.
_MOST_POINTS = 2**31


#: Beginning of the names of what belongs to the field of a solver's inputs.
INPUTS = "inputs."


def field_tensors(field: Field, sizes: Array, report: FieldReport) -> dict[str, Array]:
    """Write a field, the sizes of channels `(C, *1)` that its units are, and its error bar as arrays."""
    features, operators = field.features, field.operators
    measured = operators.measured
    common = {} if measured is None else {f"measured.{name}": array for name, array in measured.jacobian.tensors().items()}
    if measured is not None:
        common |= {"active": measured.active.astype(np.float64), "block": np.array([measured.block], dtype=np.float64)}
    if operators.after is not None:
        common["after"] = _to_real(operators.after)
    return (
        common
        | {
            "points": np.array(operators.grid.points, dtype=np.float64),
            "periodic": np.array(report.periodic, dtype=np.float64),
            "base": _to_real(operators.base),
            "varying": _to_real(operators.varying),
            "local": operators.local.weights,
            "filters": _to_real(features.filters),
            "slopes": features.slopes,
            "constants": features.constants,
            "sizes": sizes,
            "counts": np.array(
                [report.probes, report.steps, _REASONS.index(report.reason), operators.order, operators.local.radius],
                dtype=np.float64,
            ),
            "cosines": np.array([report.cosines, report.identity]),
            "unseen": np.array(report.unseen),
            "weak": np.array(report.weak, dtype=np.float64).reshape(-1, 2),
            "refits": np.array([report.refits, report.refitted_after], dtype=np.float64),
        }
        | ({"share": np.array([report.share])} if report.share else {})
    )


def check_field(stored: StoredArrays, spec: SolverSpec | None = None, length: int = LENGTH) -> tuple[tuple[int, ...], int]:
    """Refuse arrays that are not those of a field with products kept for a refit.

    Args:
        stored: Arrays.
        spec: Spec of the solver; None for any.
        length: Number of products of a chain.

    Returns:
        Shape of its states, `(C, *N)`, and number of scenario parameters, `K`.
    """
    points = stored.counts("points", "axes", least=1, most=_MOST_POINTS)
    stored.require(bool(points), "have points along 1 axis or more", "none")
    channels, *_ = stored.numbers("sizes", "C", *[1] * len(points), positive=True).shape
    shape = (channels, *points)
    if spec is not None:
        stored.require(shape == spec.state_shape, f"be of states of shape {spec.state_shape}", shape)
    periodic = [bool(flag) for flag in stored.counts("periodic", len(points), most=1)]
    _check_operators(stored, channels, KernelGrid(points, periodic))
    waves = np.broadcast_shapes(*(wave.shape for wave in FilterGrid(points, periodic).waves()))
    rank, sources, *_ = stored.numbers("filters", "rank", "sources", *waves, 2).shape
    plain, squares = (count_sources(channels, squares) for squares in (False, True))
    stored.require(sources in (plain, squares), f"have filters of {plain} or {squares} sources", sources)
    named = len(spec.parameters) if spec is not None and spec.parameters else "K"
    params = stored.numbers("slopes", rank, named).shape[1]
    stored.numbers("constants", rank)
    stored.numbers("cosines", 2, length, finite=False)  # a field of no use may leave the finite numbers
    if "block" in stored:
        _check_measured(stored, shape)
    _check_what_drift_needs(stored, shape, params)
    return shape, params


def _check_operators(stored: StoredArrays, channels: int, grid: KernelGrid) -> None:
    *sizes, last = grid.shape
    kernels = (channels, channels, *sizes, last // 2 + 1, 2)
    stored.numbers("base", *kernels)
    stored.numbers("varying", "rank", *kernels)
    if "after" in stored:
        stored.numbers("after", *kernels)
    _, _, reason, order, radius = stored.counts("counts", 5)
    fits = reason < len(_REASONS) and order in (1, 2)
    stored.require(fits, f"have a reason below {len(_REASONS)} and an order of 1 or 2 in 'counts'", f"{reason} and {order}")
    stored.numbers("local", channels, channels, (2 * radius + 1) ** len(grid.shape) if radius else 0, *grid.points)


def _check_measured(stored: StoredArrays, shape: tuple[int, ...]) -> None:
    (block,) = stored.counts("block", 1, least=1)
    active = np.array(stored.counts("active", *shape, most=1), dtype=bool).reshape(shape)
    stored.require(bool(active.any()), "have active points", "none")
    BaseJacobian(active, block).check(stored.part("measured."))


def _check_what_drift_needs(stored: StoredArrays, shape: tuple[int, ...], params: int) -> None:
    """Refuse other arrays than errors, refits, the mean and products; there were none of these in the first versions."""
    if "unseen" in stored:
        stored.numbers("unseen", "kinds")
    if "weak" in stored:
        stored.numbers("weak", "channels", 2)
    if "refits" in stored:
        stored.counts("refits", 2)
    if "share" in stored:
        (share,) = stored.numbers("share", 1)
        stored.require(0 < share <= 1, "have a share of a step in 'share', above 0 and at most 1", f"{share:g}")
    if "mean" not in stored:
        return
    stored.numbers("mean", *shape)
    kept = stored.part("kept.")
    for part in ("states", "advanced", "directions", "answers"):
        kept.numbers(part, "P", *shape)
    if params or "params" in kept:
        kept.numbers("params", "P", params)


def field_from_tensors(tensors: dict[str, Array]) -> tuple[Field, Array, FieldReport]:
    """Restore what :func:`field_tensors` wrote."""
    points, periodic = [int(size) for size in tensors["points"]], tuple(bool(flag) for flag in tensors["periodic"])
    features = FeatureMap(
        FilterGrid(points, periodic), _to_complex(tensors["filters"]), tensors["slopes"], tensors["constants"]
    )
    grid = KernelGrid(points, periodic)
    probes, steps, reason, order, radius = (int(count) for count in tensors["counts"])
    operators = FieldOperators(
        grid,
        _to_complex(tensors["base"]),
        _to_complex(tensors["varying"]),
        _to_complex(tensors["after"]) if "after" in tensors else None,
        LocalStencils(grid, radius, tensors["local"]),
        _measured(tensors),
        order,
    )
    cosines, identity = (tuple(float(cosine) for cosine in row) for row in tensors["cosines"])
    unseen = tuple(float(error) for error in tensors.get("unseen", ()))
    weak = tuple((int(channel), float(error)) for channel, error in tensors.get("weak", ()))
    refits, after = (int(count) for count in tensors.get("refits", (0, 0)))  # there were none in the first versions
    (share,) = (float(share) for share in tensors.get("share", (0.0,)))
    rank = len(features.constants)
    judged = (probes, steps, rank, periodic, cosines, identity, _REASONS[reason])
    report = FieldReport(*judged, unseen, weak, refits, after, share)
    return Field(features, operators), tensors["sizes"], report


def product_tensors(name: str, products: Products) -> dict[str, Array]:
    """Write products as arrays whose names begin with one."""
    return {f"{name}.{part}": array for part, array in vars(products).items() if array is not None}


def products_from_tensors(name: str, tensors: dict[str, Array]) -> Products:
    """Restore what :func:`product_tensors` wrote."""
    states, advanced, directions, answers = (
        tensors[f"{name}.{part}"] for part in ("states", "advanced", "directions", "answers")
    )
    return Products(states, advanced, tensors.get(f"{name}.params"), directions, answers)


def _measured(tensors: dict[str, Array]) -> MeasuredBase | None:
    if "block" not in tensors:
        return None
    parts = {name.removeprefix("measured."): array for name, array in tensors.items() if name.startswith("measured.")}
    return MeasuredBase.load(parts, int(tensors["block"][0]), tensors["active"] > 0, tensors["sizes"])


def _to_real(values: Array) -> Array:
    """View complex values `(...)` as real ones, `(..., 2)`."""
    return np.stack([values.real, values.imag], axis=-1)


def _to_complex(values: Array) -> Array:
    return np.asarray(values[..., 0] + 1j * values[..., 1])
