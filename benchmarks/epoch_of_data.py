"""Cost of a training batch of images relative to a first-order update of ResNet-20, on one thread.

Run: python benchmarks/epoch_of_data.py [--batch 256] [--repeats 5] [--device cpu]
Prints one JSON object: milliseconds of a batch (shuffled, shifted, mirrored, normalised), of an update, and their ratio. Both
take turns, and the fastest turn of each counts.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from deepzero_sim.datasets.images.batches import ImageBatches, NormalisedImages
from deepzero_sim.datasets.images.labelled_images import Images
from deepzero_sim.estimators import BackPropagation
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models import resnet20
from deepzero_sim.oracle.model import ModelOracle

#: Number of training images, as in CIFAR-10.
IMAGES = 50_000


def milliseconds(function: Callable[[], object], device: str) -> float:
    """Time one call, on whichever device."""
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    generator = np.random.default_rng(0)
    images = Images(generator.integers(256, size=(IMAGES, 32, 32, 3), dtype=np.uint8), generator.integers(10, size=IMAGES))
    batches = ImageBatches(NormalisedImages(images, images.statistics(), given.device), given.batch, 0, augment=True)
    model = resnet20().to(given.device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    oracle, optimiser = ModelOracle(model, F.cross_entropy), torch.optim.SGD(model.parameters(), lr=0.1)
    batch = batches(0)

    def update() -> None:
        for parameter, gradient in zip(
            model.parameters(), BackPropagation().estimate(oracle, batch).grads.values(), strict=True
        ):
            parameter.grad = gradient
        optimiser.step()

    with single_threaded():
        turns = [
            (milliseconds(partial(batches, turn + 1), given.device), milliseconds(update, given.device))
            for turn in range(given.repeats + 1)
        ]
    data, training = (min(times) for times in zip(*turns[1:], strict=True))  # the first warms up
    result = {"ms of a batch": round(data, 2), "ms of an update": round(training, 1), "ratio": round(data / training, 4)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
