"""Models served by the official package `umbridge`, on this machine only. Run: python umbridge_server.py PORT"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import umbridge
from aiohttp import web

SIZE = 4


class Halving(umbridge.Model):  # type: ignore[misc]
    """Halves a vector, or does what its config says."""

    def get_input_sizes(self, config: Any) -> list[int]:
        return [SIZE]

    def get_output_sizes(self, config: Any) -> list[int]:
        return [SIZE]

    def __call__(self, inputs: Any, config: Any) -> Any:
        match config.get("fault"):
            case "nan":
                return [[float("nan"), float("inf"), -float("inf"), 1.0]]
            case "short":
                return [[1.0]]
            case "raise":
                raise ValueError("no such state")
        return [(0.5 * np.array(inputs[0])).tolist()]

    def supports_evaluate(self) -> bool:
        return True


class Decaying(Halving):
    """`s exp(-rate)`, the rate being a second input."""

    def get_input_sizes(self, config: Any) -> list[int]:
        return [SIZE, 1]

    def __call__(self, inputs: Any, config: Any) -> Any:
        return [(np.array(inputs[0]) * np.exp(-inputs[1][0])).tolist()]


class Forced(Halving):
    """`s (1 - scale rate)`, with rates of all points as a second input and the scale as a third one."""

    def get_input_sizes(self, config: Any) -> list[int]:
        return [SIZE, SIZE, 1]

    def __call__(self, inputs: Any, config: Any) -> Any:
        states, rates, (scale,) = map(np.array, inputs)
        return [(states * (1 - scale * rates)).tolist()]


class Silent(Halving):
    """Supports nothing."""

    def supports_evaluate(self) -> bool:
        return False


if __name__ == "__main__":
    web.run_app = functools.partial(web.run_app, host="127.0.0.1")  # it would listen on all addresses
    umbridge.serve_models([Halving("forward"), Decaying("decay"), Forced("forced"), Silent("silent")], int(sys.argv[1]))
