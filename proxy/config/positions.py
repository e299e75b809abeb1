"""Where each key and value of a TOML document stands, which `tomllib` does not tell.

The text has already been read by `tomllib`, so it is valid: this only finds places, it judges nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

Path = tuple[str | int, ...]

_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
# The longest quotes first; a text in three quotes may end with one or two more of them.
_TEXT: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters start to end of the text."""

    start: int
    end: int


class Positions:
    """The places in one valid document."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.keys: dict[Path, Span] = {}  # where a key, or the header of a table, was first written
        self.values: dict[Path, Span] = {}
        self._starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        self._counts: dict[Path, int] = {}  # elements so far of each array of tables
        self._at = 0
        self._last = Span(0, 0)  # the header read last
        self._document()

    def line(self, offset: int) -> tuple[int, int]:
        """Return (line from 1, column from 0) of the character at *offset*."""
        row = bisect_right(self._starts, offset)
        return row, offset - self._starts[row - 1]

    def line_start(self, line: int) -> int:
        """Return the offset of the first character of *line*."""
        return self._starts[line - 1]

    def line_text(self, line: int) -> str:
        """Return what stands on *line*, without its end."""
        return self.text[self._starts[line - 1] :].split("\n", 1)[0]

    def _document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self.text):
            if self.text.startswith("[[", self._at):
                table = self._header(2)
                count = self._counts[table] = self._counts.get(table, -1) + 1
                self.keys.setdefault(table, self._last)
                table = (*table, count)
                self.keys[table] = self._last
            elif self.text[self._at] == "[":
                table = self._header(1)
                self.keys[table] = self._last
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self, brackets: int) -> Path:
        start = self._at
        self._at += brackets
        parts = self._key()
        self._skip(_SPACE)
        self._at += brackets
        self._last = Span(start, self._at)
        path: Path = ()
        for depth, (part, span) in enumerate(parts):
            path = (*path, part)
            last = depth == len(parts) - 1
            if not last:
                self.keys.setdefault(path, span)
            if path in self._counts and not (last and brackets == 2):
                path = (*path, self._counts[path])  # [a.b] after [[a]] means the newest element of a
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for part, span in self._key():
            path = (*path, part)
            self.keys.setdefault(path, span)
        self._skip(_SPACE)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _key(self) -> list[tuple[str, Span]]:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._at
            quoted = self.text[start] in "\"'"
            self._skip(_TEXT if quoted else _BARE)
            raw = self.text[start : self._at]
            parts.append((tomllib.loads(f"k={raw}")["k"] if quoted else raw, Span(start, self._at)))
            self._skip(_SPACE)
            if self.text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        start, first = self._at, self.text[self._at]
        if first in "\"'":
            self._skip(_TEXT)
        elif first == "[":
            self._items(path, "]")
        elif first == "{":
            self._items(path, "}")
        else:
            self._skip(_SCALAR)
            self._at = start + len(self.text[start : self._at].rstrip())
        self.values[path] = Span(start, self._at)

    def _items(self, path: Path, close: str) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self.text[self._at] == close:
                self._at += 1
                return
            if self.text[self._at] == ",":
                self._at += 1
            elif close == "]":
                self._value((*path, index))
                index += 1
            else:
                self._pair(path)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self._at)
        self._at = match.end() if match else self._at
