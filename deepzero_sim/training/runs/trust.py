"""Trust in run folders: a run's settings name code that is imported and programs that are run to evaluate it.

What a user has trained with on this machine, or has trusted before, is noted as a digest in the user's own folder: a run folder
cannot say of itself that it is trusted. Solvers and networks of this package that only compute need no trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deepzero_sim.common.components import Component
from deepzero_sim.common.files import write_text

#: Prefixes of the package's names that neither import files nor run programs, whatever their arguments are.
_ONLY_COMPUTE = ("deepzero_sim.solvers.", "deepzero_sim.models.")

#: Most letters of a component that are shown.
LONGEST = 600

#: Digests trusted in this process: the folder may not be writable.
_trusted: set[str] = set()


def without_trust(parts: Mapping[str, Component], origin: Path | None = None) -> dict[str, Component]:
    """Select the parts of a run that would import or run what nobody has trusted here.

    Args:
        parts: Parts by their settings.
        origin: Folder where relative names are found; None for the current one.
    """
    return {
        key: part for key, part in parts.items() if not _only_computes(part.name) and not _is_trusted(_digest(part, origin))
    }


def trust_parts(parts: Mapping[str, Component], origin: Path | None = None) -> None:
    """Trust the parts of a run from now on, on this machine where its user has a folder that can be written."""
    for part in without_trust(parts, origin).values():
        digest = _digest(part, origin)
        _trusted.add(digest)
        folder = _folder()
        if folder is not None:
            with suppress(OSError):
                write_text(folder / digest, f"{words_of(part)}\n")


def words_of(part: Component) -> str:
    """Write a component as a call, in at most a few lines, and without letters that a terminal might act on."""
    args = ", ".join(f"{key}={value!r}" for key, value in part.args.items())
    words = f"{part.name}({args})".encode("unicode_escape").decode()
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} ... and more"


def _only_computes(name: str) -> bool:
    """Tell short names, and those of this package, from others; a file may lie in a folder of any name."""
    return ":" not in name and ("." not in name or name.startswith(_ONLY_COMPUTE))


def _is_trusted(digest: str) -> bool:
    folder = _folder()
    return digest in _trusted or (folder is not None and (folder / digest).is_file())


def _digest(part: Component, origin: Path | None) -> str:
    """Hash a name and its arguments, and the folder where files and programs are looked for by relative names."""
    folder = os.getcwd() if origin is None else str(origin)  # noqa: PTH109
    file = ":" in part.name and not Path(part.name).is_absolute()
    relative = file or part.name.startswith("deepzero_sim.")
    args = _as_pairs(part.args)
    text = json.dumps([part.name, args, folder if relative else None], default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _as_pairs(value: Any) -> Any:
    """Write mappings as lists of pairs in one order, whatever types their keys have: 1 and "1" are two."""
    if isinstance(value, Mapping):
        return sorted(([repr(key), _as_pairs(item)] for key, item in value.items()), key=lambda pair: str(pair[0]))
    return [_as_pairs(item) for item in value] if isinstance(value, list | tuple) else value


def _folder() -> Path | None:
    """Return the user's folder for what is neither settings nor data; None without a home."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        state = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return state / "deepzero-sim" / "trusted"
