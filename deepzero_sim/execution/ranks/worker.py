"""Worker of every rank but 0, which answers questions until rank 0 is done."""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import torch

from deepzero_sim.execution.ranks.calls import Functions, Question, call, pack
from deepzero_sim.execution.ranks.link import BEAT, GRACE, Link, Sign

_Inbox: TypeAlias = "queue.SimpleQueue[Question | Sign]"


def serve(link: Link) -> NoReturn:
    """Answer rank 0's questions in this thread, then leave the program.

    Without rank 0 the process ends at once, in the middle of a task too.

    Raises:
        SystemExit: Rank 0 is done; status 0.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches rank 0 too, which ends the others
    torch.set_num_threads(1)
    inbox: _Inbox = queue.SimpleQueue()
    leaving = threading.Event()
    threads = [threading.Thread(target=_or_end, args=(f, link, inbox, leaving), daemon=True) for f in (_listen, _beat)]
    for thread in threads:
        thread.start()
    _or_end(_answer, link, inbox, leaving)
    for thread in threads:  # none may be sending or receiving when Python ends
        thread.join()
    _or_end(link.send, Sign.STOP, 0)
    raise SystemExit(0)


def _or_end(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function, and end the process at once if it fails."""
    try:
        function(*arguments)
    except ConnectionError:
        os._exit(1)  # rank 0 has said why, or is gone
    except Exception:
        traceback.print_exc()
        os._exit(1)


def _answer(link: Link, inbox: _Inbox, leaving: threading.Event) -> None:
    functions = Functions(b"")
    while isinstance(question := inbox.get(), Question):
        if question.functions is not None:
            functions = Functions(question.functions)
        link.send(pack(call(functions, question.arguments)), 0)
    leaving.set()


def _listen(link: Link, inbox: _Inbox, leaving: threading.Event) -> None:
    """Receive questions, and leave at the end, in the middle of a task too."""
    while (message := link.receive(0)) is not Sign.STOP:
        if message is not Sign.BEAT:
            inbox.put(message)
    inbox.put(Sign.STOP)
    if not leaving.wait(GRACE):
        os._exit(0)


def _beat(link: Link, inbox: _Inbox, leaving: threading.Event) -> None:
    while not leaving.wait(BEAT):
        link.send(Sign.BEAT, 0)
