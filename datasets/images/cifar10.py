"""CIFAR-10 as its authors publish it: a gzipped tar of pickled batches (https://www.cs.toronto.edu/~kriz/cifar.html).

Pickles can run programs when they are read. So an archive's checksum is compared first, and then they are read by an unpickler
that makes arrays and nothing else. Folders and zips of the same files, which nobody publishes, have no checksum.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.images.checksum import MD5
from deepzero_sim.datasets.images.labelled_images import ImageData, Images
from deepzero_sim.errors import DataError, MissingExtraError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"

#: Names of the files that its images are in, wherever they lie.
TRAIN, TEST, META = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta"
FILES = (*TRAIN, *TEST, META)

_SIZE = 32


def download(folder: Path) -> Path:
    """Download the archive to a folder, unless it is there.

    Raises:
        DataError: It could not be downloaded, or is not the one that its authors published.
        MissingExtraError: Pooch is not installed.
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


def require_md5(path: Path, md5: str = MD5) -> None:
    """Refuse an archive with another checksum.

    Raises:
        DataError: It has another.
    """
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    require_data(
        actual == md5.lower(),
        f"{path} must have the md5 checksum {md5}, but has {actual}: it was cut short or changed; fetch it again, or give "
        "the checksum of an archive of your own as md5.",
    )


def decode(files: Mapping[str, bytes], source: str) -> ImageData:
    """Decode the images of CIFAR-10's files.

    Args:
        files: Contents of each of :data:`FILES`.
        source: Name of the source that they are from, for messages.

    Raises:
        DataError: They hold something else.
    """
    try:
        batches = {name: _unpickle(name, content) for name, content in files.items()}
        train, test = (_images([batches[name] for name in names]) for names in (TRAIN, TEST))
        classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in batches[META]["label_names"])
    except Exception as error:  # a pickle may raise anything
        raise DataError(f"{source} is not an archive of CIFAR-10's python version ({error}): check the file.") from error
    return ImageData(train, test, classes)


def _unpickle(name: str, content: bytes) -> dict[str, Any]:
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(batch, dict):
        raise TypeError(f"{name} is no dict")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}


def _images(batches: list[dict[str, Any]]) -> Images:
    parts = [_arrays(batch["data"], batch["labels"]) for batch in batches]
    planes, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    pixels = planes.reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), labels)


def _arrays(data: Any, labels: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Check images and labels of a batch. Lists are looked at before numpy sees them, which would write out what they share."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * _SIZE**2:
        raise TypeError(f"its data must be uint8 (N, {3 * _SIZE**2})")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        raise TypeError("its labels must be a list of a whole number for each image")
    return data, np.array(labels, np.int64)


def _empty_array(kind: object, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """Make the array that numpy's pickles begin with; its values are set afterwards, and must be there."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"it begins with an array of shape {shape}, which no array does")
    return np.empty(0, np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """Make bytes as Python 2's protocols write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it would encode text as {encoding}, which no array needs")
    return text.encode("latin1")


#: Constructors that a pickled array names, in old and new versions of numpy, and what is called in their place.
_CONSTRUCTORS: dict[tuple[str, str], Any] = {
    (f"numpy.{core}.{module}", name): ours
    for core in ("core", "_core")
    for module, name, ours in (
        ("multiarray", "_reconstruct", _empty_array),
        ("multiarray", "scalar", ("numpy._core.multiarray", "scalar")),
        ("numeric", "_frombuffer", ("numpy._core.numeric", "_frombuffer")),
    )
} | {("numpy", "ndarray"): None, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _encode}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of plain values and arrays, which calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CONSTRUCTORS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}, which no array needs")
        ours = _CONSTRUCTORS[module, name]
        return super().find_class(*ours) if isinstance(ours, tuple) else ours
