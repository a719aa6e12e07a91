"""Sources of images: CIFAR-10's files, images by class, or arrays, in a file, an archive or a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from deepzero_sim.common.requirements import require_data
from deepzero_sim.datasets.hdf5 import show
from deepzero_sim.datasets.images import cifar10, npz_arrays
from deepzero_sim.datasets.images.archives import UnreadableArchiveError, entries
from deepzero_sim.datasets.images.checksum import MD5
from deepzero_sim.datasets.images.class_folders import ClassFolders, SkippedFiles, reason_to_skip
from deepzero_sim.datasets.images.labelled_images import ImageData
from deepzero_sim.errors import DataError


def read_source(path: Path, md5: str) -> ImageData:
    """Read all images of a source.

    Args:
        path: Path of a file or folder.
        md5: Checksum of CIFAR-10's python archive, if it is one.

    Raises:
        DataError: The source is damaged or of no known form, or has another checksum.
        MissingExtraError: Pillow is needed and not installed.
    """
    if path.suffix.lower() == ".npz" and path.is_file():
        return npz_arrays.read(path)
    contents = _Contents(path, md5)
    try:
        contents.read()
    except UnreadableArchiveError as error:
        if contents.cifar_files:
            cifar10.require_md5(path, md5)
        raise DataError(
            f"{show(path)} cannot be read to its end as an archive ({error}): it is cut short; fetch it again."
        ) from error
    return contents.data()


class _Contents:
    """Contents of a source: images by class, and CIFAR-10's files by the folder they lie in."""

    def __init__(self, path: Path, md5: str) -> None:
        self._path, self._md5, self._source = path, md5, show(path)
        self._skipped = SkippedFiles()
        self._by_class = ClassFolders(self._source, self._skipped)
        self.cifar_files: dict[str, dict[str, bytes]] = {}

    def read(self) -> None:
        """Go through the whole source."""
        for entry in entries(self._path):
            self._by_class.add_class(entry)
            if entry.kind == "folder":
                continue
            reason, name = reason_to_skip(entry), PurePosixPath(entry.name)
            if reason is None:
                self._by_class.add_image(entry, entry.content(self._path))
            elif entry.kind == "file" and name.name in cifar10.FILES:
                self.cifar_files.setdefault(str(name.parent), {})[name.name] = entry.content(self._path)
            else:
                self._skipped.add(reason, entry.name)

    def data(self) -> ImageData:
        """Assemble the images, of whichever form they are.

        Raises:
            DataError: They are of no form, or of two.
        """
        complete = [folder for folder, files in self.cifar_files.items() if len(files) == len(cifar10.FILES)]
        if not self.cifar_files or (len(self._by_class) and not complete):
            self._skip_cifar_files("that are not read as images")
            return self._by_class.data()
        places = [*complete, *(["train/ and test/"] if len(self._by_class) else [])]
        require_data(
            len(places) <= 1, f"{self._source} holds images more than once, in {' and '.join(places)}: name one folder of them."
        )
        if not complete:
            folder, files = max(self.cifar_files.items(), key=lambda item: len(item[1]))
            missing = [name for name in cifar10.FILES if name not in files]
            raise DataError(
                f"{self._source} has CIFAR-10's {min(files)} in {folder}, but not {', '.join(missing)}: fetch them, or take "
                "the whole archive."
            )
        return self._decode_cifar(complete[0])

    def _decode_cifar(self, folder: str) -> ImageData:
        is_published = self._path.is_file() and not zipfile.is_zipfile(self._path)
        if is_published or (self._path.is_file() and self._md5 != MD5):
            cifar10.require_md5(self._path, self._md5)
        files = self.cifar_files.pop(folder)
        self._skip_cifar_files("of a CIFAR-10 that is not whole")
        return cifar10.decode(files, self._source)._replace(notes=tuple(self._skipped.sentences()))

    def _skip_cifar_files(self, reason: str) -> None:
        for files in self.cifar_files.values():
            for name in files:
                self._skipped.add(reason, name)
