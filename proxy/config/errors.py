"""What is wrong with a configuration: all of it, each with its place and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One thing to mend. `text` is never a secret."""

    source: str  # the file, or the name of the environment variable
    line: int = 0  # from 1; 0: no line, as with a missing file or a variable
    column: int = 0  # from 0, within `text`
    width: int = 0  # characters of `text` to underline; 0: none
    key: str = ""  # dotted, such as service[0].ecs.port
    text: str = ""  # the offending line
    message: str  # what is wrong, and of what
    hint: str = ""  # what to write instead

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        lines = [f"{place}: {self.message}"]
        if self.text:
            lines.append(f"{self.line or '':>5} | {self.text}")
        if self.text and self.width:
            lines.append(f"      | {' ' * self.column}{'^' * self.width} {self.hint}".rstrip())
        elif self.hint:
            lines.append(f"      = {self.hint}")
        return "\n".join(map(_printable, lines))


def _printable(line: str) -> str:
    """Return *line* with as many columns, and nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in line)


class ConfigError(Exception):
    """The configuration cannot be used; `issues` is every reason, in the order of the file."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(issues)
        self.issues = tuple(issues)

    def __str__(self) -> str:
        return "\n".join(str(issue) for issue in self.issues)
