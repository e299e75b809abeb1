"""An expected failure of a command: what is wrong, how to mend it, and the exit code."""

from __future__ import annotations


class Fault(Exception):
    """Ends a command with one or two lines on standard error, and never a traceback."""

    def __init__(self, message: str, hint: str = "", *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message, self.hint, self.exit_code = message, hint, exit_code

    def __str__(self) -> str:
        return f"anyport: {self.message}" + (f"\n  {self.hint}" if self.hint else "")
