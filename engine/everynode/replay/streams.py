"""What can be replayed: the messages of a fleet in their order, wherever they come from.

A recording is one, and so is what somebody else recorded (``sources``); all that reads the past takes a ``Stream``. It
knows nothing of files, a terminal or NATS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from everynode import wire
from everynode.core.state import Record
from everynode.errors import MalformedMessageError
from everynode.ports import Received
from everynode.replay.recording import Entry, Reader


class Stream(NamedTuple):
    """The messages of a fleet, to be read once.

    Attributes:
        name: What to call it in errors.
        subjects: The fleet's subjects.
        entries: First what was so before, then what happened.
        from_sequence: Where what was asked for begins; what stands before is there so that decisions can be repeated.
        from_ms: When that was; 0 if nobody knows before the first message.
        renamed: What templates are called in it, by the hash of what stands in it (redaction); grows while it is read.
        is_decided: It has what an everynode fleet decided; if not, it tells of a world where nobody of ours was.
        problems: Why it could not be read to its end; grows while it is read.
    """

    name: str
    subjects: wire.Subjects
    entries: Iterator[Entry]
    from_sequence: int
    from_ms: int
    renamed: Mapping[str, str]
    is_decided: bool
    problems: Sequence[str] = ()


def stream_of(reader: Reader, entries: Iterator[Entry] | None = None) -> Stream:
    """Take a recording as a stream.

    Args:
        reader: The recording.
        entries: Its messages, if somebody looks on while they are read.
    """
    header = reader.header
    return Stream(
        name=reader.name,
        subjects=wire.Subjects(header.fleet, header.shards),
        entries=reader.entries() if entries is None else entries,
        from_sequence=header.from_sequence,
        from_ms=header.from_ms,
        renamed=reader.renamed,
        is_decided=True,
    )


def entry_of(
    subjects: wire.Subjects,
    sequence: int,
    time_ms: int,
    message: wire.AnyMessage,
    *,
    is_kept: bool = False,
) -> Entry:
    """Write a message as a log would have it."""
    received = Received(sequence, time_ms, subjects.of(message), wire.encode(message))
    return Entry(received, is_kept)


def record_of(subjects: wire.Subjects, received: Received) -> Record | None:
    """Read a message; ``None`` if it cannot be used."""
    try:
        message = wire.decode(received.payload)
    except MalformedMessageError:
        return None
    if subjects.of(message) != received.subject:
        return None
    return Record(received.sequence, received.time_ms, message)


def subject_filter(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Make a test of whether a subject is one of these; they may contain the wildcards ``*`` and ``>``."""
    texts = [re.escape(each).replace(r"\*", "[^.]+").replace(">", ".+") for each in patterns]
    find = re.compile("|".join(texts)).fullmatch
    return lambda subject: find(subject) is not None
