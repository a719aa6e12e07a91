"""Executors: where work is done, in this process, in others or on other machines."""

from typing import TYPE_CHECKING

from deepzero_sim.common.public_names import Names as _Names

if TYPE_CHECKING:
    from deepzero_sim.execution.executors import open_executor
else:
    __getattr__ = _Names(
        __name__,
        {
            "deepzero_sim.execution.executors": ("open_executor",),
        },
    )
    __dir__ = __getattr__.listed

__all__ = ["open_executor"]
