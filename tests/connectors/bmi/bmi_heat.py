"""A component with the Basic Model Interface: heat that is conducted on a grid of any rank, and lost to its surroundings.

u_t = k lap(u) - h (u - a),  u = 0 around the grid;  explicit Euler in time, central differences in space
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from bmipy import Bmi

FIELD, LOSS, ROOM, COUNT = "plate__temperature", "plate__loss_coefficient", "room__temperature", "sources__count"


class Heat(Bmi):
    """Its grid and dtype are as the configuration says; a list of points is the same grid, not told to be one."""

    alive = 0  # initialised, not finalised

    def initialize(self, config_file: str) -> None:
        type(self).alive += 1
        said = json.loads(Path(config_file).read_text())
        self.shape, self.kind = tuple(said.get("shape", (5, 6))), said.get("grid", "uniform_rectilinear")
        self.dt, self.spacing, self.k = said.get("dt", 0.01), said.get("spacing", 0.5), said.get("conductivity", 1.0)
        self.steps, self.end = 0, said.get("end", math.inf)
        dtype = np.dtype(said.get("dtype", "float64"))
        self.values: dict[str, Any] = {FIELD: np.zeros(math.prod(self.shape), dtype=dtype)}
        self.values |= {LOSS: np.zeros(1), ROOM: np.zeros(1), COUNT: np.zeros(1, dtype="int32")}

    def update(self) -> None:
        u = self.values[FIELD].reshape(self.shape)
        change = self.values[LOSS][0] * (self.values[ROOM][0] - u) + self.values[COUNT][0]
        around = np.pad(u, 1)
        inner = [slice(1, -1)] * u.ndim
        for axis in range(u.ndim):
            sides = [around[(*inner[:axis], side, *inner[axis + 1 :])] for side in (slice(2, None), slice(None, -2))]
            change = change + self.k * (sides[0] - 2 * u + sides[1]) / self.spacing**2
        self.values[FIELD] = (u + self.dt * change).astype(u.dtype).ravel()
        self.steps += 1

    def update_until(self, time: float) -> None:
        for _ in range(round((time - self.get_current_time()) / self.dt)):
            self.update()

    def finalize(self) -> None:
        type(self).alive -= 1

    def get_component_name(self) -> str:
        return "heat"

    def get_input_var_names(self) -> tuple[str, ...]:
        return (FIELD, LOSS, ROOM, COUNT)

    def get_output_var_names(self) -> tuple[str, ...]:
        return (FIELD,)

    def get_input_item_count(self) -> int:
        return 4

    def get_output_item_count(self) -> int:
        return 1

    def get_value(self, name: str, dest: np.ndarray) -> np.ndarray:
        dest[:] = self.values[name]
        return dest

    def get_value_ptr(self, name: str) -> np.ndarray:
        return self.values[name]

    def get_value_at_indices(self, name: str, dest: np.ndarray, inds: np.ndarray) -> np.ndarray:
        dest[:] = self.values[name][inds]
        return dest

    def set_value(self, name: str, src: np.ndarray) -> None:
        if src.shape != self.values[name].shape or src.dtype != self.values[name].dtype:
            raise ValueError(f"{name} is {self.values[name].dtype} of {self.values[name].shape}")
        self.values[name] = src  # as it is: a caller that changes it afterwards would change the model

    def set_value_at_indices(self, name: str, inds: np.ndarray, src: np.ndarray) -> None:
        self.values[name][inds] = src

    def get_var_grid(self, name: str) -> int:
        return (FIELD, LOSS, ROOM, COUNT).index(name)

    def get_var_type(self, name: str) -> str:
        return str(self.values[name].dtype)

    def get_var_units(self, name: str) -> str:
        return {FIELD: "K", LOSS: "s-1", ROOM: "K", COUNT: "1"}[name]

    def get_var_itemsize(self, name: str) -> int:
        return int(self.values[name].itemsize)

    def get_var_nbytes(self, name: str) -> int:
        return int(self.values[name].nbytes)

    def get_var_location(self, name: str) -> str:
        return "node"

    def get_start_time(self) -> float:
        return 0.0

    def get_current_time(self) -> float:
        return self.steps * self.dt

    def get_end_time(self) -> float:
        return self.end

    def get_time_step(self) -> float:
        return self.dt

    def get_time_units(self) -> str:
        return "s"

    def get_grid_type(self, grid: int) -> str:
        return self.kind if grid == 0 else "scalar"

    def get_grid_rank(self, grid: int) -> int:
        return len(self.shape) if grid == 0 else 0

    def get_grid_size(self, grid: int) -> int:
        return math.prod(self.shape) if grid == 0 else 1

    def get_grid_shape(self, grid: int, shape: np.ndarray) -> np.ndarray:
        shape[:] = self.shape
        return shape

    def get_grid_spacing(self, grid: int, spacing: np.ndarray) -> np.ndarray:
        spacing[:] = self.spacing
        return spacing

    def get_grid_origin(self, grid: int, origin: np.ndarray) -> np.ndarray:
        origin[:] = self.spacing  # u = 0 one spacing outside
        return origin

    def get_grid_node_count(self, grid: int) -> int:
        return self.get_grid_size(grid)

    def _none(self, *arguments: Any) -> Any:
        raise NotImplementedError("there is no mesh")

    get_grid_x = get_grid_y = get_grid_z = _none
    get_grid_edge_count = get_grid_edge_nodes = get_grid_face_count = get_grid_face_edges = _none
    get_grid_face_nodes = get_grid_nodes_per_face = _none


class Raising(Heat):
    """Raises in the function that the configuration names, where the field's first value is above 100."""

    where = "initialize"

    def initialize(self, config_file: str) -> None:
        super().initialize(config_file)
        self.where = json.loads(Path(config_file).read_text()).get("raise_in", "initialize")
        self._raise("initialize")

    def _raise(self, where: str) -> None:
        if where == self.where and (where == "initialize" or self.values[FIELD].flat[0] > 100):
            raise RuntimeError(f"no luck in {where}")

    def update(self) -> None:
        self._raise("update")
        super().update()

    def finalize(self) -> None:
        super().finalize()
        self._raise("finalize")

    def set_value(self, name: str, src: np.ndarray) -> None:
        super().set_value(name, src)
        self._raise("set_value")

    def get_value(self, name: str, dest: np.ndarray) -> np.ndarray:
        self._raise("get_value")
        return super().get_value(name, dest)


