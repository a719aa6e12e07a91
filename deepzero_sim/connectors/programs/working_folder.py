"""Working folders: a fresh one for every call of a program, filled before, and removed or kept afterwards."""

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
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard, get_args

from deepzero_sim.common.files import kind_of_file
from deepzero_sim.common.requirements import require, require_one_of, require_that
from deepzero_sim.connectors.formats.base import Content
from deepzero_sim.connectors.programs.guard import guard
from deepzero_sim.connectors.programs.paths import inner_path, is_encodable
from deepzero_sim.connectors.programs.program_output import STDERR, STDOUT
from deepzero_sim.errors import ConfigError

Keep: TypeAlias = Literal["failures", "never", "always"]

#: Folders of one solver that are kept: thousands of failures must not fill a disk.
MOST_KEPT = 20

#: Files of the user's in a working folder.
MOST_FILES = 10_000

#: Record of the call in a folder that is kept.
CALL = "call.txt"

#: External files: paths that keep their names, or paths by their names in the working folder.
ExternalFiles: TypeAlias = Sequence[str | Path] | Mapping[str, str | Path]

_default_kept_folder: ContextVar[Path] = ContextVar("default_kept_folder", default=Path("runs", "kept"))


@contextlib.contextmanager
def default_kept_folder(folder: Path) -> Iterator[None]:
    """Set where solvers that are made inside the block keep working folders, unless their settings name a place.

    A training run sets its own folder, so that what it leaves lies together; elsewhere it is `runs/kept`.
    """
    token = _default_kept_folder.set(folder)
    try:
        yield
    finally:
        _default_kept_folder.reset(token)


@dataclass(frozen=True)
class ExternalFile:
    """A file of the user's: its path in the working folder, and where it comes from."""

    path: str
    source: Path


def list_external_files(settings: ExternalFiles, what: str) -> tuple[ExternalFile, ...]:
    """List external files, and all files of external folders."""
    listed = isinstance(settings, Sequence | Mapping) and not isinstance(settings, str | bytes)
    require(listed, f"{what} must be a list of paths, or paths by their names in the working folder", settings)
    sources = list(settings.values() if isinstance(settings, Mapping) else settings)
    require(all(map(_is_path, sources)), f"{what} must name files and folders by their paths", sources)
    named = settings if isinstance(settings, Mapping) else {Path(source).absolute().name: source for source in settings}
    distinct = len(named) == len(settings)
    require_that(distinct, f"{what} must have different names in the working folder: give paths by their names there.")
    files = [file for path, source in named.items() for file in _walk(inner_path(path, what), Path(source).absolute(), what)]
    shown = ", ".join(map(str, sources))
    few = len(files) <= MOST_FILES
    require_that(few, f"{what} must not be more than {MOST_FILES} files, not {shown}: name those needed.")
    return tuple(files)


def _walk(path: str, source: Path, what: str, above: tuple[Path, ...] = ()) -> Iterator[ExternalFile]:
    """Yield the file, or all files of the folder, up to one more than there may be."""
    if not source.is_dir():
        missing = f"{what}: there is no file or folder {source}: check the path, it starts at the current folder."
        require_that(source.exists(), missing)
        kind = kind_of_file(source.stat().st_mode)
        require_that(source.is_file(), f"{what}: {source} must be a plain file or a folder, not {kind}.")
        yield ExternalFile(path, source)
        return
    within = (*above, source.resolve())
    circular = f"{what}: {source} must be a file or a folder, not a link to a folder that it lies in: take it out."
    require_that(within[-1] not in above, circular)
    inner = (file for entry in sorted(source.iterdir()) for file in _walk(f"{path}/{entry.name}", entry, what, within))
    yield from itertools.islice(inner, MOST_FILES + 1)


