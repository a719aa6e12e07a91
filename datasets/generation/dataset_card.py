"""Card of a data file: Markdown for people, signed so that no other file is ever mistaken for one and replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from deepzero_sim.datasets.hdf5 import not_a_file
from deepzero_sim.datasets.trajectories import Trajectories
from deepzero_sim.solver.spec import SolverSpec

#: Bytes of the largest file that may be a card.
LARGEST = 2**24


def card_path(path: Path) -> Path:
    """Path of a data file's card."""
    return path.with_suffix(".md")


def card_text(
    path: Path, data: Trajectories, spec: SolverSpec, seeds: Sequence[int | None] = (), identical: str | None = None
) -> str:
    """Text of a card, signed.

    Args:
        path: Path of the data file.
        data: Content of the data file.
        spec: Spec of the source solver.
        seeds: Seed of the initial state of each simulation, None where there is none.
        identical: Sentence that says which simulations are the same; None if no two are.
    """
    return sign(_describe(path, data, spec, seeds, identical), path)


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


def _describe(path: Path, data: Trajectories, spec: SolverSpec, seeds: Sequence[int | None], identical: str | None) -> str:
    simulations, frames = data.frames.shape[:2]
    made = data.attributes["settings"]["simulations"]
    units = [f" ({unit})" for unit in spec.channel_units] or [""] * len(spec.channels)
    channels = ", ".join(f"`{c}`{u}" for c, u in zip(spec.channels, units, strict=True)) or "unnamed"
    warning = "" if identical is None else f"\n{identical[0].upper()}{identical[1:]}\n"
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

{_table(data, spec, seeds)}
{warning}"""


def _table(data: Trajectories, spec: SolverSpec, seeds: Sequence[int | None]) -> str:
    """Tabulate the simulations: their parameters, and the seeds of their initial states if they have some."""
    seeded = any(seed is not None for seed in seeds)
    columns = [*spec.parameters, *(["seed of the initial state"] if seeded else [])] or ["no parameters"]
    rows = [[f"{value:.6g}" for value in row] for row in data.params]
    if seeded:
        rows = [[*row, str(seed)] for row, seed in zip(rows, seeds, strict=True)]
    head = [f"| simulation | {' | '.join(columns)} |", f"| --- | {' | '.join('---' for _ in columns)} |"]
    return "\n".join([*head, *(f"| {i} | {' | '.join(row)} |" for i, row in enumerate(rows))])
