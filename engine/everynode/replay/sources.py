"""What others recorded, as a stream: what a source says happened becomes the messages that a log would have.

Used by the commands that look at the past. Sources come from packages (``ports.Source``), and one is here
(``machine_events``). A stream of theirs has no decisions: it tells of a world where nobody of ours was. As on a log,
what changes nothing is left out, and what changes hands ends where it stood before. No terminal here.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from typing import BinaryIO, cast

from msgspec import structs

from everynode import wire
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionRecorded,
    StatusGone,
    StatusReported,
)
from everynode.core.identity import derived_uid
from everynode.core.values import DaemonSet, Pod, PodKey
from everynode.errors import MalformedMessageError, RecordingError
from everynode.ports import Happened, PassedOver, RecordedFile
from everynode.replay.recording import Entry
from everynode.replay.streams import Stream, entry_of
from everynode.runtime.ledger import pod_gone
from everynode.runtime.settings import SHARDS

LINE_BYTES_MAX = 1024 * 1024 * 1024
"""The longest line that is read: a list of all pods of the largest clusters may be one."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"

Fact = (
    NodeObserved
    | NodeGone
    | PodObserved
    | PodGone
    | DaemonSetObserved
    | DaemonSetGone
    | RevisionRecorded
    | StatusReported
    | StatusGone
)


def recorded_file(name: str, file: BinaryIO) -> RecordedFile:
    """Take a file as sources want it, decompressed if it is gzip.

    Args:
        name: What to call it in errors.
        file: The file; it is not closed.
    """
    return RecordedFile(name, _lines(name, file))


def _lines(name: str, file: BinaryIO) -> Iterator[bytes]:
    """Read the lines.

    Raises:
        RecordingError: It is empty, damaged or compressed with zstd, or a line is too long.
    """
    number = 0
    try:
        begin = cast("BufferedReader", file).peek(len(_ZSTD))
        if begin.startswith(_ZSTD):
            raise RecordingError(
                f"{name}: it is compressed with zstd; if it is a recording of a fleet, leave out --from; "
                "else decompress it with zstd -d"
            )
        is_gzip = begin.startswith(_GZIP)
        text = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_gzip else file
        while line := text.readline(LINE_BYTES_MAX + 1):
            if len(line) > LINE_BYTES_MAX:
                raise RecordingError(
                    f"{name}: line {number + 1} is longer than {LINE_BYTES_MAX} bytes"
                )
            number += 1
            yield line
    except (OSError, EOFError, zlib.error) as error:
        text_ = f"{name}: it is damaged or was cut off: {error}; {number} lines could be read"
        raise RecordingError(text_) from error
    if not number:
        raise RecordingError(f"{name}: it is empty")


def stream_of_source(
    name: str,
    fleet: str,
    happened: Iterator[Happened | PassedOver],
    pass_over: Callable[[PassedOver], None],
    daemonsets: Sequence[DaemonSet] = (),
) -> Stream:
    """Make a stream of what a source says.

    Args:
        name: What to call it in errors.
        fleet: Name of the fleet.
        happened: What the source says.
        pass_over: Is told what is not used, while the stream is read.
        daemonsets: Sets that are there from the beginning, as they were read from manifests.
    """
    subjects = wire.Subjects(fleet, SHARDS)
    told = _Told(subjects, pass_over)
    return Stream(
        name=name,
        subjects=subjects,
        entries=told.entries(happened, daemonsets),
        from_sequence=len(daemonsets) + 1,
        from_ms=0,
        renamed={},
        is_decided=False,
    )


def _declared(daemonset: DaemonSet, time_ms: int) -> DaemonSetObserved:
    """Give a set from a manifest the identity that it takes: the same each time."""
    uid = derived_uid("daemonset", daemonset.namespace, daemonset.name)
    return DaemonSetObserved(daemonset=structs.replace(daemonset, uid=uid, created_ms=time_ms))


class _Told:
    """What a stream has told so far."""

    def __init__(self, subjects: wire.Subjects, pass_over: Callable[[PassedOver], None]) -> None:
        """Nothing was told."""
        self._subjects = subjects
        self._pass_over = pass_over
        self._sequence = 0
        self._last: dict[str, Fact] = {}  # by subject; what is gone is not there
        self._pods: dict[PodKey, Pod] = {}

    def entries(
        self, happened: Iterator[Happened | PassedOver], daemonsets: Sequence[DaemonSet]
    ) -> Iterator[Entry]:
        """Write down what happened; the sets that are there from the beginning come first."""
        for one in happened:
            if isinstance(one, PassedOver):
                self._pass_over(one)
                continue
            if not self._sequence:
                there = (_declared(daemonset, one.time_ms) for daemonset in daemonsets)
                yield from self._written(one.time_ms, there, is_kept=True)
            yield from self._written(one.time_ms, self._news(one.what))

    def _news(self, fact: Fact) -> Iterable[Fact]:
        """Say what a log would be told of this."""
        match fact:
            case PodObserved(pod=pod):
                before = self._pods.get(pod.key)
                self._pods[pod.key] = pod
                yield fact
                if before is not None and before.set_key != pod.set_key:
                    yield pod_gone(before, "it changed hands, or another pod has its name")
            case PodGone():
                known = self._pods.pop(fact.key, None)
                if known is not None:
                    yield pod_gone(known, fact.why)
            case _:
                yield fact

    def _written(
        self, time_ms: int, facts: Iterable[Fact], *, is_kept: bool = False
    ) -> Iterator[Entry]:
        for fact in facts:
            subject = self._subjects.of(fact)
            is_gone = isinstance(fact, wire.TOMBSTONES)
            known = self._last.get(subject)
            if known is None if is_gone else known == fact:
                continue
            try:
                entry = entry_of(self._subjects, self._sequence + 1, time_ms, fact, is_kept=is_kept)
                wire.decode(entry.received.payload)  # no server has checked what stands in a file
            except MalformedMessageError as error:
                self._pass_over(PassedOver(subject, str(error)))
                continue
            self._sequence += 1
            if is_gone:
                del self._last[subject]
            else:
                self._last[subject] = fact
            yield entry
