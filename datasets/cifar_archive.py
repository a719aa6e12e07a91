"""CIFAR-10 as its authors publish it: a gzipped tar of pickled batches (https://www.cs.toronto.edu/~kriz/cifar.html).

Pickles can run programs when they are read. So the archive's checksum is compared first, and then they are read by a reader
that makes arrays and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from deepzero_sim.datasets.images import ImageData, Images
from deepzero_sim.errors import DataError, MissingExtraError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"

#: The folder in the archive, and the files that its images are in.
FOLDER = "cifar-10-batches-py"
TRAIN, TEST, META = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta"

_SIZE = 32


def download(folder: Path) -> Path:
    """The archive in a folder, fetched if it is not there.

    Raises:
        DataError: it could not be fetched, or is not what its authors published.
        MissingExtraError: pooch is not installed.
    """
    try:
        import pooch  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingExtraError("downloading CIFAR-10", "pooch", "images") from error
    try:
        return Path(pooch.retrieve(URL, known_hash=f"md5:{MD5}", path=folder, fname=URL.rpartition("/")[2], progressbar=False))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise DataError(
            f"CIFAR-10 could not be fetched from {URL} ({error}): fetch it by other means and name the file as data."
        ) from error


def read(path: Path, md5: str = MD5) -> ImageData:
    """The images of an archive.

    Args:
        path: of the archive.
        md5: its checksum.

    Raises:
        DataError: it has another checksum, or is not such an archive.
    """
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{path} must have the md5 checksum {md5}, but has {found}: it was cut short or changed; fetch it again, or give "
            "the checksum of an archive of your own as md5."
        )
    try:
        with tarfile.open(path) as archive:
            batches = {name: _unpickled(archive, name) for name in (*TRAIN, *TEST, META)}
        train, test = (_images([batches[name] for name in names]) for names in (TRAIN, TEST))
        classes = tuple(name.decode() for name in batches[META][b"label_names"])
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(f"{path} is not an archive of CIFAR-10's python version ({error}): check the file.") from error
    return ImageData(train, test, classes)


def _unpickled(archive: tarfile.TarFile, name: str) -> dict[bytes, Any]:
    file = archive.extractfile(f"{FOLDER}/{name}")
    if file is None:
        raise ValueError(f"{name} is no file")
    batch = _Arrays(io.BytesIO(file.read()), encoding="bytes").load()
    if not isinstance(batch, dict):
        raise TypeError(f"{name} is no dict")
    return batch


def _images(batches: list[dict[bytes, Any]]) -> Images:
    planes = np.concatenate([np.asarray(batch[b"data"], np.uint8) for batch in batches])
    labels = np.concatenate([np.asarray(batch[b"labels"], np.int64) for batch in batches])
    pixels = planes.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), labels)


#: What a pickled array consists of, by the names of old and new versions of numpy.
_KNOWN = (
    {
        (f"numpy.{core}.{module}", name): (f"numpy._core.{module}", name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    }
    | {("numpy", name): ("numpy", name) for name in ("ndarray", "dtype")}
    | {("_codecs", "encode"): ("_codecs", "encode")}
)


class _Arrays(pickle.Unpickler):
    """Reads plain values and arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it would call {module}.{name}, which no array needs")
        return super().find_class(*_KNOWN[module, name])
