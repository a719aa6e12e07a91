"""Files that are read on demand, as long as nobody changes them."""

from __future__ import annotations

from pathlib import Path

from deepzero_sim.common.requirements import require_data


class FileState:
    """State of a file or folder when it was first looked at.

    Args:
        path: Path of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._state = self._state_on_disk()

    def require_unchanged(self) -> None:
        """Refuse to go on with a file that was changed.

        Raises:
            DataError: It was changed, or taken away.
        """
        require_data(
            self._state_on_disk() == self._state,
            f"{self._name} was changed or taken away while it was in use: put back what it was, or start again.",
        )

    @property
    def _name(self) -> str:
        return str(self.path) if str(self.path).isprintable() else repr(str(self.path))

    def _state_on_disk(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns
