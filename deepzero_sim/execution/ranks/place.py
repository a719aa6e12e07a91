"""Place of this process among the ranks that torchrun started."""

from __future__ import annotations

import os


def rank_of_torchrun() -> tuple[int, int] | None:
    """Look up the rank of this process and the number of ranks; None if torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
