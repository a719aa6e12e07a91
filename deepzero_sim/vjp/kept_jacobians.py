"""Measured Jacobians in a file, found again by what they were measured at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from deepzero_sim.errors import RunError
from deepzero_sim.files import replacing
from deepzero_sim.types import Array


class KeptJacobians:
    """Arrays by a digest of all they depend on: the solver's step at the state, so that another solver's are never taken.

    Args:
        path: a safetensors file, read where it is there; None to keep nothing.

    Raises:
        RunError: the file is damaged, or none of this kind.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: dict[str, Array] = {}
        self._changed = False
        if path is None or not path.exists():
            return
        try:
            self._kept = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(
                f"{path} must be a safetensors file of Jacobians, but it cannot be read ({error}): delete it to have them "
                "measured anew, or name another file."
            ) from error

    def get(
        self, settings: Sequence[str], at: Sequence[np.ndarray], measure: Callable[[], dict[str, Array]]
    ) -> dict[str, Array]:
        """What was measured by some settings at some states, or is now."""
        digest = hashlib.sha256(" ".join(settings).encode())
        for array in at:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        key = digest.hexdigest()[:32] + "."
        found = {name.removeprefix(key): array for name, array in self._kept.items() if name.startswith(key)}
        if found:
            return found
        measured = measure()
        if self._path is not None:
            self._kept |= {key + name: array for name, array in measured.items()}
            self._changed = True
        return measured

    def save(self) -> None:
        """Write the file if there is something new.

        Raises:
            OSError: no space is left; what was there stands.
        """
        if self._path is None or not self._changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as aside:
            try:
                save_file(self._kept, aside)
            except SafetensorError as error:  # its name for an input/output error
                raise OSError(f"the Jacobians in {self._path} cannot be written ({error})") from error
        self._changed = False
