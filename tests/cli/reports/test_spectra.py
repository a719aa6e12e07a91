"""Spectra against known waves and Parseval's identity, and what a page says where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparisons import compare_states, keep_figures, words_of

from deepzero_sim.cli.reports import spectra
from deepzero_sim.cli.reports.figures import Figure
from deepzero_sim.cli.reports.spectra import draw, ends_meet, spectrum
from deepzero_sim.solver.spec import SolverSpec

GRIDS = {"1-D": (64,), "2-D": (32, 48), "3-D": (8, 12, 16)}


def waves(grid: tuple[int, ...], spacing: tuple[float, ...], numbers: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A cosine with so many periods along each axis."""
    phases = [2 * np.pi * number * np.arange(points) / points for number, points in zip(numbers, grid, strict=True)]
    return np.cos(sum(np.meshgrid(*phases, indexing="ij")))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_bands_add_up_to_the_variance(grid: tuple[int, ...]) -> None:
    fields = np.random.default_rng(0).normal(3.0, 2.0, size=(4, *grid))
    found = spectrum(fields, [0.5] * len(grid))
    variances = fields.reshape(4, -1).var(axis=1)
    assert found.power.sum() == pytest.approx(variances.mean()) and found.power[0] == pytest.approx(0, abs=1e-20)
    assert len(found.wavenumbers) == len(found.power) and found.resolved == pytest.approx(np.pi / 0.5)


@pytest.mark.parametrize(
    ("grid", "spacing", "numbers"),
    [
        ((64,), (0.1,), (5,)),
        ((32, 48), (0.5, 0.25), (3, 0)),
        ((32, 48), (0.5, 0.25), (4, 6)),
        ((8, 12, 16), (1.0, 1.0, 1.0), (0, 3, 0)),
    ],
)
def test_a_wave_has_its_power_at_its_wavenumber(
    grid: tuple[int, ...], spacing: tuple[float, ...], numbers: tuple[int, ...]
) -> None:
    field = 3.0 * waves(grid, spacing, numbers) + 7.0
    found = spectrum(field[None], spacing)
    k = np.sqrt(sum((2 * np.pi * n / (points * d)) ** 2 for n, points, d in zip(numbers, grid, spacing, strict=True)))
    band = int(found.power.argmax())
    width = found.wavenumbers[1]
    assert abs(found.wavenumbers[band] - k) <= width / 2 + 1e-12
    assert found.power[band] == pytest.approx(3.0**2 / 2) and np.delete(found.power, band).max() < 1e-20


def test_units_of_length_scale_wavenumbers_and_not_power() -> None:
    fields = np.random.default_rng(1).normal(size=(2, 32))
    metres, millimetres = spectrum(fields, [1e-3]), spectrum(fields, [1.0])
    assert np.allclose(metres.wavenumbers, 1e3 * millimetres.wavenumbers) and np.allclose(metres.power, millimetres.power)


def test_a_window_keeps_the_variance_and_the_jump_between_ends_out() -> None:
    ramp = np.linspace(0.0, 1.0, 128)[None] + 0 * np.zeros((3, 1))
    plain, windowed = spectrum(ramp, [1.0]), spectrum(ramp, [1.0], [True])
    assert windowed.power[20:60].max() < 1e-3 * plain.power[20:60].min()
    noise = np.random.default_rng(2).normal(size=(2000, 64))
    assert spectrum(noise, [1.0], [True]).power.sum() == pytest.approx(1.0, rel=0.02)


def test_ends_meet_where_a_field_is_periodic() -> None:
    x = np.arange(32) / 32
    assert ends_meet(np.sin(2 * np.pi * x)[None], 0) and not ends_meet(x[None], 0)
    plane = np.sin(2 * np.pi * x)[None, :, None] + 4 * x[None, None, :]
    assert ends_meet(plane, 0) and not ends_meet(plane, 1)
    assert ends_meet(np.ones((2, 8)), 0)


def test_methods_lose_the_states_that_are_not_finite_and_the_figure_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    kept = keep_figures(monkeypatch, spectra)
    spec = SolverSpec(name="s", state_shape=(1, 32), dt=1.0, axes=("x",), spacing=(0.1,))
    true = torch.linspace(0, 1, 32) + 0.01 * torch.randn(3, 8, 1, 32)
    half, lost = true.clone(), torch.full_like(true, torch.inf)
    half[0] = torch.nan
    (figure,) = draw(tmp_path, compare_states(spec, true, {"SRC": true, "NON": half, "ZO-SOL": lost}))
    assert "Hann window along x, whose ends do not meet" in figure.caption
    words = [" ".join(word.split()) for word in words_of(kept["spectra.png"])]
    assert {"SRC", "NON (4 of 6 states are finite)", "ZO-SOL (0 of 6 states are finite)", "reference"} <= set(words)
    assert "power spectra, mean of 3 of 3 simulations, steps 7 to 8 (to t = 8)" in words
    (ax,) = kept["spectra.png"].axes
    lines = {line.get_label().partition(" ")[0]: line.get_ydata() for line in ax.get_lines()}
    assert np.array_equal(lines["SRC"], lines["reference"]) and np.isnan(lines["ZO-SOL"]).all()


@pytest.mark.parametrize(
    ("known", "shape", "reason"),
    [
        ({"axes": ("point",)}, (1, 40), "neighbours along point need not be neighbours in space"),
        ({}, (1, 4, 40), "the axis axis 0 has 4 points, and 8 are needed"),
    ],
)
def test_a_page_says_why_there_are_no_spectra(
    tmp_path: Path, known: dict[str, Any], shape: tuple[int, ...], reason: str
) -> None:
    true = torch.randn(2, 4, *shape)
    spec = SolverSpec(name="s", state_shape=shape, dt=1.0, **known)
    assert draw(tmp_path, compare_states(spec, true, {"SRC": true})) == [Figure("", f"No spectra are drawn: {reason}.")]
    assert list(tmp_path.iterdir()) == []
