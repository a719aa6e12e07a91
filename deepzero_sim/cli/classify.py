"""`deepzero-sim classify`: classifiers of images, trained first-order or from forward passes alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import nn

from deepzero_sim.cli.console import console, training_bar
from deepzero_sim.cli.reports import classification
from deepzero_sim.cli.reports.ownership import require_own_files
from deepzero_sim.cli.settings.classify import ClassifySettings
from deepzero_sim.common.files import digest, write_text
from deepzero_sim.common.machine import peak_memory_gb
from deepzero_sim.common.module_state import preserve_state
from deepzero_sim.common.settings import settings_to_dict
from deepzero_sim.datasets.images import cache
from deepzero_sim.datasets.images.batches import ImageBatches, NormalisedImages
from deepzero_sim.datasets.images.labelled_images import ImageData, Images, relabel
from deepzero_sim.errors import ConfigError, DataError
from deepzero_sim.estimators.backpropagation import BackPropagation
from deepzero_sim.estimators.sparsity.base import Densities
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.models.build import build_network
from deepzero_sim.models.resnet import resnet20, resnet32, resnet44, resnet56
from deepzero_sim.models.small_cnn import small_cnn
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.training.accuracy import Labelled, calibrate, evaluate
from deepzero_sim.training.active_set import ActiveSet, RunRatios, active_set, build_ratios
from deepzero_sim.training.build import build_estimator, build_optimiser, build_scheduler
from deepzero_sim.training.preparation import PREPARATION, RESULTS, Entry, Preparation
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import ACCURACY, RunFolder
from deepzero_sim.training.trainer import Trainer

#: Networks that have a short name.
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "small_cnn": small_cnn,
}

#: Images that are classified together, and training batches that running statistics are taken over.
TEST_BATCH, CALIBRATION_BATCHES = 500, 40


def run(settings: ClassifySettings) -> None:
    """Train a classifier, with a report."""
    require_own_files(settings.run, classification.FILES, "--run")
    classify(settings, lambda updates: training_bar(f"training {settings.run.name}", updates, queries=True), console.print)
    classification.report(settings.run, settings.run.name, [settings.run])


class Parts(NamedTuple):
    """Images of a run, on its device.

    Args:
        train: Batches by the number of the training step.
        for_ratios: Batch of training images, the same number of each class, that layer ratios are found with.
        tests: Images that are classified, by name.
    """

    train: ImageBatches
    for_ratios: Labelled
    tests: dict[str, NormalisedImages]


#: Maker of what is called after every update, given their number.
Reporting: TypeAlias = Callable[[int], AbstractContextManager[Callable[[Progress], None]]]


def _no_report(updates: int) -> AbstractContextManager[Callable[[Progress], None]]:
    return nullcontext(lambda progress: None)


def classify(
    settings: ClassifySettings, reporting: Reporting = _no_report, note: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """Train a classifier, or go on with the run of that folder, and write its results.

    Args:
        settings: Settings of the run.
        reporting: Function of the number of updates; gives what to call after every one.
        note: Function called with a sentence about each thing that was left out or changed when images were read.

    Returns:
        Content of `results.json`.

    Raises:
        DeepZeroError: Something cannot be used, or failed.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU that torch can use, and there is none here: take --device cpu.")
    data = cache.load(settings.data, settings.cache, settings.md5)
    for sentence in data.notes:
        note(f"{settings.data}: {sentence}")
    parts = _parts(settings, data, note)
    _require_colour(settings, data)
    model = build_network(settings.network, CLASSIFIERS, len(data.classes), settings.seed).to(settings.device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _require_outputs(model, parts, len(data.classes))
    updates = settings.epochs * parts.train.epoch
    estimator = build_estimator(settings.estimator)
    first_order = isinstance(estimator, BackPropagation)
    optimiser = build_optimiser(settings.optimiser, model)
    scheduler = build_scheduler(settings.scheduler, optimiser, updates)
    run = RunFolder(settings.run, settings_to_dict(settings), free=("workers", "checkpoint_every", "tensorboard", "cache"))
    with open_executor("serial" if first_order else settings.workers.backend, settings.workers.count) as executor:
        active = _active_set(settings, parts, model, executor, run)
        if settings.sparse_weights and active.mask is not None:
            _prune(model, active.mask(model, 0))
        trainer = Trainer(
            ModelOracle(model, F.cross_entropy, executor),
            estimator,
            optimiser,
            parts.train,
            run,
            scheduler=scheduler,
            mask=active.mask,
            seed=settings.seed,
            checkpoint_every=settings.checkpoint_every,
        )
        images = _images_forwarded(settings, parts, active)
        with reporting(updates) as report:
            log = _AccuracyLog(run, parts, model, images, report)
            progress = trainer.train(updates, log, tensorboard=settings.tensorboard, spent=active.spent)
    content = {**results(settings, model, parts, progress, images(progress)), "notes": list(data.notes)}
    text = json.dumps(content, indent=2) + "\n"
    write_text(settings.run / "results.json", text)
    with run.in_use():
        preparation = Preparation(run.path / PREPARATION, run.name)
        if preparation.content(RESULTS) != digest([text]):
            preparation.add(Entry(RESULTS, content=digest([text])))
    return content


@torch.no_grad()
def _require_outputs(model: nn.Module, parts: Parts, classes: int) -> None:
    """Refuse a network that gives another number of scores than there are classes."""
    try:
        with preserve_state(model), torch.random.fork_rng(devices=[]):
            shape = tuple(model(parts.for_ratios[0][:2]).shape)
    except Exception:  # raised again when it is trained
        return
    if shape != (2, classes):
        raise ConfigError(
            f"a network must give a score for each of {classes} classes, (batch, {classes}), not {shape}: check its last layer."
        )


def _require_colour(settings: ClassifySettings, data: ImageData) -> None:
    """Refuse images that our own networks do not take.

    Raises:
        DataError: They are not of three channels.
    """
    channels = data.train.pixels.shape[-1]
    if settings.network.name in CLASSIFIERS and channels != 3:
        raise DataError(
            f"network {settings.network.name} takes images of 3 channels, but those of {settings.data} have {channels}: store "
            "them as RGB, or name a network of your own."
        )


def _parts(settings: ClassifySettings, data: ImageData, note: Callable[[str], None]) -> Parts:
    statistics = data.train.statistics()
    train, test = (NormalisedImages(images, statistics, settings.device) for images in (data.train, data.test))
    tests = {"test": test}
    if settings.more_test_data is not None:
        more = cache.load(settings.more_test_data, settings.cache, settings.md5)
        for sentence in more.notes:
            note(f"{settings.more_test_data}: {sentence}")
        more_test = relabel(more.test, more.classes, data.classes, settings.more_test_data)
        if more.test.pixels.shape[1:] != data.test.pixels.shape[1:]:
            raise DataError(
                f"more_test_data must hold images like those of {settings.data}, {data.test.pixels.shape[1:]}, not "
                f"{more.test.pixels.shape[1:]}: take others, or resize them."
            )
        tests["more_test_data"] = NormalisedImages(more_test, statistics, settings.device)
    batches = ImageBatches(train, settings.batch_size, settings.seed, augment=settings.augment)
    of_classes = NormalisedImages(_some_of_each_class(settings, data), statistics, settings.device)
    return Parts(batches, next(of_classes.in_order(len(of_classes))), tests)


def _some_of_each_class(settings: ClassifySettings, data: ImageData) -> Images:
    """Draw the same number of images of each class, as many as there are at most."""
    shuffled = np.random.default_rng([settings.seed, 3]).permutation(len(data.train))
    labels = data.train.labels[shuffled]
    places = [np.flatnonzero(labels == label)[: settings.images_for_ratios] for label in range(len(data.classes))]
    chosen = shuffled[np.concatenate(places)]
    return Images(data.train.pixels[chosen], data.train.labels[chosen])


def _active_set(settings: ClassifySettings, parts: Parts, model: nn.Module, executor: Executor, run: RunFolder) -> ActiveSet:
    ratios = build_ratios(settings.layer_ratios)

    def find() -> Densities:
        oracle = ModelOracle(model, F.cross_entropy, executor)
        return ratios.densities(oracle, parts.for_ratios, settings.sparsity, settings.seed)

    epochs = settings.epochs if settings.mask_refresh is None else settings.mask_refresh
    refresh = max(1, round(epochs * parts.train.epoch))
    ratios_of_run = RunRatios(run, settings.layer_ratios.name, settings.sparsity)
    return active_set(ratios_of_run, find, model, refresh, settings.seed)


def _images_forwarded(settings: ClassifySettings, parts: Parts, active: ActiveSet) -> Callable[[Progress], int]:
    """Return a count of the images that went through the network so far: a query is of a whole batch."""
    before = active.spent.queries
    of_ratios = before * len(parts.for_ratios[1])
    return lambda progress: of_ratios + (progress.queries - before) * settings.batch_size


@torch.no_grad()
def _prune(model: nn.Module, mask: Any) -> None:
    """Set weights that are never active to zero, where they stay: their gradients are zero."""
    for name, active in mask.items():
        model.get_parameter(name).mul_(active)


class _AccuracyLog:
    """Report after every training step that classifies the test images at the end of an epoch, and writes down how well."""

    def __init__(
        self,
        run: RunFolder,
        parts: Parts,
        model: nn.Module,
        images: Callable[[Progress], int],
        report: Callable[[Progress], None],
    ) -> None:
        self._run, self._parts, self._model, self._images, self._report = run, parts, model, images, report

    def __call__(self, progress: Progress) -> None:
        self._report(progress)
        if progress.step % self._parts.train.epoch == 0:
            started = time.perf_counter()
            accuracy = evaluate(_calibrate(self._model, self._parts), self._parts.tests["test"].in_order(TEST_BATCH))
            self._run.append_metrics(
                {
                    "step": progress.step,
                    "epoch": progress.step // self._parts.train.epoch,
                    "loss": progress.loss,
                    "queries": progress.queries,
                    "images_forwarded": self._images(progress),
                    "seconds": progress.seconds,
                    "evaluation_seconds": time.perf_counter() - started,
                    "test_accuracy": accuracy.accuracy,
                    "test_loss": accuracy.loss,
                },
                ACCURACY,
            )


def _calibrate(model: nn.Module, parts: Parts) -> nn.Module:
    """Return a copy of a network in training that is ready to classify.

    Running statistics are those of training batches, shifted and mirrored: with those of images as they are, without black
    borders, a small network that put 54 % of the test images into their class did so with 39 %.
    """
    return calibrate(model, [parts.train(step)[0] for step in range(min(CALIBRATION_BATCHES, parts.train.epoch))])


def results(settings: ClassifySettings, model: nn.Module, parts: Parts, progress: Progress, forwarded: int) -> dict[str, Any]:
    """Return the content of `results.json`: how well the trained network classifies, and what its training took."""
    ready = _calibrate(model, parts)
    return {
        "accuracy": {name: asdict(evaluate(ready, images.in_order(TEST_BATCH))) for name, images in parts.tests.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": settings.epochs,
        "updates": progress.step,
        "queries": progress.queries,
        "images_forwarded": forwarded,
        "seconds": round(progress.seconds, 2),
        "peak_memory_gb": round(peak_memory_gb(), 2),
        "settings": settings_to_dict(settings),
    }
