"""What would have been decided in a world that somebody else recorded, as `replay` prints it.

It prints while it reads, so that memory does not depend on how long that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from everynode import wire
from everynode.cli.decisions import DECISION_HEADER, decision_row
from everynode.cli.exits import ExitCode
from everynode.cli.options import OutputFormat
from everynode.cli.output import print_objects
from everynode.cli.tables import Columns
from everynode.cli.terminal import note_line
from everynode.core.commands import Decision
from everynode.core.events import StatusReported
from everynode.core.state import Record
from everynode.core.values import SetKey, Status
from everynode.replay.rehearsed import RehearsedStream
from everynode.replay.streams import Stream
from everynode.runtime.clock import timestamp

_SUM_HEADER = ("DAEMONSET", "DECISIONS", "CREATES", "DELETES", "OTHERS", "DESIRED", "READY")


@dataclass
class _Sum:
    """What was decided about one set."""

    decisions: int = 0
    creates: int = 0
    deletes: int = 0
    others: int = 0
    status: Status | None = None

    def add(self, decision: Decision) -> None:
        """Count one more."""
        counts = decision.counts
        self.decisions += 1
        self.creates += counts.creates
        self.deletes += counts.deletes
        self.others += counts.adopts + counts.releases

    def row(self, key: SetKey) -> list[str]:
        """Write it as a row, with how it is at the end."""
        status = self.status
        numbers = [self.decisions, self.creates, self.deletes, self.others]
        at_the_end = (
            [0, 0] if status is None else [status.desired_number_scheduled, status.number_ready]
        )
        return [str(key), *map(str, [*numbers, *at_the_end])]


@dataclass
class _Summed:
    """What was decided, by set."""

    sets: dict[SetKey, _Sum] = field(default_factory=dict)

    def decisions(self, records: Iterator[Record]) -> Iterator[tuple[Record, Decision]]:
        """Hand out the decisions, and count."""
        for record in records:
            match record.message:
                case Decision() as decision:
                    self._sum(decision.set_key).add(decision)
                    yield record, decision
                case StatusReported(status=status):
                    self._sum(status.set_key).status = status
                case _:
                    pass

    def _sum(self, key: SetKey) -> _Sum:
        return self.sets.setdefault(key, _Sum())


def print_rehearsal(stream: Stream, output: OutputFormat) -> ExitCode:
    """Print each decision that would have been made, and how it ends.

    Raises:
        RecordingError: The stream cannot be read on; what was decided before was printed.
    """
    rehearsed, summed = RehearsedStream(stream), _Summed()
    if output is not OutputFormat.TABLE:
        print_objects(_documents(rehearsed.run()), output)
        return ExitCode.DONE
    columns: Columns | None = None
    for record, decision in summed.decisions(rehearsed.run()):
        row = decision_row(record.sequence, record.time_ms, decision)
        if columns is None:
            columns = Columns(DECISION_HEADER, [row])
            columns.print()
        else:
            columns.print_row(row)
    if columns is not None:
        print()
    Columns(_SUM_HEADER, [each.row(key) for key, each in sorted(summed.sets.items())]).print()
    count = sum(each.decisions for each in summed.sets.values())
    note_line(f"{stream.name}: {rehearsed.messages} messages, {count} decisions")
    return ExitCode.DONE


def _documents(records: Iterator[Record]) -> Iterator[dict[str, Any]]:
    """Write each decision with the messages of its batch."""
    document: dict[str, Any] = {}
    left = 0
    for record in records:
        message = record.message
        if isinstance(message, Decision):
            left = message.size + 1
            document = {
                "sequence": record.sequence,
                "time": timestamp(record.time_ms),
                "messages": [],
            }
        if left:
            left -= 1
            text = wire.encode(message)  # type: ignore[arg-type] # a rehearsal writes such messages only
            document["messages"].append(msgspec.Raw(text))
            if not left:
                yield document