class Diverging(Heat):
    """Explodes from values above 100."""

    def update(self) -> None:
        super().update()
        self.values[FIELD] = np.where(self.values[FIELD] > 100, np.inf, self.values[FIELD])


class ReadOnly(Heat):
    """Takes values and does nothing with them."""

    def set_value(self, name: str, src: np.ndarray) -> None:
        pass


class Unsettable(Heat):
    """Offers its values to read."""

    def set_value(self, name: str, src: np.ndarray) -> None:
        raise NotImplementedError("set_value")


class Stopped(Heat):
    """Does nothing from its fourth step on, and says nothing."""

    def update(self) -> None:
        if self.steps < 3:
            super().update()


class Overstated(Heat):
    """Says that its field is larger than it is."""

    def get_var_nbytes(self, name: str) -> int:
        return super().get_var_nbytes(name) * 2


class Mute(Heat):
    """Leaves the buffer of its field as it is."""

    def get_value(self, name: str, dest: np.ndarray) -> np.ndarray:
        return dest if self.steps else super().get_value(name, dest)


class Blank(Heat):
    """Has values where the first cell is not computed, as land beside a sea."""

    def initialize(self, config_file: str) -> None:
        super().initialize(config_file)
        self.values[FIELD][0] = -9999.0

    def update(self) -> None:
        assert self.values[FIELD][0] == -9999.0
        super().update()


class NoModel:
    """No component at all."""

    def initialize(self, config_file: str) -> None: ...
