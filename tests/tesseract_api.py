"""A Tesseract: `s exp(-dt rate)`, and what goes wrong where the rate says so. Served by `tesseract-runtime serve`."""

import numpy as np
from pydantic import BaseModel
from tesseract_core.runtime import Array, Float64


class InputSchema(BaseModel):
    state: Array[(1, None), Float64]
    rates: Array[(1,), Float64]
    dt: float = 1.0


class OutputSchema(BaseModel):
    next_state: Array[(1, None), Float64]


def apply(inputs: InputSchema) -> OutputSchema:
    rate = inputs.rates[0]
    if rate < 0:
        raise ValueError("negative rate")
    if rate > 100:
        return OutputSchema(next_state=np.full_like(inputs.state, np.nan))
    return OutputSchema(next_state=inputs.state * np.exp(-inputs.dt * rate))


def abstract_eval(abstract_inputs: dict) -> dict:
    return {"next_state": abstract_inputs.state}
