"""Every rule against `f(x + d) - f(x)`, for differences from 1e-8 to 1: in float32 it keeps digits that subtracting loses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import given, settings
from hypothesis import strategies as st

from deepzero_sim.oracle.difference.delta import Changed, Dense, OneChannel
from deepzero_sim.oracle.difference.rules.table import RULES, recompute, rule

#: name: (operation of one tensor, as it is called, keywords and all)
ELEMENTWISE: dict[str, tuple[Callable[..., torch.Tensor], dict[str, Any]]] = {
    "relu": (F.relu, {}),
    "leaky relu": (F.leaky_relu, {"negative_slope": 0.2}),
    "elu": (F.elu, {"alpha": 0.7}),
    "tanh": (torch.tanh, {}),
    "sigmoid": (torch.sigmoid, {}),
    "silu": (F.silu, {}),
    "gelu": (F.gelu, {}),
    "gelu by tanh": (F.gelu, {"approximate": "tanh"}),
    "softplus": (F.softplus, {}),
    "softplus, sharp": (F.softplus, {"beta": 3}),
    "mish": (F.mish, {}),
    "exp": (torch.exp, {}),
    "square": (torch.square, {}),
    "neg": (torch.neg, {}),
}

SEEDS = st.integers(0, 2**16)
#: Sizes of differences, decimal exponents.
SIZES = st.floats(-8, 0)


def apply_rule(
    operation: Callable[..., Any], args: tuple[Any, ...], deltas: dict[int, torch.Tensor], **options: Any
) -> torch.Tensor:
    """Apply the rule of an operation to differences `(P, *shape)` by the place of their argument; the result is dense."""
    out = operation(*args, **options)
    changed = [Changed(x, Dense(deltas[i])) if i in deltas else x for i, x in enumerate(args)]
    delta = RULES[operation](out, *changed, **options)
    assert delta is not NotImplemented
    result: torch.Tensor = delta.dense()
    assert result.shape == (len(next(iter(deltas.values()))), *out.shape)
    return result


def subtract(
    operation: Callable[..., Any], args: tuple[Any, ...], deltas: dict[int, torch.Tensor], double: bool = True, **options: Any
) -> torch.Tensor:
    """Subtract the results of an operation on values; in float64, that is the reference."""

    def cast(x: Any) -> Any:
        return x.double() if double and isinstance(x, torch.Tensor) and x.is_floating_point() else x

    base = operation(*map(cast, args), **options)
    count = len(next(iter(deltas.values())))
    moved = [[cast(x) + cast(deltas[i][p]) if i in deltas else cast(x) for i, x in enumerate(args)] for p in range(count)]
    return torch.stack([operation(*each, **options) - base for each in moved])


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error of any query, relative to the largest of its differences."""
    found, expected = found.double().reshape(len(found), -1), expected.reshape(len(expected), -1)
    scale = expected.abs().amax(1)
    return float(((found - expected).abs().amax(1) / scale.clamp(min=1e-300)).max())


