"""What the parser refuses is said in the words of who wrote it."""

from __future__ import annotations

import pytest

from deepzero_sim.cli.main import main


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--batch x", "batch must be a whole number, not x:"),
        ("--seconds soon", "seconds must be a number, not soon:"),
        ("--device tpu", "device must be one of cpu, cuda, not tpu:"),
        ("--queries_per_chunk x", "queries_per_chunk must be a whole number, not x:"),
        ("--workers.count x", "workers.count must be a whole number, not x:"),
        ("--workers.backend gpu", "workers.backend must be one of serial, thread, process, ranks, not gpu:"),
        ("--workers 3", "workers must be keys with values, not 3:"),
        ("--nonsense 1", "unrecognized arguments: --nonsense 1:"),
    ],
)
def test_one_sentence_says_what_was_expected(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cge", *given.split()]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"deepzero-sim: {said}")
    assert message.count("\n") == 1 and "typing" not in message and "class" not in message
