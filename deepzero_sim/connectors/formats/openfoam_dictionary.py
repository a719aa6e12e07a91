"""Lexical rules of OpenFOAM's dictionaries: where the entries of a file begin and end, whatever stands in and between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from deepzero_sim.errors import UnreadableOutputError

#: White space and comments, which may stand between any two words.
GAP = re.compile(rb"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)

STRING = re.compile(rb'"(?:\\.|[^"\\])*"', re.DOTALL)

#: A word ends where white space, a quotation mark, a comment or punctuation begins.
WORD = re.compile(rb"[^\s\"'/;{}()]+")

#: Brackets may be part of a keyword: div(phi,U).
KEYWORD = re.compile(rb"[^\s\"'/;{}()]+(?:\([^\s\"'/;{}()]*\)[^\s\"'/;{}()]*)*")

#: All that tells where a value ends. What begins and does not end is `open`.
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

#: Numbers in one element of a list, by the name of its type.
NUMBERS = {
    "scalar": 1,
    "sphericalTensor": 1,
    "complex": 2,
    "vector2D": 2,
    "vector": 3,
    "symmTensor2D": 3,
    "tensor2D": 4,
    "symmTensor": 6,
    "complexVector": 6,
    "tensor": 9,
}

#: Words behind a directive that stands for an entry; one if it is not listed.
ARGUMENTS = {b"#else": 0, b"#endif": 0, b"#ifeq": 2}


@dataclass(frozen=True)
class Entry:
    """An entry of a dictionary.

    Args:
        keyword: its name; of a directive such as `#include`, the directive.
        start: the first byte of its keyword.
        value: the first byte of its value; of a dictionary, the one behind its bracket.
        end: the byte behind it: behind its semicolon, its last bracket, or the last word of a directive.
        is_dictionary: whether it has entries of its own.
    """

    keyword: bytes
    start: int
    value: int
    end: int
    is_dictionary: bool = False


@dataclass(frozen=True)
class List:
    """A list of values.

    Args:
        kind: what its elements are called; None if it does not say.
        count: how many they are; None if it does not say.
        opening: the bracket: `(`, or `{` around one value for all; empty for a list of none.
        start: the first byte inside.
        end: the byte behind its last bracket; 0 as long as it is not known.
    """

    kind: str | None
    count: int | None
    opening: bytes
    start: int
    end: int


class Dictionary:
    """A file of entries.

    Args:
        content: of the file.
        sizes: bytes of an element of a binary list, by the name of its type; None if all is text.
    """

    def __init__(self, content: bytes, sizes: Mapping[str, int] | None = None) -> None:
        self.content, self._sizes = content, sizes
        self._searches = True

    def entries(self, within: Entry | None = None) -> Iterator[Entry]:
        """Find the entries of the file, or of a dictionary in it.

        Raises:
            UnreadableOutputError: the rules are broken: the file is truncated, or garbage.
        """
        start, end = (0, len(self.content)) if within is None else (within.value, within.end - 1)
        place = self.after_gap(start)
        while place < end:
            if self._at(place) == b";":
                place = self.after_gap(place + 1)
                continue
            entry = self._entry(place)
            yield entry
            place = self.after_gap(entry.end)

    def after_gap(self, place: int) -> int:
        """Skip white space and comments."""
        found = GAP.match(self.content, place)
        assert found is not None
        return found.end()

    def word(self, place: int) -> tuple[bytes, int]:
        """Read the word behind a gap: the word, empty if there is none, and the byte behind it."""
        place = self.after_gap(place)
        found = WORD.match(self.content, place)
        return (b"", place) if found is None else (found[0], found.end())

    def text(self, entry: Entry) -> bytes:
        """Read the value of an entry that is no dictionary, without comments."""
        return without_comments(self.content[entry.value : entry.end - 1]).strip()

    def list_at(self, place: int) -> List | None:
        """Read where a list begins and ends; None if there is none."""
        word, behind = self.word(place)
        found = self._opened(place, None) if KIND.fullmatch(word) is None else self._opened(behind, word)
        if found is None or found.end:
            return found
        end = self._after_numbers(found) or self._past(CLOSING[found.opening], found.start)
        return replace(found, end=end)

    def _opened(self, place: int, word: bytes | None) -> List | None:
        """Read the beginning of a list, and its end where there is nothing in it."""
        kind = None if word is None else word[5:-1].decode()
        place = self.after_gap(place)
        counted = COUNT.match(self.content, place)
        count, after_count = (None, place) if counted is None else (int(counted[0]), counted.end())
        start = self.after_gap(after_count)
        opening = self._at(start)
        if opening in CLOSING:
            return List(kind, count, opening, start + 1, 0)
        return List(kind, 0, b"", after_count, after_count) if count == 0 else None

    def _after_numbers(self, opened: List) -> int | None:
        """Find the end of a list of numbers without reading them; None where only reading its brackets tells."""
        if opened.kind is None or opened.opening != b"(":
            return None
        if self._sizes is not None and opened.count is not None:
            return self._after_bytes(opened.start, opened.kind, opened.count)
        return self._after_rows(opened.start, opened.kind)

    def _after_bytes(self, place: int, kind: str, count: int) -> int:
        assert self._sizes is not None
        if kind not in self._sizes:
            raise UnreadableOutputError(f"holds a binary list of {kind!r}, whose size is not known: write it as ascii")
        end = place + count * self._sizes[kind]
        if self._at(end) != b")":
            raise UnreadableOutputError(f"has no whole list of {count} values: it is truncated, or of another format")
        return end + 1

    def _after_rows(self, place: int, kind: str) -> int | None:
        """Find the end of a list of text in one search; None where a comment, or anything else, is in the way.

        After the first list where that fails all others are read bracket by bracket: searches in vain would add up.
        """
        if not self._searches or kind not in NUMBERS:
            return None
        if kind == "scalar" or self._at(self.after_gap(place)) == b")":
            end = self.content.find(b")", place) + 1
        else:
            found = END_OF_ROWS.search(self.content, place)
            end = 0 if found is None else found.end()
        self._searches = end > 0 and self.content.find(b"/", place, end) < 0
        return end if self._searches else None

    def _entry(self, start: int) -> Entry:
        found = STRING.match(self.content, start) or KEYWORD.match(self.content, start)
        if found is None:
            raise UnreadableOutputError(f"has {self._shown(start)} where the name of an entry should be")
        keyword, place = found[0], self.after_gap(found.end())
        if keyword.startswith(b"#"):
            return Entry(keyword, start, place, self._after_arguments(keyword, found.end()))
        if self._at(place) == b"{":
            return Entry(keyword, start, place + 1, self._past(b"}", place + 1), is_dictionary=True)
        return Entry(keyword, start, place, self._past(b";", place))

    def _after_arguments(self, directive: bytes, place: int) -> int:
        if directive == b"#if":  # a condition is the rest of its line
            end = self.content.find(b"\n", place)
            return len(self.content) if end < 0 else end
        for _ in range(ARGUMENTS.get(directive, 1)):
            place = self._after_word(self.after_gap(place))
        return place

    def _after_word(self, place: int) -> int:
        opening = self._at(place)
        if opening in CLOSING:
            return self._past(CLOSING[opening], place + 1)
        found = STRING.match(self.content, place) or WORD.match(self.content, place)
        if found is None:
            raise UnreadableOutputError(f"has {self._shown(place)} where a word should be")
        return found.end()

    def _past(self, closing: bytes, place: int) -> int:
        """Find the byte behind what closes a value: a semicolon or bracket that belongs to nothing inside."""
        awaited = [closing]
        while awaited:
            found = MARK.search(self.content, place)
            if found is None or found["open"]:
                raise UnreadableOutputError(f"ends before the {awaited[-1].decode()!r} that it needs: it is truncated")
            place = found.end()
            if found["list"]:
                place = self._past_numbers(place, found["list"])
            elif mark := found["bracket"]:
                self._match(mark, awaited, found.start())
        return place

    def _past_numbers(self, place: int, word: bytes) -> int:
        """Skip a list whose end is found without reading it; one of others is read on from its first bracket."""
        opened = self._opened(place, word)
        return place if opened is None else self._after_numbers(opened) or place

    def _match(self, mark: bytes, awaited: list[bytes], place: int) -> None:
        if mark in CLOSING:
            awaited.append(CLOSING[mark])
        elif mark == awaited[-1]:
            awaited.pop()
        elif mark != b";":
            raise UnreadableOutputError(f"has {self._shown(place)} where {awaited[-1].decode()!r} should come first")

    def _at(self, place: int) -> bytes:
        return self.content[place : place + 1]

    def _shown(self, place: int) -> str:
        line = self.content.count(b"\n", 0, place) + 1
        return f"{self.content[place : place + 20].decode(errors='replace')!r} on line {line}"


def without_comments(text: bytes) -> bytes:
    """Replace comments by blanks, but not what looks like one within a string."""
    return COMMENT_OR_STRING.sub(lambda found: found[0] if found[0].startswith(b'"') else b" ", text)


def has_macros(text: bytes) -> bool:
    """Tell whether text without comments must be evaluated: `$name`, `#calc` and their kin, outside of strings."""
    return re.search(rb"[$#]", STRING.sub(b"", text)) is not None
