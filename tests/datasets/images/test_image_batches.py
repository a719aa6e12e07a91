"""Batches of images: every image once an epoch, shifted and mirrored, and the same again for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepzero_sim.datasets.images.batches import SHIFT, ImageBatches, NormalisedImages
from deepzero_sim.datasets.images.labelled_images import Images
from deepzero_sim.errors import DataError

STATISTICS = np.full(3, 0.5), np.full(3, 0.25)


def images(count: int, size: int = 8) -> Images:
    pixels = np.random.default_rng(0).integers(1, 256, size=(count, size, size, 3), dtype=np.uint8)
    return Images(pixels, np.arange(count))


def normalise(count: int) -> NormalisedImages:
    return NormalisedImages(images(count), STATISTICS)


def test_they_are_normalised() -> None:
    ((inputs, labels),) = normalise(5).in_order(5)
    expected = (images(5).pixels / 255 - 0.5) / 0.25
    np.testing.assert_allclose(inputs.movedim(1, -1), expected, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_has_every_image_once() -> None:
    batches = ImageBatches(normalise(12), 4, seed=3)
    assert batches.epoch == 3
    epochs = [torch.cat([batches(step)[1] for step in range(first, first + 3)]).tolist() for first in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_number_only() -> None:
    first, second, other = (ImageBatches(normalise(12), 4, seed) for seed in (3, 3, 4))
    for step in range(6):
        first(step)
    for found, again, else_ in zip(first(4), second(4), other(4), strict=True):
        assert torch.equal(found, again)
        assert not torch.equal(found, else_)


def test_images_are_shifted_and_mirrored() -> None:
    """Each is found again in its image with a border, as it is or mirrored."""
    base, batches = images(40), ImageBatches(normalise(40), 40)
    inputs, labels = batches(0)
    pixels = ((inputs.movedim(1, -1) * 0.25 + 0.5) * 255).round().byte().numpy()
    seen = set()
    for found, label in zip(pixels, labels.tolist(), strict=True):
        bordered = np.pad(base.pixels[label], ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
        seen |= {
            (down, across, mirrored)
            for down in range(2 * SHIFT + 1)
            for across in range(2 * SHIFT + 1)
            for mirrored in (False, True)
            if np.array_equal(found[:, ::-1] if mirrored else found, bordered[down : down + 8, across : across + 8])
        }
    assert len(seen) > 20  # of 162, drawn 40 times
    assert {mirrored for *_, mirrored in seen} == {False, True}
    assert {down for down, *_ in seen} == {across for _, across, _ in seen} == set(range(2 * SHIFT + 1))


def test_there_must_be_enough() -> None:
    with pytest.raises(DataError, match="a batch of 4 needs as many images, these are 3"):
        ImageBatches(normalise(3), 4)
