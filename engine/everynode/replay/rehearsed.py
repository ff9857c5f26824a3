"""A stream that tells of a world where nobody of ours was: what would have been decided there.

Used by the command line for what others recorded. What happened there by itself happens here, and pods take as long as
they did there, as far as that was heard of by then. Memory depends on the fleet, not on how long the stream is. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator

from everynode.core.state import Record
from everynode.replay.durations import Durations
from everynode.replay.outside import Outside
from everynode.replay.rehearsal import Rehearsal
from everynode.replay.replaying import renaming
from everynode.replay.streams import Stream, record_of


class RehearsedStream:
    """What would have been.

    Args:
        stream: What there was.

    Attributes:
        messages: How many messages of the stream were read.
    """

    def __init__(self, stream: Stream) -> None:
        """Start before the first message."""
        self.messages = 0
        self._stream = stream
        self._durations = Durations()
        self._outside = Outside(is_decided=stream.is_decided)
        self._rehearsal = Rehearsal(
            stream.subjects.shards, self._durations, naming=renaming(stream.renamed)
        )

    def run(self) -> Iterator[Record]:
        """Read the stream to its end; hands out what would stand on the log.

        Raises:
            RecordingError: It cannot be read on; all before that was taken in.
        """
        rehearsal, has_begun = self._rehearsal, False
        for entry in self._stream.entries:
            self.messages += 1
            record = record_of(self._stream.subjects, entry.received)
            if record is None:
                continue
            is_outside = self._outside.is_outside(record.message)
            self._durations.learn(record.time_ms, record.message)
            if entry.is_kept:
                rehearsal.load(record)
                continue
            if not has_begun:
                has_begun = True
                rehearsal.begin(record.time_ms)
            if is_outside:
                yield from rehearsal.happen(record.time_ms, record.message)
        yield from rehearsal.settle()
