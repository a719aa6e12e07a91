"""Machine that this process runs on: its cores, its main memory, and what the process has used of that."""

from __future__ import annotations

import os
from pathlib import Path


def core_count() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Look up the bytes of this machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40


def free_memory() -> int:
    """Read how many bytes of main memory programs can still have; a huge number where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return 2**62


def peak_memory_gb() -> float:
    """Measure the peak resident memory of this process and of its largest finished child, in GB; 0 if it is unknown."""
    if os.name != "posix":
        return 0.0
    import resource  # noqa: PLC0415 - not on every platform

    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + child) * 1024 / 1e9
