"""Trained classifiers side by side: a table, figures and a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.cli.console import console, print_table
from deepzero_sim.cli.reports import layer_ratios
from deepzero_sim.cli.reports.figures import pyplot, save
from deepzero_sim.cli.reports.html import PAGE
from deepzero_sim.cli.reports.ownership import write_page
from deepzero_sim.common.documents import markdown_table, read_json, write_yaml
from deepzero_sim.common.files import digest, read_text
from deepzero_sim.errors import RunError
from deepzero_sim.training.preparation import PREPARATION, RESULTS, Preparation
from deepzero_sim.training.ratios_file import RatiosRecord, load_ratios
from deepzero_sim.training.run_folder import ACCURACY, METRICS, read_metrics

#: Colours of runs, in order (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

#: Key, label and unit of a figure's horizontal axis, by the figure's name.
_OVER = {
    "accuracy_over_epochs.png": ("epoch", "epoch", 1.0),
    "accuracy_over_images.png": ("images_forwarded", "images forwarded (millions)", 1e6),
}

#: Figure of the training losses.
_LOSSES = "training_loss.png"

#: Names of all files of a report.
FILES = (PAGE, *_OVER, _LOSSES, layer_ratios.FIGURE)


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended.

    Args:
        results: Content of `results.json`.
        curve: Accuracy after every epoch.
        training: Loss and queries so far, of every update.
        ratios: Active share of each layer, if not all was.
    """

    results: dict[str, Any]
    curve: list[dict[str, Any]]
    training: list[dict[str, Any]]
    ratios: RatiosRecord | None


def read(path: Path) -> TrainedRun:
    """Read a run folder of `deepzero-sim classify`.

    Raises:
        RunError: It is none, or its training has not ended.
    """
    if not (path / "results.json").exists():
        raise RunError(
            f"expected a run of 'deepzero-sim classify' that has ended in {path}, but there is no results.json: end it with "
            "the command it was begun with, check the path, or give --data if they are runs of 'deepzero-sim train'."
        )
    try:
        text = read_text(path / "results.json", "the results of a run")
        results = read_json(text)
        curve, training = read_metrics(path / ACCURACY), read_metrics(path / METRICS)
        _row("", results)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path / 'results.json'} is not that of 'deepzero-sim classify' ({type(error).__name__}: {error}): check the "
            "path, or give --data if they are runs of 'deepzero-sim train'."
        ) from error
    if Preparation(path / PREPARATION).content(RESULTS) not in ("", digest([text])):
        raise RunError(f"{path / 'results.json'} was changed: restore it, or call the command that wrote it again.")
    return TrainedRun(results, curve, training, load_ratios(path))


def report(folder: Path, title: str, paths: Sequence[Path]) -> None:
    """Write a report on runs into a folder, and show its table; runs of one name are named by their paths."""
    names = [path.name for path in paths]
    runs = {path.name if names.count(path.name) == 1 else str(path): read(path) for path in paths}
    print_table(rows(runs))
    publish(folder, title, runs)
    console.print(f"report: {folder / PAGE}")


def rows(runs: Mapping[str, TrainedRun]) -> list[tuple[str, ...]]:
    """Return the table: a head, then a row a run."""
    head = ("run", "test %", "more %", "sparsity", "epochs", "queries", "images", "seconds", "GB")
    return [head, *(_row(name, run.results) for name, run in runs.items())]


