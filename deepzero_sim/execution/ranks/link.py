"""Messages between the ranks that torchrun started: objects from one process to another, over gloo.

Gloo carries everything, on machines with GPUs too. What goes from rank to rank are pickled questions and answers, a few
megabytes a round at most, between rank 0 and one other at a time, and the end of a rank must be noticed at once: gloo's
connections close with the process. NCCL moves tensors between GPUs and has nothing to carry here; it is not started.
"""

from __future__ import annotations

import enum
import os
import pickle
import threading
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from deepzero_sim.errors import WorkerLostError

#: Seconds of silence after which a rank counts as lost. One that dies closes its connections, which is noticed at once; this
#: is for machines that vanish and for ranks that are frozen. Ranks speak while they work, so a task may take any time, unless
#: it keeps Python's lock for so long.
SILENCE = 600.0

#: Seconds between signs of life, so that a rank with nothing to say is not taken for lost.
BEAT = 15.0

#: Seconds that rank 0 waits for others to leave when all is done, and that they have to leave of themselves.
FAREWELL, GRACE = 3.0, 1.0


class Sign(enum.Enum):
    """Messages without content."""

    BEAT = "I am there"
    STOP = "the last message"


class Link:
    """One rank's end of the connections between all ranks. Several threads may send; one may receive from each rank.

    Args:
        rank: Rank of this process.
        size: Number of ranks.
        group: Process group of all ranks, of gloo.
    """

    def __init__(self, rank: int, size: int, group: dist.ProcessGroup) -> None:
        self.rank = rank
        self.size = size
        self._group = group
        self._sending = [threading.Lock() for _ in range(size)]  # a message is two tensors, with none of another between

    def send(self, message: object, to: int) -> None:
        """Send anything that can be pickled.

        Raises:
            ConnectionError: The other rank is gone, or has not listened for :data:`SILENCE`.
        """
        data = bytearray(pickle.dumps(message))
        with self._sending[to]:
            try:
                dist.send(torch.tensor([len(data)]), to, self._group)
                dist.send(torch.frombuffer(data, dtype=torch.uint8), to, self._group)
            except (RuntimeError, ValueError) as error:
                raise ConnectionError(f"rank {to} is gone ({error})") from error

    def receive(self, source: int) -> Any:
        """Wait for the next message of a rank.

        Raises:
            ConnectionError: It is gone, or was silent for :data:`SILENCE`.
        """
        length = torch.empty(1, dtype=torch.int64)
        try:
            dist.recv(length, source, self._group)
            data = torch.empty(int(length), dtype=torch.uint8)
            dist.recv(data, source, self._group)
        except (RuntimeError, ValueError) as error:
            raise ConnectionError(f"rank {source} is gone ({error})") from error
        return pickle.loads(data.numpy().data)  # noqa: S301 - from a process of the same program


def join(timeout: float) -> Link:
    """Meet all other ranks.

    Args:
        timeout: Seconds that they have to come.

    Raises:
        WorkerLostError: Not all of them came.
    """
    try:
        if not dist.is_initialized():  # the program may have groups of its own
            _meet(timedelta(seconds=timeout))
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE))
    except (RuntimeError, ValueError) as error:
        raise WorkerLostError(
            f"torchrun's ranks did not come together within {timeout:g} seconds ({' '.join(str(error).split())}): "
            "see that all of them run the same command, and that their machines reach each other."
        ) from error
    return Link(dist.get_rank(), dist.get_world_size(), group)


def _meet(timeout: timedelta) -> None:
    from torch.distributed.distributed_c10d import PrefixStore  # noqa: PLC0415 - not every build of torch has them
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    store, rank, size = next(rendezvous("env://", timeout=timeout))
    # torchrun starts ranks anew with the same store, where the addresses of those that died still stand
    attempt = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    dist.init_process_group("gloo", store=attempt, rank=rank, world_size=size, timeout=timeout)


def use_own_gpu() -> None:
    """Let each rank of a machine with GPUs compute on one of its own, also with tensors of other ranks."""
    if torch.cuda.is_available():
        own = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        torch.cuda.set_device(own)
        move_cuda_tensors_to(torch.device("cuda", own))


def move_cuda_tensors_to(device: torch.device) -> None:
    """Unpickle tensors of any GPU to one device; torch would look for the one they came from, which is another rank's."""

    def restore(storage: Any, location: str) -> Any:
        return storage.to(device=device) if location.startswith("cuda") else None

    torch.serialization.register_package(0, lambda storage: None, restore)
