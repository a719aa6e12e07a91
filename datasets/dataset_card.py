"""Card of a data file: Markdown for people, signed so that no other file is ever mistaken for one and replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from deepzero_sim.datasets.hdf5 import not_a_file
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec

#: Bytes of the largest file that may be a card.
LARGEST = 2**24


def card_path(path: Path) -> Path:
    """Path of a data file's card."""
    return path.with_suffix(".md")


def card_text(path: Path, data: Trajectories, spec: SolverSpec) -> str:
    """Text of a card, signed.

    Args:
        path: Path of the data file.
        data: Content of the data file.
        spec: Spec of the source solver.
    """
    return sign(_describe(path, data, spec), path)


def sign(text: str, path: Path) -> str:
    """Add a last line that says whose card it is, and what the text was.

    Args:
        text: Text of the card.
        path: Path of the data file.
    """
    digest = hashlib.sha256(f"{path.name}\n{text}".encode("utf-8", "surrogateescape")).hexdigest()
    line = f"deepzero-sim generate made this with {path.name} and replaces it, unless it was changed: {digest}"
    return f"{text}\n<!-- {line} -->\n"


def is_signed(card: Path, path: Path) -> bool:
    """Tell a card that was made with a data file, and not changed since."""
    if not_a_file(card) or card.stat().st_size > LARGEST:
        return False
    content = card.read_bytes().decode("utf-8", "surrogateescape")
    text, _, _ = content.rpartition("\n<!--")
    return content == sign(text, path)


def _describe(path: Path, data: Trajectories, spec: SolverSpec) -> str:
    simulations, frames = data.frames.shape[:2]
    made = data.attributes["settings"]["simulations"]
    units = [f" ({unit})" for unit in spec.channel_units] or [""] * len(spec.channels)
    channels = ", ".join(f"`{c}`{u}" for c, u in zip(spec.channels, units, strict=True)) or "unnamed"
    rows = "\n".join(f"| {i} | {' | '.join(f'{value:.6g}' for value in row)} |" for i, row in enumerate(data.params))
    return f"""# {path.name}

{simulations} simulations of {frames} frames on the grid of solver `{spec.name}`, one step (dt = {spec.dt:g}) apart, after
{made["discard"]} discarded steps. Each is computed by `{made["reference"]["name"]}` with {made["reference"]["args"]} and
restricted by `{made["restrict"]}`.

| | |
| --- | --- |
| states | `(C, *N)` = {spec.state_shape}, {spec.dtype} |
| channels | {channels} |
| source solver | `{made["source"]["name"]}` with {made["source"]["args"]} |
| initial states | `{made["initial"]}` |
| standard deviation of the channels | {", ".join(f"{s:.4g}" for s in data.scales()[0])} |
| software | {", ".join(f"{k} {v}" for k, v in data.attributes["software"].items())} |

| simulation | {" | ".join(spec.parameters) or "no parameters"} |
| --- | {" | ".join("---" for _ in spec.parameters) or "---"} |
{rows}
"""