class WorkingFolders:
    """Working folders of one solver.

    Args:
        name: Name of the solver, which the names of the folders begin with.
        copies: Files that are copied into each.
        links: Files that are linked into each; a program must not change them.
        written: Paths of the files that are written into each.
        keep: Choice of the folders that are kept: those of failures, none, or all; never more than 20 of a name.
        kept_folder: Folder to keep them in; that of :func:`default_kept_folder` if None.
    """

    def __init__(
        self,
        name: str,
        copies: Sequence[ExternalFile],
        links: Sequence[ExternalFile],
        written: Sequence[str],
        keep: Keep,
        kept_folder: str | Path | None,
    ) -> None:
        require_one_of(keep, get_args(Keep), "keep")
        kept_folder = _default_kept_folder.get() if kept_folder is None else kept_folder
        require(_is_path(kept_folder), "kept_folder must be the path of a folder", kept_folder)
        self._copies, self._links, self._keep, self._kept_folder = copies, links, keep, Path(kept_folder).absolute()
        self._prefix = f"{re.sub(r'[^A-Za-z0-9._-]', '_', name).lstrip('.')}-"
        paths = [*(file.path for file in (*copies, *links)), *written]
        _require_distinct(paths)
        _require_space(copies)
        self._folders = sorted({str(parent) for path in paths for parent in Path(path).parents} - {"."})

    def make(self) -> Path:
        """Make a folder with the external files in it, and return its path without links.

        Raises:
            ConfigError: An external file is no longer there.
            OSError: There is no space, or no permission.
        """
        for file in (*self._copies, *self._links):
            require_that(file.source.is_file(), f"the external file {file.source} is no longer there: put it back.")
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix=f"deepzero-sim-{self._prefix}")))
        guard.register_folder(folder)
        try:
            for name in self._folders:
                (folder / name).mkdir()
            for file in self._copies:
                shutil.copy(file.source, folder / file.path)
            for file in self._links:
                (folder / file.path).symlink_to(file.source)
        except BaseException:
            self.remove(folder)
            raise
        return folder

    def link_identities(self) -> dict[Path, tuple[int, ...]]:
        """Return numbers for each linked file that differ once it was changed."""
        return {file.source: _identity(file.source) for file in self._links}

    def remove(self, folder: Path) -> None:
        """Remove a folder and all in it; links are removed, never followed."""
        try:
            shutil.rmtree(folder, ignore_errors=True)
            if os.path.lexists(folder):
                _force_remove(folder)
        except RecursionError:  # folders in folders, a thousand deep
            subprocess.run(["/bin/rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)  # noqa: S603
        guard.forget_folder(folder)

    def keep_or_remove(self, folder: Path, call: str, *, failed: bool) -> Path | str | None:
        """Keep the folder of a call that has ended, with a record of the call, if it is one of those to keep; else remove it.

        Returns:
            Path that it is kept at, or the reason why it is not, or None if it need not be.
        """
        if self._keep == "never" or (self._keep == "failures" and not failed):
            self.remove(folder)
            return None
        if not _is_folder(folder):
            self.remove(folder)
            return "it is not kept, because its program did away with it"
        try:
            return self._keep_folder(folder, call)
        except (OSError, shutil.Error, RecursionError) as error:
            return f"it could not be kept in {self._kept_folder} ({error})"
        finally:
            self.remove(folder)

    def _keep_folder(self, folder: Path, call: str) -> Path | str:
        self._kept_folder.mkdir(parents=True, exist_ok=True)
        if sum(name.startswith(self._prefix) for name in os.listdir(self._kept_folder)) >= MOST_KEPT:  # noqa: PTH208 - just names
            return f"it is not kept, because {self._kept_folder} holds {MOST_KEPT} such folders already, which can be removed"
        with contextlib.suppress(OSError):  # the program put something else there
            (folder / CALL).unlink(missing_ok=True)
            write_new(folder / CALL, call.encode())
        goal = self._kept_folder / folder.name.removeprefix("deepzero-sim-")
        _move(folder, goal)
        return goal


def _require_distinct(paths: Sequence[str]) -> None:
    taken = {STDOUT, STDERR, CALL}
    for path in paths:
        require_that(path not in taken, f"two files of the working folder have the path {path!r}: give them different ones.")
        taken.add(path)
    for path in paths:
        for parent in taken.intersection(map(str, Path(path).parents)):
            raise ConfigError(f"{parent!r} cannot be both a file of the working folder and the folder of {path!r}.")


def _require_space(copies: Sequence[ExternalFile]) -> None:
    needed = sum(file.source.stat().st_size for file in copies)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free if needed else 0
    require_that(
        needed <= free,
        f"external_input_files hold {needed} bytes, but {folder}, where they are copied to for every run, has {free} free: "
        "name large files in external_input_links, or set the environment variable TMPDIR to another folder.",
    )


def _is_path(path: object) -> TypeGuard[str | Path]:
    return isinstance(path, str | Path) and is_encodable(str(path))


def _is_folder(path: Path) -> bool:
    """Tell whether a program left its folder where it was, and no link to somewhere else in its place."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def write_new(path: Path, content: Content) -> None:
    """Write a file that does not exist yet, not even as a link."""
    with path.open("xb") as file:
        file.write(content)


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _force_remove(folder: Path) -> None:
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
        shutil.copytree(folder, goal, symlinks=True, ignore=_special_files)


def _special_files(folder: str, names: list[str]) -> set[str]:
    """Select pipes, sockets and devices, which cannot be copied."""
    modes = {name: os.lstat(os.path.join(folder, name)).st_mode for name in names}  # noqa: PTH118
    return {name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))}
