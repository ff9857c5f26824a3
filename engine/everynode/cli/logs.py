"""How log lines are written: to stderr, for people or for machines.

Called once for each process, by `options.connected`. It is a module of its own because importing structlog takes
time that commands without a log need not spend.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO, cast

import structlog

from everynode.cli.terminal import stderr_is_terminal

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


# A traceback shows lines of code, never what variables held: pod templates are in them, and secrets in those.
_WITHOUT_VALUES = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


class _CurrentStderr:
    """Whatever stderr is when a line is written: what is shown live takes it over while it is there."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(level: str, log_format: str) -> None:
    """Set up structlog for this process.

    Args:
        level: `debug`, `info`, `warning` or `error`: lines below it are dropped.
        log_format: `json`: one JSON object a line. `console`: columns, with colour in a terminal.
    """
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        processors += [
            structlog.processors.ExceptionRenderer(_WITHOUT_VALUES),
            structlog.processors.JSONRenderer(),
        ]
    else:
        colors = stderr_is_terminal() and not os.environ.get("NO_COLOR")
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", _CurrentStderr())),
        cache_logger_on_first_use=True,
    )
