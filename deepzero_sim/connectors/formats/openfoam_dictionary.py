"""Lexer of OpenFOAM's dictionaries: where the entries of a file begin and end, whatever stands in and between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from deepzero_sim.connectors.formats.base import require_content
from deepzero_sim.errors import UnreadableOutputError

#: White space and comments, which may stand between any two words.
GAP = re.compile(rb"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)

STRING = re.compile(rb'"(?:\\.|[^"\\])*"', re.DOTALL)

#: Word: it ends where white space, a quotation mark, a comment or punctuation begins.
WORD = re.compile(rb"[^\s\"'/;{}()]+")

#: Keyword, which may have brackets in it: div(phi,U).
KEYWORD = re.compile(rb"[^\s\"'/;{}()]+(?:\([^\s\"'/;{}()]*\)[^\s\"'/;{}()]*)*")

#: Everything that tells where a value ends. A comment, string or piece of code that begins and does not end is `open`.
MARK = re.compile(
    rb"(?P<passed>//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|#\{.*?#\})|(?P<open>/\*|\"|#\{)|(?P<bracket>[{}();])"
    rb"|(?<![^\s\"'/;{}()])(?P<list>List<\w+>)",
    re.DOTALL,
)

COMMENT_OR_STRING = re.compile(rb"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"", re.DOTALL)

CLOSING = {b"(": b")", b"{": b"}"}

KIND = re.compile(rb"List<\w+>")
COUNT = re.compile(rb"\d{1,18}(?![^\s\"'/;{}()])")
END_OF_ROWS = re.compile(rb"\)\s*\)")

#: Number of components in one element of a list, by the name of its type.
NUMBERS = {
    **dict.fromkeys(("scalar", "sphericalTensor"), 1),
    **dict.fromkeys(("complex", "vector2D"), 2),
    **dict.fromkeys(("vector", "symmTensor2D"), 3),
    **dict.fromkeys(("symmTensor", "complexVector"), 6),
    "tensor2D": 4,
    "tensor": 9,
}

#: Number of words behind a directive that stands for an entry; one if it is not listed.
ARGUMENTS = {b"#else": 0, b"#endif": 0, b"#ifeq": 2}


@dataclass(frozen=True)
class Entry:
    """Entry of a dictionary, which may be a dictionary itself.

    Args:
        keyword: Name of the entry; for a directive such as `#include`, the directive.
        start: First byte of the keyword.
        value: First byte of the value; for a dictionary, the one behind its bracket.
        end: First byte behind the entry: behind its semicolon, its last bracket, or the last word of a directive.
    """

    keyword: bytes
    start: int
    value: int
    end: int
    is_dictionary: bool = False


@dataclass(frozen=True)
class List:
    """List of values.

    Args:
        kind: Type name of its elements; None if the file does not tell.
        count: Number of its elements; None if the file does not tell.
        opening: Opening bracket: `(`, or `{` around one value for all; empty for a list of none.
        start: First byte inside.
        end: First byte behind its last bracket; 0 as long as it is not known.
    """

    kind: str | None
    count: int | None
    opening: bytes
    start: int
    end: int


class Dictionary:
    """File of entries.

    Args:
        content: Content of the file.
        sizes: Bytes of an element of a binary list, by the name of its type; None if all is text.
    """

    def __init__(self, content: bytes, sizes: Mapping[str, int] | None = None) -> None:
        self.content, self._sizes = content, sizes
        self._searches = True

    def entries(self, within: Entry | None = None) -> Iterator[Entry]:
        """Find the entries of the file, or of a dictionary in it."""
        start, end = (0, len(self.content)) if within is None else (within.value, within.end - 1)
        place = self.skip_gap(start)
        while place < end:
            if self._at(place) == b";":
                place = self.skip_gap(place + 1)
                continue
            entry = self._entry(place)
            yield entry
            place = self.skip_gap(entry.end)

    def skip_gap(self, place: int) -> int:
        """Skip white space and comments."""
        gap = GAP.match(self.content, place)
        assert gap is not None
        return gap.end()

    def word(self, place: int) -> tuple[bytes, int]:
        """Read the word behind a gap: the word, empty if there is none, and the byte behind it."""
        place = self.skip_gap(place)
        match = WORD.match(self.content, place)
        return (b"", place) if match is None else (match[0], match.end())

    def text(self, entry: Entry) -> bytes:
        """Read the value of an entry that is no dictionary, without comments."""
        return strip_comments(self.content[entry.value : entry.end - 1]).strip()

    def list_at(self, place: int) -> List | None:
        """Read where a list begins and ends; None if there is none."""
        word, behind = self.word(place)
        head = self._list_head(place, None) if KIND.fullmatch(word) is None else self._list_head(behind, word)
        if head is None or head.end:
            return head
        end = self._end_of_list(head) or self._end_of_value(CLOSING[head.opening], head.start)
        return replace(head, end=end)

    def _list_head(self, place: int, word: bytes | None) -> List | None:
        """Read the beginning of a list, and its end where there is nothing in it."""
        kind = None if word is None else word[5:-1].decode()
        place = self.skip_gap(place)
        match = COUNT.match(self.content, place)
        count, behind = (None, place) if match is None else (int(match[0]), match.end())
        start = self.skip_gap(behind)
        opening = self._at(start)
        if opening in CLOSING:
            return List(kind, count, opening, start + 1, 0)
        return List(kind, 0, b"", behind, behind) if count == 0 else None

    def _end_of_list(self, head: List) -> int | None:
        """Find the end of a list of numbers without reading them; None where only reading its brackets tells."""
        if head.kind is None or head.opening != b"(":
            return None
        if self._sizes is not None and head.count is not None:
            return self._end_of_bytes(head.start, head.kind, head.count, self._sizes)
        return self._end_of_rows(head.start, head.kind)

    def _end_of_bytes(self, place: int, kind: str, count: int, sizes: Mapping[str, int]) -> int:
        require_content(kind in sizes, f"holds a binary list of {kind!r}, whose size is not known: write it as ascii")
        end = place + count * sizes[kind]
        whole = self._at(end) == b")"
        require_content(whole, f"has no whole list of {count} values: it is truncated, or of another format")
        return end + 1

    def _end_of_rows(self, place: int, kind: str) -> int | None:
        """Find the end of a list of text in one search; None where a comment, or anything else, is in the way.

        After the first list where that fails all others are read bracket by bracket: searches in vain would add up.
        """
        if not self._searches or kind not in NUMBERS:
            return None
        if kind == "scalar" or self._at(self.skip_gap(place)) == b")":
            end = self.content.find(b")", place) + 1
        else:
            match = END_OF_ROWS.search(self.content, place)
            end = 0 if match is None else match.end()
        self._searches = end > 0 and self.content.find(b"/", place, end) < 0
        return end if self._searches else None

    def _entry(self, start: int) -> Entry:
        match = STRING.match(self.content, start) or KEYWORD.match(self.content, start)
        if match is None:
            raise self._misfit(start, "where the name of an entry should be")
        keyword, place = match[0], self.skip_gap(match.end())
        if keyword.startswith(b"#"):
            return Entry(keyword, start, place, self._skip_arguments(keyword, match.end()))
        if self._at(place) == b"{":
            return Entry(keyword, start, place + 1, self._end_of_value(b"}", place + 1), is_dictionary=True)
        return Entry(keyword, start, place, self._end_of_value(b";", place))

    def _skip_arguments(self, directive: bytes, place: int) -> int:
        if directive == b"#if":  # a condition is the rest of its line
            end = self.content.find(b"\n", place)
            return len(self.content) if end < 0 else end
        for _ in range(ARGUMENTS.get(directive, 1)):
            place = self._skip_argument(self.skip_gap(place))
        return place

    def _skip_argument(self, place: int) -> int:
        opening = self._at(place)
        if opening in CLOSING:
            return self._end_of_value(CLOSING[opening], place + 1)
        match = STRING.match(self.content, place) or WORD.match(self.content, place)
        if match is None:
            raise self._misfit(place, "where a word should be")
        return match.end()

    def _end_of_value(self, closing: bytes, place: int) -> int:
        """Find the byte behind what closes a value: a semicolon or bracket that belongs to nothing inside."""
        awaited = [closing]
        while awaited:
            mark = MARK.search(self.content, place)
            if mark is None or mark["open"]:
                raise UnreadableOutputError(f"ends before the {awaited[-1].decode()!r} that it needs: it is truncated")
            place = mark.end()
            if mark["list"]:
                place = self._skip_list(place, mark["list"])
            elif bracket := mark["bracket"]:
                self._match(bracket, awaited, mark.start())
        return place

    def _skip_list(self, place: int, word: bytes) -> int:
        """Skip a list whose end is found without reading it; one of others is read on from its first bracket."""
        head = self._list_head(place, word)
        return place if head is None else self._end_of_list(head) or place

    def _match(self, bracket: bytes, awaited: list[bytes], place: int) -> None:
        if bracket in CLOSING:
            awaited.append(CLOSING[bracket])
        elif bracket == awaited[-1]:
            awaited.pop()
        elif bracket != b";":
            raise self._misfit(place, f"where {awaited[-1].decode()!r} should come first")

    def _at(self, place: int) -> bytes:
        return self.content[place : place + 1]

    def _misfit(self, place: int, expected: str) -> UnreadableOutputError:
        line = self.content.count(b"\n", 0, place) + 1
        excerpt = self.content[place : place + 20].decode(errors="replace")
        return UnreadableOutputError(f"has {excerpt!r} on line {line} {expected}")


def strip_comments(text: bytes) -> bytes:
    """Replace comments by blanks, but nothing that looks like one within a string."""
    return COMMENT_OR_STRING.sub(lambda match: match[0] if match[0].startswith(b'"') else b" ", text)


def has_macros(text: bytes) -> bool:
    """Tell whether text without comments must be evaluated: `$name`, `#calc` and their kin, outside of strings."""
    return re.search(rb"[$#]", STRING.sub(b"", text)) is not None
