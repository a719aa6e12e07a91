"""Settings of `deepzero-sim classify`: classifiers of images, trained first-order or from forward passes alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from deepzero_sim.cli.options import SEE_COMPONENTS, Command
from deepzero_sim.common.components import Component
from deepzero_sim.common.settings import Rule, Settings
from deepzero_sim.common.short_names import ESTIMATORS
from deepzero_sim.datasets.images.checksum import MD5
from deepzero_sim.errors import ConfigError
from deepzero_sim.training.runs.settings import DIFFERENCES_OF_LOSSES, EstimatorComponent, Positive, Seed, Sparsity, Workers

_BatchSize: TypeAlias = Annotated[int, Rule(lambda size: 2 <= size < 2**31, "at least 2, for batch norm, and below 2**31")]
_Epochs: TypeAlias = Annotated[float | None, Rule(lambda epochs: 0 < epochs < math.inf, "a positive number of epochs, or null")]


@dataclass
class ClassifySettings(Settings):
    """One training of a classifier of images.

    The defaults are DeepZero's (Chen et al., ICLR 2024), with gradients from forward passes alone. First-order training is the
    estimator deepzero_sim.BackPropagation; all else is the same.

    Args:
        run: Run folder.
        data: CIFAR-10's python archive or its files, an archive or folder of images by class, an npz file, or cifar10.
        more_test_data: Other data whose test images are classified too, at the end.
        cache: Folder where data are stored once they were read.
        md5: Checksum of a python archive.
        network: Classifier: resnet20 to resnet56, small_cnn, or an import path or file.py:Name called with the number of
            classes.
        estimator: CGE, RGE, CoCD, GaussNewton, EKI, EvolutionStrategies or BackPropagation with their arguments. Those that
            give steps, GaussNewton and EKI, are for SGD with a rate of 1.
        epochs: Number of times that training goes through the images.
        batch_size: Images of a gradient.
        augment: True to shift and mirror images at random.
        optimiser: Any of torch.optim.
        scheduler: Any of torch.optim.lr_scheduler, or deepzero_sim.warm_up_cosine; an argument "updates" is their number.
        sparsity: Share of the weights of convolutions and linear layers that is left out of a gradient.
        layer_ratios: Division of what is left among layers: uniform, erdos-renyi, zo-grasp, grasp, or an import path or
            file.py:Name of a LayerRatios.
        images_for_ratios: Images of each class that layer ratios are found with.
        mask_refresh: Epochs that one random draw of the active weights serves, or a part of one, down to a single update; none
            for all of them.
        sparse_weights: True to zero weights that are not active (with one draw for all epochs).
        workers: Workers that answer queries.
        device: Device, cpu or cuda.
        seed: Seed of everything that is drawn.
        checkpoint_every: Updates between checkpoints; one is written after a minute, too.
        tensorboard: True to write TensorBoard events.
    """

    run: Path
    data: Path
    more_test_data: Path | None = None
    cache: Path = Path("data")
    md5: str = MD5
    network: Component = field(default_factory=lambda: Component("resnet20"))
    estimator: EstimatorComponent = field(
        default_factory=lambda: Component("deepzero_sim.CGE", {"step_size": 5e-3, "scheme": "forward"})
    )
    epochs: Positive = 50
    batch_size: _BatchSize = 256
    augment: bool = True
    optimiser: Component = field(
        default_factory=lambda: Component("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4})
    )
    scheduler: Component | None = field(
        default_factory=lambda: Component("deepzero_sim.warm_up_cosine", {"steps": "updates", "warm_up": 0.06})
    )
    sparsity: Sparsity = 0.9
    layer_ratios: Component = field(default_factory=lambda: Component("zo-grasp"))
    images_for_ratios: Positive = 25
    mask_refresh: _Epochs = 5
    sparse_weights: bool = False
    workers: Workers = field(default_factory=Workers)
    device: Literal["cpu", "cuda"] = "cpu"
    seed: Seed = 0
    checkpoint_every: Positive = 50
    tensorboard: bool = True

    shared_args: ClassVar[Mapping[str, Collection[str]]] = {"estimator": DIFFERENCES_OF_LOSSES}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.estimator = ESTIMATORS.in_full("estimator", self.estimator)
        if self.sparse_weights and self.mask_refresh is not None:
            raise ConfigError(
                "sparse_weights needs one draw of the active weights for all epochs: set mask_refresh to null, not "
                f"{self.mask_refresh}."
            )


COMMANDS = {"classify": Command(ClassifySettings, "classify.run", see=SEE_COMPONENTS)}
