"""Options: all commands have theirs, and what is refused is said in the words of who wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepzero_sim.cli.main import COMMANDS, main, read_command


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--batch x", "batch must be a whole number, not x:"),
        ("--seconds soon", "seconds must be a number, not soon:"),
        ("--device tpu", "device must be one of cpu, cuda, not tpu:"),
        ("--queries_per_chunk x", "queries_per_chunk must be a whole number, not x:"),
        ("--workers.count x", "workers.count must be a whole number, not x:"),
        ("--batch 1:30", "batch must be a whole number, not 1:30:"),
        ("--batch 1_0", "batch must be a whole number, not 1_0:"),
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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_lists_its_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    words = capsys.readouterr().out
    assert (
        ended.value.code == 0
        and f"usage: deepzero-sim {name}" in words
        and COMMANDS[name].description in " ".join(words.split())
    )


@pytest.mark.parametrize("words", [[], ["bench"], ["trian"], ["bench", "nothing"], ["--config", "a.yaml", "train"]])
def test_words_that_name_no_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "command" in capsys.readouterr().err


def test_all_settings_are_printed_as_a_file_that_gives_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "cge", "--batch", "7", "--workers.count", "3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert ended.value.code == 0
    assert read_command(["bench", "cge", "--config", str(tmp_path / "printed.yaml")])[1] == read_command(words)[1]
