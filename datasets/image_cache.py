"""Images from wherever they are: read once, then from an HDF5 file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path, PurePosixPath

from deepzero_sim.datasets import cifar_archive, image_arrays, images
from deepzero_sim.datasets.class_folders import ClassFolders, why_not
from deepzero_sim.datasets.hdf5 import NOTHING, not_a_file, show
from deepzero_sim.datasets.image_files import UnreadableArchiveError, entries
from deepzero_sim.datasets.images import ImageData
from deepzero_sim.datasets.left_out import LeftOut
from deepzero_sim.errors import DataError

#: A source that is fetched.
CIFAR10 = "cifar10"


def load(source: Path | str, cache: Path, md5: str = cifar_archive.MD5) -> ImageData:
    """Images of a source.

    Args:
        source: CIFAR-10's python archive or the folder in it, an archive or folder of images by class, an npz file of arrays,
            or ``"cifar10"``, which is fetched.
        cache: the folder where they are kept.
        md5: the checksum of a python archive.

    Raises:
        DataError: the source is missing, damaged or of no known form, or has another checksum.
        MissingExtraError: Pillow or pooch is needed and not installed.
    """
    path = cifar_archive.download(cache) if str(source) == CIFAR10 else Path(source)
    instead = not_a_file(path)
    if instead == NOTHING:
        raise DataError(
            f"expected images at {show(path)}, but there is nothing: check the path, or take {CIFAR10!r} to fetch CIFAR-10."
        )
    if instead is not None and not path.is_dir():
        raise DataError(f"expected images at {show(path)}, but {instead}: name an archive, a folder or an npz file.")
    checksum = _checksum(path, md5)
    kept = cache / f"{path.name.partition('.')[0][:64]}-{checksum[:12]}.h5"
    if not kept.exists():
        images.save(kept, images.checked(_read(path, md5), path), f"{path.name} {checksum}")
    return images.load(kept)


def _read(path: Path, md5: str) -> ImageData:
    if path.suffix.lower() == ".npz" and path.is_file():
        return image_arrays.read(path)
    found = _Found(path, md5)
    try:
        found.go_through()
    except UnreadableArchiveError as error:
        if found.batches:
            cifar_archive.require_md5(path, md5)
        raise DataError(
            f"{show(path)} cannot be read to its end as an archive ({error}): it is cut short; fetch it again."
        ) from error
    return found.data()


class _Found:
    """What was found in a source: images by class, and CIFAR-10's files by the folder they lie in."""

    def __init__(self, path: Path, md5: str) -> None:
        self._path, self._md5, self._source = path, md5, show(path)
        self._left_out = LeftOut()
        self._by_class = ClassFolders(self._source, self._left_out)
        self.batches: dict[str, dict[str, bytes]] = {}

    def go_through(self) -> None:
        """Read all of the source."""
        for entry in entries(self._path):
            self._by_class.see(entry)
            if entry.kind == "folder":
                continue
            reason, name = why_not(entry), PurePosixPath(entry.name)
            if reason is None:
                self._by_class.take(entry, entry.content(self._path))
            elif entry.kind == "file" and name.name in cifar_archive.FILES:
                self.batches.setdefault(str(name.parent), {})[name.name] = entry.content(self._path)
            else:
                self._left_out.add(reason, entry.name)

    def data(self) -> ImageData:
        """The images, of whichever form they are.

        Raises:
            DataError: they are of none, or of two.
        """
        whole = [folder for folder, found in self.batches.items() if len(found) == len(cifar_archive.FILES)]
        if not self.batches or (len(self._by_class) and not whole):
            for found in self.batches.values():
                for name in found:
                    self._left_out.add("that are not read as images", name)
            return self._by_class.data()
        if len(whole) > 1 or len(self._by_class):
            places = [*whole, *(["train/ and test/"] if len(self._by_class) else [])]
            raise DataError(f"{self._source} holds images more than once, in {' and '.join(places)}: name one folder of them.")
        if not whole:
            folder, found = max(self.batches.items(), key=lambda item: len(item[1]))
            missing = [name for name in cifar_archive.FILES if name not in found]
            raise DataError(
                f"{self._source} has CIFAR-10's {min(found)} in {folder}, but not {', '.join(missing)}: fetch them, or take "
                "the whole archive."
            )
        return self._of_cifar(whole[0])

    def _of_cifar(self, folder: str) -> ImageData:
        is_published = self._path.is_file() and not zipfile.is_zipfile(self._path)
        if is_published or (self._path.is_file() and self._md5 != cifar_archive.MD5):
            cifar_archive.require_md5(self._path, self._md5)
        for other, found in self.batches.items():
            for name in found if other != folder else ():
                self._left_out.add("of a CIFAR-10 that is not whole", name)
        data = cifar_archive.decode(self.batches[folder], self._source)
        return data._replace(notes=tuple(self._left_out.sentences()))


def _checksum(path: Path, md5: str) -> str:
    """Of what is in a file, or of where a folder is and of the names, sizes and times of its files; and of all that counts."""
    digest = hashlib.sha256(f"{images.VERSION} {md5}".encode())
    if path.is_dir():
        digest.update(os.fsencode(path.resolve()))
        for folder, folders, names in os.walk(path, followlinks=True):
            folders.sort()
            for name in sorted([*names, *folders]):
                digest.update(os.fsencode(os.path.join(folder, name)))  # noqa: PTH118 - a quarter of the time
                digest.update(_facts(Path(folder, name)))
        return digest.hexdigest()
    with path.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _facts(path: Path) -> bytes:
    """What changes with a file."""
    try:
        found = path.stat()
    except OSError:
        return b"nothing"
    return f"{found.st_mode} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n".encode()
