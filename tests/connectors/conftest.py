"""Programs of these tests work in folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where working folders are made: a folder of the test's own."""
    (base := tmp_path / "folders").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(base))
    return base
