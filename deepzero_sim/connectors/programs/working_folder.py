"""A fresh folder for every call of a program, filled before, and removed or kept afterwards."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard, get_args

from deepzero_sim.common.files import kind_of_file
from deepzero_sim.connectors.formats import Content
from deepzero_sim.connectors.programs.guard import guard
from deepzero_sim.connectors.programs.paths import inside, is_spelt
from deepzero_sim.errors import ConfigError

Keep: TypeAlias = Literal["failures", "never", "always"]

#: Folders of one solver that are kept: thousands of failures must not fill a disk.
MOST_KEPT = 20

#: Files of the user's in a working folder.
MOST_FILES = 10_000

#: What is written into a folder beside the program's own files.
STDOUT, STDERR, CALL = "stdout.log", "stderr.log", "call.txt"

#: External files: paths that keep their names, or paths by their names in the working folder.
ExternalFiles: TypeAlias = Sequence[str | Path] | Mapping[str, str | Path]


@dataclass(frozen=True)
class Placed:
    """A file of the user's in the working folder.

    Args:
        path: in the working folder.
        source: where it lies.
    """

    path: str
    source: Path


def placed(settings: ExternalFiles, what: str) -> tuple[Placed, ...]:
    """External files, and all files of external folders.

    Raises:
        ConfigError: the settings are not usable, or a file is not there.
    """
    if isinstance(settings, str | bytes) or not isinstance(settings, Sequence | Mapping):
        raise ConfigError(f"{what} must be a list of paths, or paths by their names in the working folder, not {settings!r}.")
    sources = list(settings.values() if isinstance(settings, Mapping) else settings)
    if not all(map(_is_path, sources)):
        raise ConfigError(f"{what} must name files and folders by their paths, not {sources!r}.")
    named = settings if isinstance(settings, Mapping) else {Path(source).absolute().name: source for source in settings}
    if len(named) < len(settings):
        raise ConfigError(f"{what} must have different names in the working folder: give paths by their names there.")
    found = [place for path, source in named.items() for place in _files(inside(path, what), Path(source).absolute(), what)]
    if len(found) > MOST_FILES:
        raise ConfigError(
            f"{what} must not be more than {MOST_FILES} files, not {', '.join(map(str, sources))}: name those needed."
        )
    return tuple(found)


def _files(path: str, source: Path, what: str, above: tuple[Path, ...] = ()) -> Iterator[Placed]:
    """The file, or all files of the folder, up to one more than there may be."""
    if not source.is_dir():
        if not source.exists():
            raise ConfigError(f"{what}: there is no file or folder {source}: check the path, it starts at the current folder.")
        if not source.is_file():
            raise ConfigError(f"{what}: {source} must be a plain file or a folder, not {kind_of_file(source.stat().st_mode)}.")
        yield Placed(path, source)
        return
    within = (*above, source.resolve())
    if within[-1] in above:
        raise ConfigError(f"{what}: {source} must be a file or a folder, not a link to a folder that it lies in: take it out.")
    inner = (place for entry in sorted(source.iterdir()) for place in _files(f"{path}/{entry.name}", entry, what, within))
    yield from itertools.islice(inner, MOST_FILES + 1)


def _need_space(copies: Sequence[Placed]) -> None:
    needed = sum(place.source.stat().st_size for place in copies)
    folder = tempfile.gettempdir()
    if needed and needed > (free := shutil.disk_usage(folder).free):
        raise ConfigError(
            f"external_input_files hold {needed} bytes, but {folder}, where they are copied to for every run, has {free} free: "
            "name large files in external_input_links, or set the environment variable TMPDIR to another folder."
        )


class WorkingFolders:
    """The folders of one solver.

    Args:
        name: of the solver, in the folders' names.
        copies: files that are copied into each.
        links: files that are linked into each; a program must not change them.
        written: paths of the files that are written into each.
        keep: which folders are kept: of failures, none, or all; never more than 20 of a name.
        kept_folder: where they are kept.

    Raises:
        ConfigError: two files have the same path, the copies are larger than the disk, or `keep` is none of these.
    """

    def __init__(
        self,
        name: str,
        copies: Sequence[Placed],
        links: Sequence[Placed],
        written: Sequence[str],
        keep: Keep,
        kept_folder: str | Path,
    ) -> None:
        if keep not in get_args(Keep):
            raise ConfigError(f"keep must be one of {', '.join(get_args(Keep))}, not {keep!r}.")
        self._copies, self._links, self._keep, self._kept_folder = copies, links, keep, _kept_folder(kept_folder)
        self._prefix = f"{re.sub(r'[^A-Za-z0-9._-]', '_', name).lstrip('.')}-"
        paths = [*(place.path for place in (*copies, *links)), *written]
        _need_apart(paths)
        _need_space(copies)
        self._folders = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"."})

    def make(self) -> Path:
        """A folder with the external files in it, by its path without links.

        Raises:
            ConfigError: an external file is no longer there.
            OSError: there is no space, or no permission.
        """
        if gone := [place.source for place in (*self._copies, *self._links) if not place.source.is_file()]:
            raise ConfigError(f"the external file {gone[0]} is no longer there: put it back.")
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix=f"deepzero-sim-{self._prefix}")))
        guard.made(folder)
        try:
            for name in self._folders:
                (folder / name).mkdir()
            for place in self._copies:
                shutil.copy(place.source, folder / place.path)
            for place in self._links:
                (folder / place.path).symlink_to(place.source)
        except BaseException:
            self.remove(folder)
            raise
        return folder

    def links(self) -> dict[Path, tuple[int, ...]]:
        """What would tell that a linked file was changed."""
        return {place.source: _identity(place.source) for place in self._links}

    def remove(self, folder: Path) -> None:
        """Remove a folder and all in it; links are removed, never followed."""
        try:
            shutil.rmtree(folder, ignore_errors=True)
            if os.path.lexists(folder):
                _force_away(folder)
        except RecursionError:  # folders in folders, a thousand deep
            subprocess.run(["/bin/rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)  # noqa: S603
        guard.removed(folder)

    def settle(self, folder: Path, call: str, *, failed: bool) -> Path | str | None:
        """Keep a folder or remove it.

        Args:
            folder: of a call that has ended.
            call: what is written down beside it.
            failed: whether the call did.

        Returns:
            Where it is kept, or why it is not, in words, or None if it need not be.
        """
        if self._keep == "never" or (self._keep == "failures" and not failed):
            self.remove(folder)
            return None
        try:
            return self._kept(folder, call) if _is_folder(folder) else "it is not kept, because its program did away with it"
        except (OSError, shutil.Error, RecursionError) as error:
            return f"it could not be kept in {self._kept_folder} ({error})"
        finally:
            self.remove(folder)

    def _kept(self, folder: Path, call: str) -> Path | str:
        self._kept_folder.mkdir(parents=True, exist_ok=True)
        if sum(name.startswith(self._prefix) for name in os.listdir(self._kept_folder)) >= MOST_KEPT:  # noqa: PTH208 - just names
            return f"it is not kept, because {self._kept_folder} holds {MOST_KEPT} such folders already, which can be removed"
        with contextlib.suppress(OSError):  # the program put something else there
            (folder / CALL).unlink(missing_ok=True)
            write_new(folder / CALL, call.encode())
        goal = self._kept_folder / folder.name.removeprefix("deepzero-sim-")
        _move(folder, goal)
        return goal


def _is_path(path: object) -> TypeGuard[str | Path]:
    return isinstance(path, str | Path) and is_spelt(str(path))


def _kept_folder(path: object) -> Path:
    if not _is_path(path):
        raise ConfigError(f"kept_folder must be the path of a folder, not {path!r}.")
    return Path(path).absolute()


def _is_folder(path: Path) -> bool:
    """Whether a program left its folder where it was, and no link to somewhere else in its place."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def write_new(path: Path, content: Content) -> None:
    """Write a file that is not there yet, not even as a link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(content)
        while left.nbytes:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def _need_apart(paths: Sequence[str]) -> None:
    taken = {STDOUT, STDERR, CALL}
    for path in paths:
        if path in taken:
            raise ConfigError(f"two files of the working folder have the path {path!r}: give them different ones.")
        taken.add(path)
    for path in paths:
        if inner := taken & {str(parent) for parent in Path(path).parents}:
            raise ConfigError(f"{inner.pop()!r} cannot be both a file of the working folder and the folder of {path!r}.")


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _force_away(folder: Path) -> None:
    """Remove what a program made hard to remove: folders without permissions, a link in place of the folder."""
    if folder.is_symlink():
        folder.unlink(missing_ok=True)
        return
    for parent, folders, _ in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in folders)):  # noqa: PTH118 - as os.walk gives them
            if not os.path.islink(path):  # noqa: PTH114
                with contextlib.suppress(OSError):
                    os.chmod(path, stat.S_IRWXU)  # noqa: PTH101
    shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, goal: Path) -> None:
    try:
        folder.rename(goal)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(folder, goal, symlinks=True, ignore=_special)


def _special(folder: str, names: list[str]) -> set[str]:
    """Pipes, sockets and devices, which cannot be copied."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}  # noqa: PTH118
    return {name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))}
