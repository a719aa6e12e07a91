"""A model of several vectors, served by the official package `umbridge`. Run: python umbridge_wave_server.py PORT"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import umbridge
from aiohttp import web


class Wave(umbridge.Model):  # type: ignore[misc]
    """`u' = u + c v + a`, `v' = v - c b u` on three points: in go u, v, c, (a, b), out come the energy, v' and u'."""

    def get_input_sizes(self, config: Any) -> list[int]:
        return [3, 3, 1, 2]

    def get_output_sizes(self, config: Any) -> list[int]:
        return [1, 3, 3]

    def __call__(self, inputs: Any, config: Any) -> Any:
        (u, v), (c,), (a, b) = np.array(inputs[:2]), inputs[2], inputs[3]
        return [
            [float("nan") if config.get("lost") else float(u @ u + v @ v)],
            (v - c * b * u).tolist(),
            (u + c * v + a).tolist(),
        ]

    def supports_evaluate(self) -> bool:
        return True


class Joined(Wave):
    """The same with one vector in, `u, v, c, a, b`, and one out, the energy in front."""

    def get_input_sizes(self, config: Any) -> list[int]:
        return [9]

    def get_output_sizes(self, config: Any) -> list[int]:
        return [7]

    def __call__(self, inputs: Any, config: Any) -> Any:
        (whole,) = inputs
        energy, v, u = super().__call__([whole[:3], whole[3:6], whole[6:7], whole[7:]], config)
        return [[*energy, *u, *v]]


if __name__ == "__main__":
    web.run_app = functools.partial(web.run_app, host="127.0.0.1")  # it would listen on all addresses
    umbridge.serve_models([Wave("wave"), Joined("joined")], int(sys.argv[1]))