def _row(name: str, results: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = results["accuracy"]
    more = accuracy.get("more_test_data")
    return (
        name,
        f"{100 * accuracy['test']['accuracy']:.2f}",
        "-" if more is None else f"{100 * more['accuracy']:.2f}",
        f"{results['settings']['sparsity']:g}",
        f"{results['epochs']}",
        f"{results['queries']:,}",
        f"{results['images_forwarded']:,}",
        f"{results['seconds']:,.0f}",
        f"{results['peak_memory_gb']:.1f}",
    )


def publish(folder: Path, title: str, runs: Mapping[str, TrainedRun]) -> None:
    """Write `report.md` and its figures.

    Args:
        folder: Folder of the page.
        title: Title of the page.
        runs: Runs by name.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot = pyplot()
    colours = dict(zip(runs, [_COLOURS[i % len(_COLOURS)] for i in range(len(runs))], strict=True))
    for name, (key, label, unit) in _OVER.items():
        save(plot, folder / name, _curves(plot, runs, colours, (key, unit), label))
    save(plot, folder / _LOSSES, _losses(plot, runs, colours))
    records = {name: run.ratios for name, run in runs.items() if run.ratios is not None}
    if records:
        save(plot, folder / layer_ratios.FIGURE, layer_ratios.draw(plot, records, colours))
    write_page(folder / PAGE, _page(title, runs, records))


def _page(title: str, runs: Mapping[str, TrainedRun], records: Mapping[str, RatiosRecord]) -> str:
    settings = {name: run.results["settings"] for name, run in runs.items()}
    return f"""# {title}

Test % is the accuracy on test images, of the last epoch's network; more % that on the test images of more_test_data. A query is
one loss of a batch. Images are those that went through the network: of all queries, the layer ratios' included, and of
first-order training those of its forward passes. Seconds are those of training alone.

{markdown_table(rows(runs))}

![Test accuracy against epochs](accuracy_over_epochs.png)

![Test accuracy against images forwarded](accuracy_over_images.png)

![Training loss against updates and queries]({_LOSSES})
{layer_ratios.section(records)}{_notes(runs)}
## Settings

```yaml
{write_yaml(settings)}```
"""


def _notes(runs: Mapping[str, TrainedRun]) -> str:
    """List what was left out or changed when images were read."""
    lines = [f"- {name}: {note}" for name, run in runs.items() for note in run.results.get("notes", [])]
    return "\n## Images\n\n" + "\n".join(lines) + "\n" if lines else ""


def _losses(plot: Any, runs: Mapping[str, TrainedRun], colours: Mapping[str, str]) -> Any:
    """Draw losses of batches, as means of some fifty in a row at most: single ones hide the curve."""
    figure, axes = plot.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    for name, run in runs.items():
        if not run.training:  # its metrics were removed, which no run needs
            continue
        losses = np.array([line["loss"] for line in run.training])
        window = min(50, max(1, len(losses) // 20))
        means = np.convolve(losses, np.full(window, 1 / window), mode="valid")
        for ax, key in zip(axes, ("step", "queries"), strict=True):
            ax.plot([line[key] for line in run.training[window - 1 :]], means, label=name, color=colours[name])
    axes[0].set(xlabel="update", ylabel="cross-entropy on training batches (nats)")
    axes[1].set(xlabel="queries", xscale=_scale([run.results["queries"] for run in runs.values()]))
    for ax in axes:
        ax.grid(alpha=0.3)
    axes[0].legend()
    return figure


def _scale(ends: Sequence[float]) -> str:
    """Choose the scale of an axis on which some runs may end much further than others."""
    return "log" if max(ends) > 5 * min(ends) else "linear"


def _curves(
    plot: Any,
    runs: Mapping[str, TrainedRun],
    colours: Mapping[str, str],
    over: tuple[str, float],
    label: str,
) -> Any:
    figure, (accuracy, loss) = plot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, run in runs.items():
        places = [line[over[0]] / over[1] for line in run.curve]
        style = {"color": colours[name], "marker": "." if len(places) < 60 else None}
        accuracy.plot(places, [100 * line["test_accuracy"] for line in run.curve], label=name, **style)
        loss.plot(places, [line["test_loss"] for line in run.curve], **style)
    accuracy.set(xlabel=label, ylabel="accuracy on test images (%)", ylim=(0, 100))
    loss.set(xlabel=label, ylabel="cross-entropy on test images (nats)", ylim=(0, None))
    for ax in (accuracy, loss):
        ax.grid(alpha=0.3)
        if label.startswith("images"):
            ax.set_xscale(_scale([run.results["images_forwarded"] for run in runs.values()]))
    accuracy.legend(loc="lower right")
    return figure
