"""Errors that nobody expected, as text for the log.

Used where an adapter's code is called: what it raises is reported and survived. The text has the lines of code, and not
the values of variables, as a log's own traceback may: those hold pod templates, and templates hold secrets.
"""

from __future__ import annotations

import traceback

TRACEBACK_CHARACTERS_MAX = 8_000


def traceback_of(error: BaseException) -> str:
    """Say where an error came from; of a very long text the end, which says most."""
    return "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS_MAX:]
