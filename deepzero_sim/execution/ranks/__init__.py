"""An executor over the ranks that torchrun started, on one machine or several."""

from deepzero_sim.execution.ranks.executor import RankExecutor, open_ranks
from deepzero_sim.execution.ranks.link import rank_of_torchrun

__all__ = ["RankExecutor", "open_ranks", "rank_of_torchrun"]
