"""Images from wherever they are: read once, then from an HDF5 file."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from deepzero_sim.datasets import cifar_archive, class_folders, image_arrays, images
from deepzero_sim.datasets.images import ImageData
from deepzero_sim.errors import DataError

#: A source that is fetched.
CIFAR10 = "cifar10"


def load(source: Path | str, cache: Path, md5: str = cifar_archive.MD5) -> ImageData:
    """Images of a source.

    Args:
        source: CIFAR-10's python archive, an archive or folder of images by class, an npz file of arrays, or ``"cifar10"``,
            which is fetched.
        cache: the folder where they are kept.
        md5: the checksum of a python archive.

    Raises:
        DataError: the source is missing, damaged or of no known form, or has another checksum.
        MissingExtraError: Pillow or pooch is needed and not installed.
    """
    path = cifar_archive.download(cache) if str(source) == CIFAR10 else Path(source)
    if not path.exists():
        raise DataError(
            f"expected images at {path}, but there is nothing: check the path, or take {CIFAR10!r} to fetch CIFAR-10."
        )
    checksum = _checksum(path, md5)
    kept = cache / f"{path.name.partition('.')[0]}-{checksum[:12]}.h5"
    if not kept.exists():
        images.save(kept, images.checked(_read(path, md5), path), f"{path.name} {checksum}")
    return images.load(kept)


def _read(path: Path, md5: str) -> ImageData:
    if path.is_dir():
        return class_folders.read(path)
    if path.suffix == ".npz":
        return image_arrays.read(path)
    return cifar_archive.read(path, md5) if _holds_batches(path) else class_folders.read(path)


def _holds_batches(path: Path) -> bool:
    """Whether an archive is of the form that CIFAR-10's authors publish, as far as it can be read."""
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            return first is not None and first.name.split("/")[0] == cifar_archive.FOLDER
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"{path} is no archive that can be read ({error}): expected CIFAR-10's python archive, an archive or folder of "
            "images by class, or an npz file; if it was cut short, fetch it again."
        ) from error


def _checksum(path: Path, md5: str) -> str:
    """Of what is in a file, or of the names, sizes and times of a folder's files; and of what it is held to."""
    digest = hashlib.sha256(md5.encode())
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            facts = file.stat()
            digest.update(f"{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()
