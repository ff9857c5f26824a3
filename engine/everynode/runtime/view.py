"""What the log says there is now: nodes, sets, pods, revisions and statuses, as one table for people and programs.

The command line shows it; worker and host use ``last_good`` when they meet a message that cannot be read. A view only
folds what it is given: it decides nothing, and a message that is wrong changes nothing in it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec
import structlog

from everynode import wire
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
)
from everynode.core.identity import shard_of
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, PodKey, Revision, SetKey, Status
from everynode.errors import MalformedMessageError, StaleError
from everynode.ports import Received
from everynode.runtime.bus import FleetBus

MALFORMED_ENTRIES_MAX = 1_000
READS_IN_VAIN_MAX = 2  # how often STATE is read although LOG could not be followed from there

log = structlog.get_logger(__name__)


class MalformedEntry(NamedTuple):
    """A message that could not be read."""

    subject: str
    sequence: int
    error: str


class FleetView:
    """What is there, as far as the messages say that it was given.

    Attributes:
        sequence: The last place in the log that it knows something from.
        malformed: Messages that could not be read, the first 1,000; ``malformed_count`` counts all.
    """

    def __init__(self, subjects: wire.Subjects) -> None:
        """Know nothing yet."""
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.daemonsets: dict[SetKey, DaemonSet] = {}
        self.revisions: dict[tuple[SetKey, str], Revision] = {}
        self.statuses: dict[SetKey, Status] = {}
        self.malformed: list[MalformedEntry] = []
        self.malformed_count = 0
        self.sequence = 0
        self._subjects = subjects
        self._sequences: dict[str, int] = {}  # by subject: of the message that is in the tables

    def fold(self, received: Received) -> bool:
        """Take a message in. One that is older than what is known of its subject changes nothing.

        Returns:
            Whether it could be read. If not, what was known of its subject stays.
        """
        self.sequence = max(self.sequence, received.sequence)
        if received.sequence < self._sequences.get(received.subject, 0):
            return True
        try:
            message = wire.decode_from(self._subjects, received.subject, received.payload)
        except MalformedMessageError as error:
            self.malformed_count += 1
            if len(self.malformed) < MALFORMED_ENTRIES_MAX:
                entry = MalformedEntry(received.subject, received.sequence, str(error))
                self.malformed.append(entry)
            return False
        self._sequences[received.subject] = received.sequence
        self._enter(message)
        return True

    def knows(self, subject: str) -> bool:
        """Say whether a message on this subject was taken in."""
        return subject in self._sequences

    def _enter(self, message: wire.AnyMessage) -> None:
        match message:
            case NodeObserved(node=node):
                self.nodes[node.key] = node
            case NodeGone():
                self.nodes.pop(message.key, None)
            case PodObserved(pod=pod):
                self.pods[pod.key] = pod
            case PodGone():
                known = self.pods.get(message.key)
                # Another set may have a pod of this name by now, under a subject of its own.
                if known is not None and known.set_key == message.set_key:
                    del self.pods[message.key]
            case DaemonSetObserved(daemonset=daemonset):
                self.daemonsets[daemonset.key] = daemonset
            case DaemonSetGone():
                self.daemonsets.pop(message.key, None)
            case RevisionRecorded(revision=revision):
                self.revisions[revision.set_key, revision.hash] = revision
            case RevisionGone():
                self.revisions.pop((message.set_key, message.hash), None)
            case StatusReported(status=status):
                self.statuses[status.set_key] = status
            case StatusGone():
                self.statuses.pop(message.set_key, None)
            case _:
                pass  # decisions, commands and the like are no state


async def read_view(
    bus: FleetBus, kinds: Sequence[str], key: SetKey | None = None, node: str = ""
) -> FleetView:
    """Read what there is now, one's own writes included: STATE, and what it has not yet taken over from LOG.

    A subject whose last message cannot be read is shown as its last good message in LOG has it, so that garbage never
    loses an object.

    Args:
        bus: The fleet's log.
        kinds: Of ``node``, ``pod``, ``daemonset``, ``revision``, ``status``.
        key: Only this set's, as far as its subjects say so: pods of other sets of its shard are there, too.
        node: Only nodes of this name, and pods whose messages name it; empty for all.

    Raises:
        UnavailableError: The server did not answer.
    """
    view = FleetView(bus.subjects)
    text = msgspec.json.encode(node) if node else b""
    for subject in _subjects(
        bus, kinds, key, node
    ):  # one by one: the server is slow to look for several
        wanted = text if subject.startswith(f"{bus.subjects.prefix}.pod.") else b""
        last = await _fold_all(bus, view, bus.read_state([subject]), wanted)
        await _fold_all(bus, view, bus.read_log([subject], last + 1), wanted)
    view.malformed.sort(key=lambda entry: entry.sequence)
    return view


async def _fold_all(
    bus: FleetBus, view: FleetView, messages: AsyncGenerator[list[Received]], wanted: bytes
) -> int:
    """Fold what may have a text in it, or follows what had; returns the last place in the log that a message had."""
    last = 0
    async with aclosing(messages) as chunks:
        async for chunk in chunks:
            for received in chunk:
                last = max(last, received.sequence)
                is_wanted = _may_name(received.payload, wanted) or view.knows(received.subject)
                # Whose a message is that cannot be read, the last good one says.
                if (is_wanted or not _readable(bus, received)) and not view.fold(received):
                    good = await last_good(bus, received)
                    if good is not None and _may_name(good.payload, wanted):
                        view.fold(good)
    return last


def _may_name(payload: bytes, text: bytes) -> bool:
    """Say whether a message may have a text in it: as it is, or escaped."""
    return text in payload or b"\\" in payload


async def follow_view(
    bus: FleetBus, kinds: Sequence[str], key: SetKey | None = None
) -> AsyncGenerator[FleetView]:
    """Read what there is now, then again whenever something has changed.

    It is the same view each time, changed in place, or a new one after the log had to be read anew.

    Args:
        bus: The fleet's log.
        kinds: As for ``read_view``.
        key: Likewise.

    Raises:
        UnavailableError: The server did not answer to begin with.
        StaleError: STATE and LOG do not belong together.
    """
    in_vain = 0
    while True:
        end = (await bus.log_position()).last_sequence
        view = await read_view(bus, kinds, key)
        yield view
        in_vain += 1
        try:
            subjects = _subjects(bus, kinds, key)
            # What came while it was read may have been missed of some subjects. If STATE knows of what the log does not
            # have, whoever follows hears so.
            is_sound = view.sequence <= (await bus.log_position()).last_sequence
            start = end if is_sound else view.sequence
            async with aclosing(bus.follow(subjects, start + 1)) as chunks:
                async for chunk in chunks:
                    in_vain = 0
                    for received in chunk:
                        view.fold(received)
                    if chunk:
                        yield view
        except StaleError as error:
            if in_vain == READS_IN_VAIN_MAX:
                raise
            log.info("the log is read anew", reason=str(error))


async def last_good(
    bus: FleetBus, malformed: Received, usable: Callable[[Received], bool] | None = None
) -> Received | None:
    """Find the last message before a malformed one on its subject that can be used, in LOG.

    Args:
        bus: The fleet's log.
        malformed: What could not be used.
        usable: Says whether a message can be; if not given, one that can be decoded.

    Raises:
        UnavailableError: The server did not answer.
    """
    position = await bus.log_position()
    if malformed.sequence < position.first_sequence:
        return None  # LOG has let go of it, and of all before it
    usable = usable or (lambda received: _readable(bus, received))
    good: Received | None = None
    async with aclosing(bus.follow([malformed.subject], position.first_sequence)) as chunks:
        async for chunk in chunks:
            for received in chunk:
                if received.sequence >= malformed.sequence:
                    return good
                if usable(received):
                    good = received
            if not chunk:  # silence: this is the end of the subject
                return good
    return good


def _readable(bus: FleetBus, received: Received) -> bool:
    try:
        wire.decode_from(bus.subjects, received.subject, received.payload)
    except MalformedMessageError:
        return False
    return True


def _subjects(bus: FleetBus, kinds: Sequence[str], key: SetKey | None, node: str = "") -> list[str]:
    subjects = bus.subjects
    narrow: dict[str, str] = {}
    if node:
        narrow["node"] = f"{subjects.prefix}.node.*.{wire.token(node)}"
    if key is not None:
        narrow |= {
            "daemonset": subjects.of_set("daemonset", key),
            "status": subjects.of_set("status", key),
            "revision": f"{subjects.of_set('revision', key)}.*",
            "pod": f"{subjects.prefix}.pod.{shard_of(key, subjects.shards)}.>",
        }
    return [narrow.get(kind) or subjects.of_kind(kind) for kind in kinds]
