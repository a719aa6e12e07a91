"""The kernels in C compute what torch computes in float64, with every set of instructions that the machine has."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from deepzero_sim.oracle.difference.kernels import image_convolution, native
from deepzero_sim.oracle.difference.rules.activations import relu_difference
from deepzero_sim.oracle.difference.rules.norms import norm_difference

LOADED: Any = native.library()
#: Of the largest result, by points of Winograd's method; 0 is by summation.
ROUNDING = {0: 2e-6, 6: 1e-5, 10: 3e-4}

INSTRUCTIONS = ("plain", "AVX2", "AVX-512")
PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

channels = st.integers(1, 5).map(lambda n: native.CHANNELS * n)
images = st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 14))


def test_they_were_compiled() -> None:
    assert LOADED is not None


@pytest.fixture(params=range(3), ids=INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    if LOADED.dz_instructions(request.param) < request.param:
        LOADED.dz_instructions(2)
        pytest.skip(f"this machine has no {INSTRUCTIONS[request.param]}")
    yield
    LOADED.dz_instructions(2)


with_every_set = pytest.mark.usefixtures("instructions")


def convolve(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, border: int = 0) -> torch.Tensor:
    """Convolve `(B, H, W, C)` with `(O, C, k, k)` to `(B, H', W', O)`, in float64."""
    return F.conv2d(x.double().movedim(-1, 1), weight.double(), stride=stride, padding=border).movedim(1, -1)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def assert_moments(x: torch.Tensor, weight: native.Weight, result: torch.Tensor) -> None:
    """Require that a convolution writes its result, and returns its moments if asked."""
    rows = result.numel() // result.shape[3]
    y = torch.randn(rows, result.shape[3])
    sums = native.convolution(x, weight, result, y)
    assert sums is not None
    torch.testing.assert_close(
        sums, native.moments(result.view(1, *y.shape), y)[0], rtol=1e-4, atol=1e-4 * float(result.abs().max())
    )
    again = torch.full_like(result, torch.nan)
    assert native.convolution(x, weight, again) is None
    assert torch.equal(again, result)


@with_every_set
@PROPERTY
@given(
    size=images,
    inputs=channels,
    outputs=channels,
    kernel=st.sampled_from(image_convolution.WINOGRAD_KERNELS),
    points=st.sampled_from(sorted(image_convolution.WINOGRAD_PAIRS)),
    seed=st.integers(0, 99),
)
def test_winograd_convolution(
    size: tuple[int, int, int], inputs: int, outputs: int, kernel: int, points: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(*size, inputs), torch.randn(outputs, inputs, kernel, kernel)
    result = torch.full((*size, outputs), torch.nan)
    laid_out = image_convolution.winograd_weight(weight, points)
    assert_moments(x, native.Weight(laid_out, points, kernel, 1, kernel // 2), result)
    assert error(result, convolve(x, weight, 1, kernel // 2)) < ROUNDING[points]


@with_every_set
@PROPERTY
@given(
    size=images,
    inputs=st.integers(1, 9),
    outputs=channels,
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    border=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_direct_convolution(
    size: tuple[int, int, int], inputs: int, outputs: int, kernel: int, stride: int, border: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(*size, inputs), torch.randn(outputs, inputs, kernel, kernel)
    if min(size[1:]) + 2 * border < kernel:
        return
    expected = convolve(x, weight, stride, border)
    result = torch.full(expected.shape, torch.nan)
    assert_moments(x, native.Weight(weight.permute(2, 3, 1, 0).contiguous(), 0, kernel, stride, border), result)
    assert error(result, expected) < ROUNDING[0]


few = st.integers(1, native.FEW_CHANNELS)


@with_every_set
@PROPERTY
@given(size=images, inputs=few, outputs=few, kernel=st.integers(1, 5), border=st.integers(0, 3), seed=st.integers(0, 99))
def test_narrow_convolution(size: tuple[int, int, int], inputs: int, outputs: int, kernel: int, border: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(*size, inputs), torch.randn(outputs, inputs, kernel, kernel)
    if min(size[1:]) + 2 * border < kernel:
        return
    expected = convolve(x, weight, 1, border)
    result = torch.full(expected.shape, torch.nan)
    native.narrow_convolution(x, weight.permute(2, 3, 1, 0).contiguous(), border, result)
    assert error(result, expected) < 2e-6


@with_every_set
@PROPERTY
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70)),
    slope=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.sampled_from([1e-7, 1e-2, 1.0]),
    seed=st.integers(0, 99),
)
def test_leaky_relu(shape: tuple[int, int], slope: float, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    d, x = scale * torch.randn(shape), torch.randn(shape[1])
    expected = F.leaky_relu(x.double() + d.double(), slope) - F.leaky_relu(x.double(), slope)
    assert float((native.leaky_relu(d, x, slope) - expected).abs().max()) < 1e-6 * float(d.abs().max())


def random_base(rows: int, count: int) -> native.BaseActivation:
    y = torch.randn(rows, count)
    y = (y - y.mean(0)) / y.std(0, correction=0)
    return native.BaseActivation(y, torch.rand(count) + 0.5, torch.randn(count), torch.randn(rows, count))


#: What is added before a ReLU.
additions = st.sampled_from(["nothing", "all channels", "one channel"])


def random_skip(what: str, queries: int, rows: int, count: int, scale: float) -> native.Skip | None:
    if what == "nothing":
        return None
    if what == "all channels":
        return native.Skip(scale * torch.randn(queries, rows, count))
    return native.Skip(scale * torch.randn(queries, rows), torch.randint(count, (queries,), dtype=torch.int32))


def skip_of(skip: native.Skip | None, query: slice) -> native.Skip | None:
    return None if skip is None else native.Skip(*(None if x is None else x[query] for x in skip))  # type: ignore[arg-type]


def activate(d: torch.Tensor, skip: native.Skip | None, base: native.BaseActivation) -> torch.Tensor:
    """Compute the difference after norm, sum and ReLU, `(P, M, C)`, in float64."""
    z = norm_difference(base.y.double(), d.double(), base.deviation.double(), [0]) * base.weight.double()
    if skip is not None and skip.channels is None:
        z += skip.values
    if skip is not None and skip.channels is not None:
        for query, values, channel in zip(z, skip.values, skip.channels.tolist(), strict=True):
            query[:, channel] += values
    return relu_difference(base.before.double(), z)


scales = st.sampled_from([1e-6, 1e-2, 1.0])


@with_every_set
@PROPERTY
@given(shape=st.tuples(st.integers(1, 3), st.integers(2, 300), channels), scale=scales, adds=additions, seed=st.integers(0, 99))
def test_norm_relu(shape: tuple[int, int, int], scale: float, adds: str, seed: int) -> None:
    torch.manual_seed(seed)
    _, rows, count = shape
    base, skip = random_base(rows, count), random_skip(adds, *shape, scale)
    d = scale * torch.randn(shape)
    moved = (base.y * base.deviation + d).std(1, correction=0)
    assume((moved > 0.1 * base.deviation).all().item())  # next to no variance would magnify any rounding
    result = torch.full_like(d, torch.nan)
    sums = native.moments(d, base.y)
    expected = torch.stack([d.double(), base.y.double() * d.double(), d.double().square()], 1).sum(2)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5 * scale * rows)
    native.norm_relu(d, sums, skip, base, result)
    behind = activate(d, skip, base)
    size = float(behind.abs().max()) + 3 * scale
    assert float((result - behind).abs().max()) < 1e-5 * size
    for images in (1, rows):
        means = native.norm_relu_mean(d, sums, skip, base, images)
        expected = behind.unflatten(1, (images, -1)).mean(2)
        assert means.shape == expected.shape
        assert float((means - expected).abs().max()) < 2e-5 * size
    native.norm_relu(d, sums, skip, base, d)
    assert torch.equal(d, result)  # in place


@with_every_set
def test_nan_stays_nan() -> None:
    d, base = torch.zeros(1, 4, 8), native.BaseActivation(torch.zeros(4, 8), torch.ones(8), torch.ones(8), -torch.ones(4, 8))
    d[0, 1, 2] = torch.nan
    native.norm_relu(d, native.moments(d, base.y), None, base, d)
    assert d[..., 2].isnan().all()
    assert (d[..., :2] == 0).all()


@with_every_set
@PROPERTY
@given(
    queries=st.integers(1, 3),
    size=images,
    inputs=channels,
    outputs=channels,
    kind=st.sampled_from(
        [(3, 1, 1, 6), (3, 1, 1, 10), (5, 1, 2, 6), (5, 1, 2, 10), (3, 1, 1, 0), (3, 2, 1, 0), (1, 1, 0, 0), (2, 2, 0, 0)]
    ),
    scale=scales,
    adds=additions,
    keeps=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layer(
    queries: int,
    size: tuple[int, int, int],
    inputs: int,
    outputs: int,
    kind: tuple[int, int, int, int],
    scale: float,
    adds: str,
    keeps: bool,
    seed: int,
) -> None:
    """It computes what its parts do, moments included, and the same bit for bit in place and query by query."""
    torch.manual_seed(seed)
    kernel, stride, border, points = kind
    rows = size[0] * size[1] * size[2]
    if min(size[1:]) + 2 * border < kernel or rows < 8:
        return
    base, values = random_base(rows, inputs), torch.randn(outputs, inputs, kernel, kernel)
    laid_out = image_convolution.winograd_weight(values, points) if points else values.permute(2, 3, 1, 0).contiguous()
    weight = native.Weight(laid_out, points, kernel, stride, border)
    d, skip = scale * torch.randn(queries, *size, inputs), random_skip(adds, queries, rows, inputs, scale)
    kept = torch.full_like(d, torch.nan) if keeps else None
    hidden = activate(d.flatten(1, 3), skip, base).view(d.shape)
    expected = torch.stack([convolve(x, values, stride, border) for x in hidden])
    next_y = torch.randn(expected[0].numel() // outputs, outputs)
    sums = native.moments(d.flatten(1, 3), base.y)

    result = torch.full(expected.shape, torch.nan)
    moments = native.layer(d, sums, skip, base, kept, weight, next_y, result)
    assert error(result, expected) < 1e-5 + 2 * ROUNDING[points]
    assert kept is None or error(kept, hidden) < 1e-5
    assert moments is not None
    torch.testing.assert_close(
        moments, native.moments(result.flatten(1, 3), next_y), rtol=1e-4, atol=1e-4 * float(result.abs().max())
    )

    for query in range(queries):
        alone = torch.full_like(result[:1], torch.nan)
        one = slice(query, query + 1)
        its = native.layer(d[one], sums[one], skip_of(skip, one), base, None, weight, next_y, alone)
        assert its is not None and torch.equal(alone[0], result[query]) and torch.equal(its[0], moments[query])
    over = d if d.shape == result.shape else torch.full_like(result, torch.nan)
    kept_over = skip.values if skip is not None and skip.channels is None and keeps else None
    assert native.layer(d, sums, skip, base, kept_over, weight, None, over) is None
    assert torch.equal(over, result)
    assert kept is None or kept_over is None or torch.equal(kept_over.view(kept.shape), kept)


@with_every_set
@pytest.mark.parametrize("points", image_convolution.WINOGRAD_PAIRS)
def test_a_query_does_not_depend_on_its_batch(points: int) -> None:
    """Tiles of several images share a matrix product: what each gives must be its own."""
    laid_out = image_convolution.winograd_weight(torch.randn(24, 16, 3, 3), points)
    x, weight = torch.randn(5, 9, 7, 16), native.Weight(laid_out, points, 3, 1, 1)
    together, alone = torch.empty(5, 9, 7, 24), torch.empty(1, 9, 7, 24)
    native.convolution(x, weight, together)
    for image, expected in zip(x, together, strict=True):
        native.convolution(image[None], weight, alone)
        assert torch.equal(alone[0], expected)


WITHOUT = """
import importlib.util, json, warnings
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.endswith("_native") else find(name, *rest)
import torch, deepzero_sim as dz
from deepzero_sim.models import resnet20
torch.manual_seed(0)
model, batch = resnet20(), (torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))
mask = {"blocks.0.conv1.weight": torch.zeros(16, 16, 3, 3, dtype=torch.bool)}
mask["blocks.0.conv1.weight"][3, 4] = True
oracle = dz.ModelOracle(model, torch.nn.functional.cross_entropy)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    grads = [dz.CGE(1e-4).estimate(oracle, batch, mask).grads["blocks.0.conv1.weight"][3, 4] for _ in range(2)]
print(json.dumps([str(w.message) for w in caught if "kernels in C" in str(w.message)]))
print(json.dumps(grads[0].flatten().tolist()))
"""


@pytest.mark.slow
def test_without_them_torch_computes_the_same_and_a_warning_says_so_once() -> None:
    (warning,), expected = _run(WITHOUT)
    assert warning.startswith("deepzero-sim was installed without its kernels in C")
    warnings, found = _run(WITHOUT.replace('None if name.endswith("_native") else ', ""))
    assert not warnings
    assert error(torch.tensor(found), torch.tensor(expected)) < 1e-4


def _run(program: str) -> list[Any]:
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A library that cannot be loaded counts as none, without a traceback."""
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"no library")
    spec = importlib.util.spec_from_file_location("_native", broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.warns(UserWarning, match="without its kernels in C"):
        assert native.library.__wrapped__() is None
