"""What a source of images holds besides them: counted, and said."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import PurePosixPath

#: Kinds of files that a sentence lists.
LISTED = 5


class LeftOut:
    """Files that are not used, by the reason."""

    def __init__(self) -> None:
        self._kinds: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, reason: str, name: str) -> None:
        """Count a file.

        Args:
            reason: in words that continue "left out 3 files".
            name: of the file.
        """
        self._kinds[reason][_kind(name)] += 1

    def sentences(self) -> list[str]:
        """A sentence for each reason, such as "left out 3 files that are not read as images (.txt 2, README 1)"."""
        said = []
        for reason, kinds in self._kinds.items():
            total = kinds.total()
            listed = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(LISTED))
            more = ", ..." if len(kinds) > LISTED else ""
            said.append(f"left out {total} {'file' if total == 1 else 'files'} {reason} ({listed}{more})")
        return said

    def in_parentheses(self) -> str:
        """All sentences, to be put behind what is missing; nothing if nothing was left out."""
        return f" ({'; '.join(self.sentences())})" if self._kinds else ""


def _kind(name: str) -> str:
    """What names of files have in common: their suffix, or else all of it."""
    path = PurePosixPath(name)
    if path.name.startswith("._"):
        return "._*"
    return path.suffix.lower() or path.name
