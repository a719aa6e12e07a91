"""One program with every fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import compiled


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faults.c`, compiled."""
    return compiled(Path(__file__).with_name("faults.c"), tmp_path_factory.mktemp("programs"))
