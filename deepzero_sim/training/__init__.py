"""Training loop, and the run folder that it can be resumed from."""

from deepzero_sim.training.build import warm_up_cosine
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.trainer import Trainer

__all__ = ["Progress", "RunFolder", "Trainer", "warm_up_cosine"]