def draw(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(seed=SEEDS, size=SIZES, spread=st.sampled_from([0.1, 1.0, 5.0]))
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str, seed: int, size: float, spread: float) -> None:
    operation, options = ELEMENTWISE[name]
    x, d = draw(seed, 40, scale=spread), draw(seed + 1, 3, 40, scale=10**size)
    expected = subtract(operation, (x,), {0: d}, **options)
    found = apply_rule(operation, (x,), {0: d}, **options)
    # every number by itself, up to what rounding `x` to float32 would change
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-6 * float(d.abs().max()))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "exp", "elu"])
@pytest.mark.parametrize("x", [-30.0, -12.0, -6.0, 6.0, 8.0])
@pytest.mark.parametrize("d", [1e-6, -1e-3, 0.5, -0.5])
def test_saturated_activations_keep_their_relative_precision(name: str, x: float, d: float) -> None:
    operation, options = ELEMENTWISE[name]
    value, delta = torch.tensor([x]), torch.tensor([[d]])
    t, u = value.double(), delta[0].double()
    exact = {
        "tanh": torch.sinh(u) / (torch.cosh(t) * torch.cosh(t + u)),
        "sigmoid": 0.5 * torch.sinh(u / 2) / (torch.cosh(t / 2) * torch.cosh((t + u) / 2)),
        "softplus": torch.log1p(torch.sigmoid(t) * torch.expm1(u)),
        "exp": torch.exp(t) * torch.expm1(u),
        "elu": u if x > 0 else 0.7 * torch.exp(t) * torch.expm1(u),
    }[name]
    torch.testing.assert_close(apply_rule(operation, (value,), {0: delta}, **options)[0].double(), exact, rtol=2e-5, atol=0)


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name not in {"neg"}])
def test_subtracting_in_float32_loses_what_the_rules_keep(name: str) -> None:
    operation, options = ELEMENTWISE[name]
    x, d = draw(0, 200), draw(1, 2, 200, scale=1e-6)
    expected = subtract(operation, (x,), {0: d}, **options)
    assert error(apply_rule(operation, (x,), {0: d}, **options), expected) < 1e-5
    assert error(subtract(operation, (x,), {0: d}, double=False, **options), expected) > 1e-3


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_one_channel_stays_one_channel(name: str) -> None:
    operation, options = ELEMENTWISE[name]
    if operation in {torch.square, torch.neg}:
        pytest.skip("differences of arithmetic are dense")
    x, values = draw(0, 2, 3, 4), draw(1, 4, 2, 1, 4)
    for channels in ((2, 0, 2, 1), (1, 1, 1, 1)):
        delta = OneChannel(values, channels, 1, x.shape)
        result = RULES[operation](operation(x, **options), Changed(x, delta), **options)
        assert isinstance(result, OneChannel) and result.channels == channels
        torch.testing.assert_close(
            result.dense(), apply_rule(operation, (x,), {0: delta.dense()}, **options), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("d", [1e3, -1e3, 100.0, -100.0, 0.0])
@pytest.mark.parametrize("x", [-50.0, -1.0, 0.0, 1.0, 50.0])
@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name != "exp"])
def test_large_steps_stay_finite(name: str, x: float, d: float) -> None:
    operation, options = ELEMENTWISE[name]
    value, delta = torch.tensor([x]), torch.tensor([[d]])
    expected = subtract(operation, (value,), {0: delta}, **options)
    torch.testing.assert_close(apply_rule(operation, (value,), {0: delta}, **options).double(), expected, rtol=1e-5, atol=1e-5)


#: name: (operation, shapes of its arguments, which of them change, options, error allowed)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[int, ...], dict[str, Any], float]] = {
    "softmax": (F.softmax, ((4, 6),), (0,), {"dim": 1}, 1e-4),
    "softmax first": (torch.softmax, ((4, 6),), (0,), {"dim": -2}, 1e-4),
    "log softmax": (F.log_softmax, ((4, 6),), (0,), {"dim": 1}, 1e-4),
    "max pooling": (F.max_pool2d, ((2, 2, 6, 6),), (0,), {"kernel_size": 2}, 1e-4),
    "max pooling, overlapping": (
        F.max_pool2d, ((2, 2, 7, 6),), (0,), {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1}, 1e-4
    ),
    "batch norm": (F.batch_norm, ((4, 3, 5), None, None, 3, 3), (0,), {"training": True}, 1e-4),
    "batch norm, all": (F.batch_norm, ((4, 3, 5), None, None, 3, 3), (0, 3, 4), {"training": True}, 1e-4),
    "batch norm of features": (F.batch_norm, ((6, 3), None, None, 3, 3), (0,), {"training": True}, 1e-4),
    "batch norm of images": (F.batch_norm, ((3, 2, 3, 4), None, None, None, None), (0,), {"training": True}, 1e-4),
    "batch norm, fixed": (F.batch_norm, ((4, 3, 5), 3, "+3", 3, 3), (0,), {}, 1e-4),
    "batch norm, its weight": (F.batch_norm, ((4, 3, 5), 3, "+3", 3, 3), (3,), {}, 1e-4),
    "layer norm": (F.layer_norm, ((4, 2, 5), (5,), 5, 5), (0,), {}, 1e-4),
    "layer norm, all": (F.layer_norm, ((4, 2, 5), (2, 5), "2,5", "2,5"), (0, 2, 3), {}, 1e-4),
    "layer norm, its weight": (F.layer_norm, ((4, 2, 5), (5,), 5, 5), (2,), {}, 1e-4),
    "group norm": (F.group_norm, ((2, 4, 5), 2, 4, 4), (0,), {}, 1e-4),
    "group norm, all": (F.group_norm, ((2, 4, 3, 2), 2, 4, 4), (0, 2, 3), {}, 1e-4),
    "product": (torch.mul, ((3, 4), (3, 4)), (0, 1), {}, 1e-4),
    "product, one": (torch.mul, ((3, 4), (4,)), (1,), {}, 1e-4),
    "product, broadcast": (torch.mul, ((3, 1), (2, 3, 4)), (0, 1), {}, 1e-4),
    "quotient": (torch.div, ((3, 4), "+3,4"), (0, 1), {}, 1e-3),
    "quotient by one": (torch.div, ((3, 4), "+3,4"), (0,), {}, 1e-4),
    "quotient of one": (torch.div, ((3, 4), "+4"), (1,), {}, 1e-4),
    "quotient, broadcast": (torch.div, ((4,), "+3,1"), (0, 1), {}, 1e-3),
    "sum": (torch.add, ((3, 4), (4,)), (0, 1), {}, 1e-4),
    "difference": (torch.sub, ((3, 4), (3, 1)), (0, 1), {}, 1e-4),
    "matrix product": (torch.matmul, ((2, 3, 4), (4, 2)), (0, 1), {}, 1e-4),
    "square error": (F.mse_loss, ((3, 4), (3, 4)), (0,), {}, 1e-4),
    "square error, each": (F.mse_loss, ((3, 4), (3, 4)), (0,), {"reduction": "none"}, 1e-4),
}  # fmt: skip


