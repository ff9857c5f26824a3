"""Decisions as rows of a table. Used by `replay` for those that are made again and those that would have been."""

from __future__ import annotations

from everynode.cli.tables import NONE, Row
from everynode.core.commands import Decision
from everynode.runtime.clock import timestamp

DECISION_HEADER = (
    "SEQUENCE",
    "TIME",
    "DAEMONSET",
    "CREATES",
    "DELETES",
    "OTHERS",
    "WORKER",
    "REASONS",
)


def decision_row(sequence: int, time_ms: int, decision: Decision) -> Row:
    """Write a decision as a row.

    Args:
        sequence: Its place in the log.
        time_ms: When the log took it in, in ms since 1970.
        decision: What was decided.
    """
    counts = decision.counts
    reasons = ", ".join(f"{each.reason} {each.count}" for each in decision.reasons)
    return [
        str(sequence),
        timestamp(time_ms),
        str(decision.set_key),
        str(counts.creates),
        str(counts.deletes),
        str(counts.adopts + counts.releases),
        decision.worker,
        reasons or NONE,
    ]
