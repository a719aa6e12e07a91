"""Arrays that a file or a checkpoint gave, held to what their reader needs before any of them is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from deepzero_sim.common.requirements import LARGEST_COUNT
from deepzero_sim.common.types import Array
from deepzero_sim.errors import ConfigError, DeepZeroError


class StoredArrays:
    """Arrays by name, each of which is what its reader asks for, or refused in one sentence.

    A size that only the arrays tell has a name, ``"R"``, and is the same wherever that name stands.

    Args:
        arrays: Arrays by name, whatever they are.
        source: Beginning of the sentence: where they come from.
        remedy: End of the sentence.
        error: Class of the error.

    Raises:
        DeepZeroError: What came are no arrays by name.
    """

    def __init__(self, arrays: object, source: str, remedy: str, error: type[DeepZeroError] = ConfigError) -> None:
        self._source, self._remedy, self._error = source, remedy, error
        self._prefix = ""
        self._sizes: dict[str, int] = {}
        self._read: set[str] = set()
        if not isinstance(arrays, Mapping):
            self.refuse("be arrays by name", type(arrays).__name__)
        for name, array in arrays.items():
            if not isinstance(name, str) or not isinstance(array, np.ndarray):
                self.refuse("be arrays by name", f"{type(array).__name__} as {name!r}")
        self._arrays: Mapping[str, Array] = arrays

    @classmethod
    def of_state(cls, state_dict: object, product: str) -> StoredArrays:
        """Wrap what a product's `load_state_dict` was given."""
        return cls(state_dict, f"the state of {product}", "load what its state_dict gave")

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._arrays

    def part(self, prefix: str, own_sizes: bool = False) -> StoredArrays:
        """View the arrays whose names begin so, by what follows.

        Args:
            prefix: Beginning of the names.
            own_sizes: True if names of sizes mean others there.
        """
        part = StoredArrays({}, self._source, self._remedy, self._error)
        part._arrays, part._read, part._prefix = self._arrays, self._read, self._prefix + prefix
        part._sizes = {} if own_sizes else self._sizes
        return part

    def dimensions(self, name: str) -> int:
        """Return the number of an array's axes; 0 if there is none."""
        array = self._arrays.get(self._prefix + name)
        return 0 if array is None else array.ndim

    def numbers(self, name: str, *shape: int | str, positive: bool = False, finite: bool = True) -> Array:
        """Read real numbers, of float32 or float64.

        Args:
            name: Name of the array.
            shape: Sizes along each axis, or names of these.
            positive: Flag that all are above 0.
            finite: Flag that all are finite.
        """
        array = self._arrays.get(self._prefix + name)
        self._read.add(self._prefix + name)
        wanted = ", ".join(str(self._sizes.get(str(size), size)) for size in shape)
        expected = f"have numbers of shape ({wanted}{',' * (len(shape) == 1)}) as {self._prefix + name!r}"
        if array is None:
            self.refuse(expected, "none")
        if array.dtype not in (np.float32, np.float64) or not self._fits(array, shape):
            self.refuse(expected, f"{array.dtype} of shape {array.shape}")
        if finite and not np.isfinite(array).all():
            self.refuse(f"have finite numbers as {self._prefix + name!r}", "NaN or infinity")
        if positive and not (array > 0).all():
            self.refuse(f"have positive numbers as {self._prefix + name!r}", f"{array.min():g}")
        return array

    def counts(self, name: str, *shape: int | str, least: int = 0, most: int = LARGEST_COUNT) -> list[int]:
        """Read whole numbers from `least` to `most`, which are stored as other numbers are; see :meth:`numbers`."""
        values = self.numbers(name, *shape).reshape(-1)
        whole = (values == np.floor(values)) & (values >= least) & (values <= most)
        if not whole.all():
            limits = f"from {least} to {most}" if most < LARGEST_COUNT else f"from {least} on"
            self.refuse(f"have whole numbers {limits} as {self._prefix + name!r}", f"{values[~whole][0]:g}")
        return [int(value) for value in values]

    def refuse(self, expected: str, came: object) -> NoReturn:
        """Refuse what came: `SOURCE must EXPECTED, not CAME: REMEDY.`"""
        raise self._error(f"{self._source} must {expected}, not {came}: {self._remedy}.")

    def require(self, holds: bool, expected: str, came: object) -> None:
        """Refuse what came unless a condition holds, as :meth:`refuse` does."""
        if not holds:
            self.refuse(expected, came)

    def require_no_others(self, *prefixes: str) -> None:
        """Refuse arrays that nobody has read, but for those whose names begin with a prefix."""
        others = sorted(name for name in self._arrays.keys() - self._read if not name.startswith(prefixes))
        self.require(not others, "have no arrays but its own", ", ".join(map(repr, others[:3])))

    def _fits(self, array: Array, shape: tuple[int | str, ...]) -> bool:
        """Compare a shape, and note the sizes that have names; a single number has been an array of one in a checkpoint."""
        if not shape:
            return array.shape in ((), (1,))
        if array.ndim != len(shape):
            return False
        sizes = zip(array.shape, shape, strict=True)
        return all(size == (self._sizes.setdefault(name, size) if isinstance(name, str) else name) for size, name in sizes)
