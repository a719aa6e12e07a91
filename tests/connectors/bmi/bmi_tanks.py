"""A component whose every answer a test may change: tanks that leak, `v' = -rate v`, on any grids."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np


class Tanks:
    """`volume` on grid 0 and `area` on grid 1, a scalar `rate` on grid 2."""

    dtypes: ClassVar[dict[str, str]] = {"volume": "f8", "area": "f8", "rate": "f8"}
    words: ClassVar[dict[str, Any]] = {}
    grids: ClassVar[dict[int, tuple[str, tuple[int, ...]]]] = {0: ("points", (4,)), 1: ("points", (4,)), 2: ("scalar", ())}
    spacing: ClassVar[dict[int, tuple[float, ...]]] = {}
    origin: ClassVar[dict[int, tuple[float, ...]]] = {}
    end: Any = math.inf
    dt: Any = 0.5

    def initialize(self, config: str) -> None:
        self.time = 0.0
        self.values = {
            name: np.ones(math.prod(self.grids[self.get_var_grid(name)][1]), dtype) for name, dtype in self.dtypes.items()
        }

    def update(self) -> None:
        for name in ("volume", "area"):
            new = self.values[name] * (1 - 0.5 * self.values["rate"])
            self.values[name][:] = new.astype(self.values[name].dtype)
        self.time += 0.5

    def update_until(self, time: float) -> None:
        while self.time < time - 1e-9:
            self.update()

    def finalize(self) -> None:
        pass

    def get_value(self, name: str, dest: np.ndarray) -> Any:
        dest[:] = self.values[name]
        return dest

    def set_value(self, name: str, src: np.ndarray) -> None:
        self.values[name][:] = src

    def get_var_grid(self, name: str) -> int:
        return ("volume", "area", "rate").index(name)

    def get_var_type(self, name: str) -> Any:
        return self.words.get(name, str(np.dtype(self.dtypes[name])))

    def get_var_itemsize(self, name: str) -> int:
        return np.dtype(self.dtypes[name]).itemsize

    def get_var_nbytes(self, name: str) -> int:
        return int(self.values[name].nbytes)

    def get_grid_type(self, grid: int) -> str:
        return self.grids[grid][0]

    def get_grid_rank(self, grid: int) -> int:
        return len(self.grids[grid][1])

    def get_grid_shape(self, grid: int, shape: np.ndarray) -> Any:
        shape[:] = self.grids[grid][1]
        return shape

    def get_grid_spacing(self, grid: int, spacing: np.ndarray) -> Any:
        spacing[:] = self.spacing[grid]
        return spacing

    def get_grid_origin(self, grid: int, origin: np.ndarray) -> Any:
        origin[:] = self.origin[grid]
        return origin

    def get_current_time(self) -> Any:
        return self.time

    def get_end_time(self) -> Any:
        return self.end

    def get_time_step(self) -> Any:
        return self.dt
