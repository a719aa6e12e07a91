"""Kinds of workers by name."""

from __future__ import annotations

from typing import Literal, TypeAlias

Backend: TypeAlias = Literal["serial", "thread", "process", "ranks"]
