"""The error that every command prints the same way: what went wrong, and what to do about it."""

from __future__ import annotations


class ChopstickError(Exception):
    """A failure that a person can act on.

    `message` names the input that is wrong; `remedy` says what to try. The command line prints
    both to standard error and exits with `exit_code`.
    """

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message