def tensors(arguments: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    """Draw tensors of some shapes: `3` is a vector, `"+3,4"` positive numbers; the second tuple of a norm is one of its own."""
    found: list[Any] = []
    for place, shape in enumerate(arguments):
        if isinstance(shape, str):
            x = draw(seed + place, *map(int, shape.removeprefix("+").split(",")))
            found.append(x.abs() + 0.5 if shape.startswith("+") else x)
        elif isinstance(shape, tuple):
            found.append(draw(seed + place, *shape))
        else:
            found.append(draw(seed + place, shape) if isinstance(shape, int) else shape)
    return tuple(found)


def arguments_of(name: str, seed: int) -> tuple[Any, ...]:
    operation, shapes, *_ = CASES[name]
    found = list(tensors(shapes, seed))
    if operation in {F.layer_norm, F.group_norm}:
        found[1] = shapes[1]  # not a tensor
    return tuple(found)


@settings(max_examples=15)
@given(seed=SEEDS, size=SIZES)
@pytest.mark.parametrize("name", CASES)
def test_functions_of_whole_tensors(name: str, seed: int, size: float) -> None:
    operation, _, changing, options, tolerance = CASES[name]
    args = arguments_of(name, seed)
    deltas = {i: draw(seed + 10 + i, 3, *args[i].shape, scale=0.1 * 10**size) for i in changing}
    expected = subtract(operation, args, deltas, **options)
    assert error(apply_rule(operation, args, deltas, **options), expected) < tolerance


@settings(max_examples=5)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_in_float64_rules_are_exact(name: str, seed: int) -> None:
    operation, _, changing, options, _ = CASES[name]
    args = tuple(x.double() if isinstance(x, torch.Tensor) else x for x in arguments_of(name, seed))
    deltas = {i: draw(seed + 10 + i, 2, *args[i].shape, scale=0.3).double() for i in changing}
    assert error(apply_rule(operation, args, deltas, **options), subtract(operation, args, deltas, **options)) < 1e-10


@pytest.mark.parametrize("name", ["softmax", "log softmax", "batch norm", "layer norm", "group norm", "max pooling",
                                  "quotient", "square error", "matrix product"])  # fmt: skip
def test_subtracting_whole_tensors_in_float32_loses_what_the_rules_keep(name: str) -> None:
    operation, _, changing, options, tolerance = CASES[name]
    args = arguments_of(name, 0)
    deltas = {i: draw(10 + i, 3, *args[i].shape, scale=1e-6) for i in changing}
    expected = subtract(operation, args, deltas, **options)
    assert error(apply_rule(operation, args, deltas, **options), expected) < tolerance
    assert error(subtract(operation, args, deltas, double=False, **options), expected) > 10 * tolerance


@settings(max_examples=30)
@given(
    seed=SEEDS,
    size=SIZES,
    smoothing=st.sampled_from([0.0, 0.1]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    indices=st.booleans(),
    sharp=st.sampled_from([1.0, 10.0]),
)
def test_cross_entropy(seed: int, size: float, smoothing: float, reduction: str, indices: bool, sharp: float) -> None:
    logits, d = draw(seed, 5, 4, scale=sharp), draw(seed + 1, 3, 5, 4, scale=10**size)
    targets = draw(seed + 2, 5, 4).softmax(1)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    target = targets.argmax(1) if indices else targets
    found, expected = (f(F.cross_entropy, (logits, target), {0: d}, **options) for f in (apply_rule, subtract))
    # of a sum, as large as its terms: they may cancel; the reference itself holds 1e-15 of a loss of up to 100
    assert float((found.double() - expected).abs().max()) < 1e-5 * 10**size + 1e-13
    if reduction != "none":
        assert found.dtype == torch.float64, "a float32 loss has no digits to spare"


@settings(max_examples=10)
@given(seed=SEEDS, size=st.floats(-8, -1))
def test_what_has_no_rule_is_recomputed_in_float64(seed: int, size: float) -> None:
    def operation(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.erf(x).cumsum(-1) * torch.cosh(y)

    args, deltas = (draw(seed, 3, 4), draw(seed + 1, 4)), {0: draw(seed + 2, 3, 3, 4, scale=10**size)}
    assert operation not in RULES
    found = recompute(operation, (Changed(args[0], Dense(deltas[0])), args[1]), {})
    assert found.dense().dtype == torch.float64
    assert error(found.dense(), subtract(operation, args, deltas)) < 1e-5


def test_what_cannot_be_mapped_is_recomputed_one_by_one() -> None:
    def operation(x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return (x * float(x.sum() > 0), 3) if bool(x[0] > -100) else (x, 3)

    x, d = draw(0, 4).double(), draw(1, 3, 4).double()
    found, nothing = recompute(operation, (Changed(x, Dense(d)),), {})
    assert nothing is None
    torch.testing.assert_close(found.dense(), torch.stack([operation(x + each)[0] - operation(x)[0] for each in d]))


def test_a_rule_is_registered_for_every_operation_it_is_for() -> None:
    first, second = (lambda x: x), (lambda x: 2 * x)
    try:

        @rule(first, second)
        def changed(out: torch.Tensor, x: Changed) -> Dense:
            return Dense(x.delta.dense())

        assert RULES[first] is RULES[second] is changed
    finally:
        RULES.pop(first, None)
        RULES.pop(second, None)


@pytest.mark.parametrize(
    ("operation", "args", "options"),
    [
        (torch.add, (draw(0, 3), draw(1, 3)), {"alpha": 2}),
        (torch.sub, (draw(0, 3), draw(1, 3)), {"alpha": 2}),
        (torch.div, (draw(0, 3), draw(1, 3)), {"rounding_mode": "floor"}),
        (torch.pow, (draw(0, 3), 3), {}),
        (F.softmax, (draw(0, 3),), {"dim": 0, "dtype": torch.float64}),
        (F.softplus, (draw(0, 3),), {"threshold": 1.0}),
        (F.cross_entropy, (draw(0, 3, 2), torch.tensor([0, -100, 1])), {}),
        (F.cross_entropy, (draw(0, 3, 2), torch.tensor([0, 1, 1])), {"weight": torch.ones(2)}),
        (F.mse_loss, (draw(0, 3, 2), draw(0, 2)), {}),
        (F.max_pool2d, (draw(0, 1, 1, 5, 5), 2), {"ceil_mode": True}),
        (F.max_pool2d, (draw(0, 1, 5, 5), 2), {}),
        (F.conv1d, (draw(0, 2, 5), draw(1, 3, 2, 2)), {}),
        (torch.matmul, (draw(0, 3), draw(1, 3)), {}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_what_a_rule_does_not_cover_it_leaves_to_recomputing(
    operation: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> None:
    changed = Changed(args[0], Dense(draw(5, 2, *args[0].shape)))
    assert RULES[operation](operation(*args, **options), changed, *args[1:], **options) is NotImplemented
