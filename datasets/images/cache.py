"""Cache of images: a source is read once, then its images come from an HDF5 file.

/train/pixels, /test/pixels    uint8 (N, H, W, C)
/train/labels, /test/labels    int64 (N,), places in the list of classes
attributes                     format, version, classes and notes (JSON), source: its name and checksum
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from deepzero_sim.common import hdf5_objects
from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file, open_to_read, open_to_write, show
from deepzero_sim.datasets.images import cifar10
from deepzero_sim.datasets.images.checksum import MD5
from deepzero_sim.datasets.images.labelled_images import ImageData, Images, require_consistent
from deepzero_sim.datasets.images.sources import read_source

FORMAT, VERSION = "deepzero-sim images", 2

#: Source that is downloaded.
CIFAR10 = "cifar10"


def load(source: Path | str, cache: Path, md5: str = MD5) -> ImageData:
    """Load the images of a source, from the cache if they were read before.

    Args:
        source: CIFAR-10's python archive or the folder in it, an archive or folder of images by class, an npz file of arrays,
            or ``"cifar10"``, which is downloaded.
        cache: Folder of the HDF5 files.
        md5: Checksum of a python archive.

    Raises:
        DataError: The source is missing, damaged or of no known form, or has another checksum.
        MissingExtraError: Pillow or pooch is needed and not installed.
    """
    path = cifar10.download(cache) if str(source) == CIFAR10 else Path(source)
    instead = not_a_file(path)
    require_data(
        instead != NOTHING,
        f"expected images at {show(path)}, but there is nothing: check the path, or take {CIFAR10!r} to fetch CIFAR-10.",
    )
    require_data(
        instead is None or path.is_dir(),
        f"expected images at {show(path)}, but {instead}: name an archive, a folder or an npz file.",
    )
    checksum = _checksum(path, md5)
    file = cache / f"{path.name.partition('.')[0][:64]}-{checksum[:12]}.h5"
    if not file.exists():
        data = read_source(path, md5)
        require_consistent(data, path)
        save_file(file, data, f"{path.name} {checksum}")
    return load_file(file)


def _checksum(path: Path, md5: str) -> str:
    """Hash everything that the images depend on.

    Of a file, that is its content; of a folder, where it lies and the names, sizes and times of its files: reading all of them
    would take as long as decoding them.
    """
    digest = hashlib.sha256(f"{VERSION} {md5}".encode())
    if path.is_dir():
        digest.update(os.fsencode(path.resolve()))
        for folder, folders, names in os.walk(path, followlinks=True):
            folders.sort()
            for name in sorted([*names, *folders]):
                digest.update(os.fsencode(os.path.join(folder, name)))  # noqa: PTH118 - a quarter of the time
                digest.update(_status(Path(folder, name)))
        return digest.hexdigest()
    with path.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _status(path: Path) -> bytes:
    """Write out the status of a file, which changes with its content."""
    try:
        status = path.stat()
    except OSError:
        return b"nothing"
    return f"{status.st_mode} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}\n".encode()


def save_file(path: Path, data: ImageData, source: str) -> None:
    """Write a file of images, whole or not at all.

    Args:
        path: Path of the HDF5 file.
        data: Images.
        source: Name and checksum of what they were read from.
    """
    with open_to_write(path) as file:
        file.attrs["format"], file.attrs["version"], file.attrs["source"] = FORMAT, VERSION, source
        file.attrs["classes"], file.attrs["notes"] = json.dumps(data.classes), json.dumps(data.notes)
        for name, part in (("train", data.train), ("test", data.test)):
            chunks = (min(len(part), 256), *part.pixels.shape[1:])
            file.create_dataset(f"{name}/pixels", data=part.pixels, chunks=chunks, fletcher32=True)
            file.create_dataset(f"{name}/labels", data=part.labels, chunks=part.labels.shape, fletcher32=True)


def load_file(path: Path) -> ImageData:
    """Read a file of images.

    Raises:
        DataError: It is no such file, or damaged.
    """
    with open_to_read(path, "HDF5 images", "delete it, it is made again") as file:
        header = hdf5_objects.text(file.attrs.get("format")), hdf5_objects.number(file.attrs.get("version"))
        require_data(
            header == (FORMAT, VERSION), f"{path} is HDF5, but not a file of '{FORMAT}', version {VERSION}: delete it."
        )
        train, test = (
            Images(*(hdf5_objects.array(file, f"{name}/{what}") for what in ("pixels", "labels"))) for name in ("train", "test")
        )
        hdf5_objects.require(train.labels.dtype == test.labels.dtype == np.int64, "its labels must be int64")
        classes, notes = (hdf5_objects.texts(file.attrs.get(key)) for key in ("classes", "notes"))
        if classes is None or notes is None:
            raise ValueError("its classes and notes must be lists of text")
        data = ImageData(train, test, classes, notes)
        require_consistent(data, path)
        return data
