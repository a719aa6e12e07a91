"""An executor over the ranks that torchrun started, on one machine or several."""

from typing import TYPE_CHECKING

from deepzero_sim.common.public_names import Names as _Names

if TYPE_CHECKING:
    from deepzero_sim.execution.ranks.executor import RankExecutor, open_ranks
    from deepzero_sim.execution.ranks.place import rank_of_torchrun
else:
    __getattr__ = _Names(
        __name__,
        {
            "deepzero_sim.execution.ranks.executor": ("RankExecutor", "open_ranks"),
            "deepzero_sim.execution.ranks.place": ("rank_of_torchrun",),
        },
    )
    __dir__ = __getattr__.listed

__all__ = ["RankExecutor", "open_ranks", "rank_of_torchrun"]
