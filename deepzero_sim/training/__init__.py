"""Training loop, and the run folder that it can be resumed from."""

from typing import TYPE_CHECKING

from deepzero_sim.common.public_names import Names as _Names

if TYPE_CHECKING:
    from deepzero_sim.training.build import warm_up_cosine
    from deepzero_sim.training.progress import Progress
    from deepzero_sim.training.run_folder import RunFolder
    from deepzero_sim.training.trainer import Trainer
else:
    __getattr__ = _Names(
        __name__,
        {
            "deepzero_sim.training.build": ("warm_up_cosine",),
            "deepzero_sim.training.progress": ("Progress",),
            "deepzero_sim.training.run_folder": ("RunFolder",),
            "deepzero_sim.training.trainer": ("Trainer",),
        },
    )
    __dir__ = __getattr__.listed

__all__ = ["Progress", "RunFolder", "Trainer", "warm_up_cosine"]
