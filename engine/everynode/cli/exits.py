"""What the exit codes mean: one number for each thing that a script can do about it.

Used by every command. The epilog of `everynode --help` and docs/cli.md say the same in words.
"""

from __future__ import annotations

from enum import IntEnum

from everynode.errors import EverynodeError, OutcomeUnknownError, UnavailableError


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    REFUSED = 1
    """Something was refused, was not found, or did not happen in time; the rest was done."""
    USAGE = 2
    NO_ANSWER = 3
    """The log, or whoever was asked, did not answer: trying again later may help."""
    INTERRUPTED = 130


def exit_code_of(error: EverynodeError) -> ExitCode:
    """Say how a command ends that this error ended."""
    if isinstance(error, UnavailableError | OutcomeUnknownError):
        return ExitCode.NO_ANSWER
    return ExitCode.REFUSED
