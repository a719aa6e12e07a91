"""First pictures of data of any layout, and of runs."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from training_cases import line_data, train_settings

from deepzero_sim.cli.main import main
from deepzero_sim.cli.reports import recordings
from deepzero_sim.cli.settings.show import ShowSettings
from deepzero_sim.datasets.recording import Recording
from deepzero_sim.training.runs.training import train

pytest.importorskip("matplotlib")


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def pictures(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"report.md", "report.html"}


def embedded(folder: Path) -> list[bytes]:
    """First bytes of the pictures within the page."""
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    return [base64.b64decode(data)[:4] for data in re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)]


def frames_of(path: Path) -> int:
    image = pytest.importorskip("PIL.Image")
    with image.open(path) as gif:
        return int(gif.n_frames)


def test_our_own_data_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = line_data(tmp_path / "line.h5")
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(data)]) == 0
    said, folder = words(capsys), tmp_path / "runs" / "show" / "line"
    assert pictures(folder) == {"fields.png", "space_time.png", "over_time.png", "animation.gif"}
    with h5py.File(data) as file:
        simulations, times = file["frames"].shape[:2]
        low, high, kind = float(file["frames"][:].min()), float(file["frames"][:].max()), file["frames"].dtype
    assert f"{simulations}, each of {times} frames of {kind}" in said and f"{low:.6g}" in said and f"{high:.6g}" in said
    assert embedded(folder) == [b"\x89PNG"] * 3 + [b"GIF8"] and frames_of(folder / "animation.gif") == times


def test_arrays_of_numpy_are_shown_as_their_axes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(size=(2, 5, 2, 12, 16)).astype(np.float32)
    np.save(tmp_path / "rolls.npy", values)
    out = tmp_path / "out"
    axes = ["--axes", "[simulation, time, channel, y, x]"]
    assert main(["show", str(tmp_path / "rolls.npy"), "--output", str(out), *axes, "--animation", "false"]) == 0
    assert pictures(out) == {"fields.png", "fields_channel_1.png", "over_time.png"}
    said = words(capsys)
    assert "12 x 16" in said and f"{values[:, :, 1].std():.6g}"[:5] in said


def test_missing_values_are_counted_and_masked_ones_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xarray = pytest.importorskip("xarray")
    heat = np.random.default_rng(0).random((6, 8, 9)) + 280.0
    heat[:, :2, :3] = np.nan  # land
    heat[3, 5, 5] = np.nan
    data = xarray.Dataset(
        {"sst": (("time", "lat", "lon"), heat, {"units": "K"})},
        coords={"time": np.arange(6.0), "lat": np.linspace(60, 40, 8), "lon": np.arange(9.0)},
    )
    data.to_netcdf(tmp_path / "ocean.nc")
    assert main(["show", str(tmp_path / "ocean.nc"), "--output", str(tmp_path / "out")]) == 0
    said = words(capsys)
    assert "6 of 72 in every frame" in said and "60 to 40" in said
    row = next(line for line in (tmp_path / "out" / "report.md").read_text().splitlines() if line.startswith("| sst |"))
    assert row.split(" | ")[1] == "K" and row.rstrip(" |").endswith("| 1")


def test_a_run_is_shown_with_its_learning_curve_and_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = line_data(tmp_path / "line.h5")
    train(train_settings(tmp_path / "run", data, method="NON", updates=3))
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    out = tmp_path / "out"
    assert main(["show", str(tmp_path / "run"), "--output", str(out), "--steps", "4"]) == 0
    assert {"fields.png", "learning_curves.png", "animation.gif", "results.json", "error_over_time.png"} <= pictures(out)
    assert set(json.loads((out / "results.json").read_text())["methods"]) == {"SRC", "NON"}
    page = (out / "report.md").read_text()
    assert page.startswith("# run: NON, on the data it was trained on\n") and "(animation.gif)" in page
    assert len(embedded(out)) == page.count("![") and frames_of(out / "animation.gif") == 5  # with the first frame
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    assert "SRC" in words(capsys)


def test_a_run_without_a_network_yet_shows_what_was_logged(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    (run / "config.yaml").write_text("method: NON\n")
    assert main(["show", str(run), "--output", str(out)]) == 0
    assert pictures(out) == set() and "Nothing was logged yet." in (out / "report.md").read_text()
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {1 / i}}}\n' for i in range(1, 9)))
    assert main(["show", str(run), "--output", str(out)]) == 0
    assert pictures(out) == {"learning_curves.png"}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "expected data at .*, but there is none: check the path"),
        (lambda path: path.write_bytes(b"not data"), "is of no format that is known, as it begins with b'not data'"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 40), "cut short|cannot be read|is no|damaged"),
        (lambda path: path.mkdir(), "a folder without data that is known"),
    ],
    ids=["nothing", "no data", "cut short", "empty folder"],
)
def test_what_cannot_be_shown_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, sentence: str
) -> None:
    make(tmp_path / "data")
    assert main(["show", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error) and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def array(shape: tuple[int, ...], value: float | None = None) -> Any:
    """A function that writes an array of noise, or of one value, and returns its path and the settings that it needs."""

    def make(path: Path) -> list[str]:
        noise = np.random.default_rng(0).normal(size=shape)
        np.save(path / "data.npy", (noise if value is None else np.full(shape, value)).astype(np.float32))
        axes = ["simulation", "time", "channel", *("a", "z", "y", "x")[-len(shape[3:]) :]]
        return [str(path / "data.npy"), "--axes", f"[{', '.join(axes)}]"]

    return make


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (array((1, 1, 1, 6, 7)), {"fields.png"}),
        (array((1, 1, 1, 1)), {"fields.png"}),
        (array((2, 5, 1, 1, 1)), {"fields.png", "over_time.png"}),
        (array((2, 9, 1, 1, 6)), {"fields.png", "over_time.png", "space_time.png", "animation.gif"}),
        (array((1, 2, 1, 2, 4, 5, 6)), {"fields.png", "over_time.png", "animation.gif"}),
        (array((500, 2, 1, 5)), {"fields.png", "over_time.png", "animation.gif"}),
        (array((1, 2, 1, 6, 7), 0.0), {"fields.png", "over_time.png", "animation.gif"}),
        (array((1, 2, 1, 6), 3.0), {"fields.png", "over_time.png", "animation.gif"}),
        (array((1, 2, 1, 5, 5), np.inf), {"fields.png", "over_time.png", "animation.gif"}),
        (array((1, 2, 1, 5), 3e38), {"fields.png", "over_time.png", "animation.gif"}),
        (array((1, 1, 14, 4)), {"fields.png", *(f"fields_channel_{i}.png" for i in range(1, 12))}),
    ],
    ids=[
        "a frame",
        "a number",
        "a point",
        "a row",
        "4-D",
        "500 simulations",
        "zero",
        "one value",
        "infinite",
        "huge",
        "14 channels",
    ],
)
def test_whatever_data_there_are_have_a_picture(tmp_path: Path, make: Any, expected: set[str]) -> None:
    assert main(["show", *make(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert pictures(tmp_path / "out") == expected and len(embedded(tmp_path / "out")) == len(expected)


def run_folder(path: Path, **files: str) -> list[str]:
    """A run folder with these files, their names without the ending."""
    endings = {"config": "yaml", "metrics": "jsonl", "checkpoint": "safetensors"}
    (path / "run").mkdir()
    for name, text in files.items():
        (path / "run" / f"{name}.{endings[name]}").write_text(text)
    return [str(path / "run")]


def beside(name: str, text: str) -> Any:
    """A function that writes data, and a file of somebody else where the page is to go."""

    def make(path: Path) -> list[str]:
        (path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "out" / name).write_text(text)
        return array((1, 2, 1, 4))(path)

    return make


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (array((1, 2, 1, 6, 7), np.nan), "holds nothing but missing values: check how it was made"),
        (lambda path: run_folder(path, config="method: NON\n", checkpoint="abc"), "is no run of 'deepzero-sim train'"),
        (lambda path: run_folder(path, config="{{{"), "config.yaml"),
        (lambda path: [*run_folder(path, config="method: NON\n"), "--axes", "[x]"], "--axes can be given with data, but"),
        (lambda path: [*array((1, 2, 1, 4))(path), "--steps", "3"], "--steps can be given with a run, but .* is data"),
        (lambda path: [*array((1, 2, 1, 4))(path), "--steps", "0"], "--steps can be given with a run"),
        (beside("report.md", "mine"), "report.md was not made by deepzero-sim, and would be overwritten"),
        (beside("report.html", "mine"), "report.html was not made by deepzero-sim"),
        (beside("fields_u.png", "mine"), "fields_u.png was not made by deepzero-sim"),
        (beside("config.yaml", "method: NON"), "is a run, with a report of its own: name another with --output"),
        (lambda path: (path / "out").write_text("mine") and array((1, 2, 1, 4))(path), "but .*out is a file: name another"),
        (lambda path: (path / "out").symlink_to("/proc/gone") or array((1, 2, 1, 4))(path), "out|proc"),
    ],
    ids=[
        "all NaN", "cut checkpoint", "cut settings", "axes of a run", "steps of data", "no steps", "a page of others",
        "a page of others (HTML)", "a picture of others", "into a run", "a file in the way", "not writable",
    ],
)  # fmt: skip
def test_what_would_mislead_or_overwrite_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, sentence: str
) -> None:
    call = make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["show", *call, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error) and error.count("\n") == 1 and "Traceback" not in error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_is_being_written_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    run = run_folder(tmp_path, config="method: NON\n", metrics='{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert main(["show", *run, "--output", str(tmp_path / "out")]) == 0
    assert pictures(tmp_path / "out") == {"learning_curves.png"}


def test_a_page_of_ours_is_written_anew_and_other_files_stay(tmp_path: Path) -> None:
    call = ["show", *array((1, 2, 1, 4))(tmp_path), "--output", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.png").write_text("mine")
    assert main(call) == 0
    (tmp_path / "out" / "report.html").unlink()  # as after a kill while pictures were drawn
    (tmp_path / "out" / "report.md").unlink()
    assert main(call) == 0 and main(call) == 0
    assert (tmp_path / "out" / "photo.png").read_text() == "mine"


def test_pages_go_into_a_folder_named_as_the_data() -> None:
    assert ShowSettings(Path("a/b.h5")).folder == Path("runs/show/b")
    assert ShowSettings(Path("a/b.h5"), output=Path("c")).folder == Path("c")


def recording(frames: np.ndarray[Any, Any], **more: Any) -> Recording:
    return Recording(frames=frames, channels=tuple("ab"[: frames.shape[2]]), name="f", **more)


def test_numbers_are_those_of_all_values_of_the_mask() -> None:
    frames = np.random.default_rng(0).normal(1e6, 1.0, size=(3, 4, 2, 5, 6))
    mask = np.ones((2, 5, 6), dtype=bool)
    mask[1, 0] = False
    frames[:, :, 1, 0] = 0.0
    frames[2, 3, 0, 1, 1] = np.nan
    found = recordings.measure(recording(frames, mask=mask))
    for channel, values in enumerate((frames[:, :, 0], frames[:, :, 1, 1:])):
        expected = (np.nanmin(values), np.nanmax(values), np.nanmean(values), np.nanstd(values))
        assert found.overall(channel) == pytest.approx(expected, rel=1e-9)
    assert found.missing.sum(axis=0).tolist() == [1, 0] and (found.frames, found.of) == (12, 12)
    assert found.means()[1, 1] == pytest.approx(frames[:, 1, 1, 1:].mean())


def test_of_large_files_frames_are_chosen_evenly_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MOST_BYTES", 10 * 8 * 6)
    data = recording(np.arange(20.0 * 30 * 6).reshape(20, 30, 1, 6))
    found = recordings.measure(data)
    assert found.frames <= 10 and found.of == 600 and found.places[[0, -1]].tolist() == [0, 29]
    assert recordings.notes(data, found) == [f"The numbers are those of {found.frames} of 600 frames, chosen evenly."]


def test_a_channel_without_a_finite_value_has_no_numbers() -> None:
    found = recordings.measure(recording(np.full((1, 2, 1, 4), np.nan)))
    assert np.isnan(found.overall(0)).all() and np.isnan(found.means()).all() and found.missing.sum() == 8
    assert recordings.channel_rows(recording(np.full((1, 2, 1, 4), np.nan)), found)[1] == ["a", "-", "-", "-", "-", "-", "8"]
