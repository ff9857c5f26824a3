"""What the core's surroundings promise each other: the log, adapters, time.

Protocols only; the runtime implements ``Bus`` and ``Clock``, adapters implement ``Adapter``. This module knows the
core's values and nothing of NATS, Kubernetes or files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from everynode.core.commands import Command, Outcome
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    NoticeReported,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
)
from everynode.core.values import Node, NodeKey, Pod, PodKey


class Outgoing(NamedTuple):
    """A message on its way to the log.

    Attributes:
        ttl_seconds: After how long the server drops it (tombstones); ``None``: with the log's own age limit.
    """

    subject: str
    payload: bytes
    ttl_seconds: int | None = None


class Received(msgspec.Struct, frozen=True, order=True, gc=False):
    """A message as the log has it.

    Attributes:
        sequence: Its place in LOG, also when it was read from STATE; 0 if LOG no longer has it.
        time_ms: When LOG took it in, by the server's clock. When it was read from STATE: when STATE did.
    """

    sequence: int
    time_ms: int
    subject: str
    payload: bytes


class Delivery(Protocol):
    """One command as the log hands it out; it comes again until it is acknowledged."""

    received: Received
    delivery_count: int

    async def ack(self) -> None:
        """Say that its outcome is stored; it will not come again. Repeating this is harmless."""
        ...

    async def nak(self, delay_ms: int) -> None:
        """Ask for it again after a delay."""
        ...

    async def in_progress(self) -> None:
        """Say that it is still being worked on, so that it is not handed out again yet."""
        ...


class Bus(Protocol):
    """The log of one fleet, and what goes beside it."""

    async def publish(self, messages: Sequence[Outgoing]) -> int:
        """Store messages in this order and return the last one's sequence.

        Each run of up to 1,000 is taken whole or not at all.

        Raises:
            UnavailableError: Nothing of the run that failed was stored; runs before it were.
            OutcomeUnknownError: There was no answer.
        """
        ...

    @property
    def epoch(self) -> int:
        """Another number after each time that the connection was lost: what answers now may be an older copy."""
        ...

    async def publish_fenced(
        self, messages: Sequence[Outgoing], expected_sequence: int, epoch: int | None = None
    ) -> int:
        """Store 1 to 1,000 messages whole if ``expected_sequence`` is still the last on the first one's subject.

        Args:
            messages: The messages.
            expected_sequence: 0: there is none on that subject.
            epoch: In which the writer has made sure that the log still has what it read; in another, nothing is sent.

        Returns:
            The sequence of the last message.

        Raises:
            StaleError: Someone else wrote to that subject first; nothing was stored.
            UnavailableError: Nothing was stored.
            OutcomeUnknownError: There was no answer.
        """
        ...

    async def last(self, subject: str) -> Received | None:
        """Read the last message on a subject: from LOG, or from STATE (sequence 0) once LOG has let go of it."""
        ...

    def read_state(self, subjects: Sequence[str]) -> AsyncIterator[list[Received]]:
        """Read STATE once, from its first to what was its last message when reading began, in the log's order."""
        ...

    def follow(self, subjects: Sequence[str], from_sequence: int) -> AsyncIterator[list[Received]]:
        """Read LOG from a sequence on, in order, without a gap, for ever; an empty list is a sign of life.

        Survives restarts of the server. Closing the iterator ends it.

        Raises:
            StaleError: The log ends before a sequence that was already read: it is another log, or an older
                copy; whoever follows must start again from STATE.
        """
        ...

    def commands(self, backend: str, in_flight_max: int) -> AsyncIterator[Delivery]:
        """Hand out the commands for one backend, in order, at least once each, shared by all who ask."""
        ...

    async def announce(self, subject: str, payload: bytes) -> None:
        """Say something beside the log to whoever listens now; nobody has to."""
        ...

    async def request(self, subject: str, payload: bytes, timeout_ms: int) -> bytes:
        """Ask something beside the log.

        Raises:
            UnavailableError: Nobody answered in time.
        """
        ...

    async def serve(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer requests on a subject beside the log, until ``stop_serving`` or the bus is closed."""
        ...

    async def stop_serving(self, subject: str) -> None:
        """Answer no more on a subject; repeating this is harmless."""
        ...


class Clock(Protocol):
    """Time for those who must wait. Nothing that is decided depends on it."""

    def now_ms(self) -> int:
        """Milliseconds since 1970, by this machine's clock."""
        ...

    async def sleep_ms(self, duration_ms: int) -> None:
        """Wait."""
        ...


Kind = Literal["nodes", "pods", "daemonsets"]


class ListBegun(NamedTuple):
    """The adapter starts to list everything of a kind; what it names until ``ListEnded`` is all there is."""

    kind: Kind


class ListEnded(NamedTuple):
    """The list is complete: what the log knows and the list did not name is gone."""

    kind: Kind


Declaration = DaemonSetObserved | DaemonSetGone | RevisionRecorded
"""What a backend says that keeps sets as objects of its own."""

Observation = NodeObserved | NodeGone | PodObserved | PodGone | Declaration | ListBegun | ListEnded

Report = StatusReported | RevisionRecorded | RevisionGone | NoticeReported
"""What the fleet has to say about a set, to a backend that keeps the set."""


class View(Protocol):
    """What the log knows of one backend; changes as the log grows."""

    @property
    def nodes(self) -> Mapping[NodeKey, Node]:
        """The backend's nodes."""
        ...

    @property
    def pods(self) -> Mapping[PodKey, Pod]:
        """The backend's pods of this fleet's sets, and its orphans: pods that nobody controls."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """One backend, seen and changed. Everything else is done by the adapter host (``runtime.host``)."""

    backend: str
    """Name of the backend in this fleet."""

    identity: str
    """Which backend this really is (a cluster's uid, say): a fleet refuses another one under the same name."""

    def observe(self, known: View) -> AsyncIterator[Observation]:
        """Say what is, then what changes, for ever.

        First a complete list of nodes and one of pods (between ``ListBegun`` and ``ListEnded``), then changes as
        they come. After any doubt, list again. Repeats are harmless: the host publishes only differences.

        Pods are those of this fleet's sets, with their owner, and orphans: pods that nobody controls, with ``owner``
        ``None`` and their labels, if the backend can have any. A pod that changes hands is observed as it is then; the
        host ends it where it stood before. Of a pod that is gone only ``uid`` and ``owner`` must be right: the host
        adds what the log knows.

        A backend that keeps sets as objects of its own lists those too, after the pods, with ``origin`` and ``backend``
        its name and the identity and generation that they have there. The revisions that it has of a set come before
        the set. Of a set that is gone, ``cascade`` is ``backend`` if the backend sees to its pods.

        Raises:
            UnavailableError: The backend cannot be reached; the host waits and calls this again.
        """
        ...

    async def apply(self, command: Command) -> Outcome:
        """Make it so, and say what became of it. Idempotent: a repeat is harmless and says the same.

        A create whose pod exists and is ours is done; one whose name belongs to someone else is refused. The pod is
        observed with the create's ``revision``, ``generation`` and ``failures``.
        A delete applies only to the pod with that uid; if that one is gone, it is done.
        An adoption makes the set the controller of the pod with that uid, if nobody is. If the set is already, it is
        done; if somebody else is, or the pod is on its way out or gone, superseded. So it is if the backend knows
        sets, and this one is gone or being deleted.
        A release makes an orphan of the pod with that uid, and leaves it as it is. If it is gone, or not the set's,
        it is done.

        Raises:
            UnavailableError: Nothing happened; the host tries again later.
            OutcomeUnknownError: It may have happened; the host calls again, and ``apply`` looks first.
        """
        ...


@runtime_checkable
class Reporting(Protocol):
    """An adapter whose backend keeps sets of its own, and shows people how they are."""

    async def report(self, report: Report) -> None:
        """Have the backend show what the fleet says of a set. Idempotent; only what is about a set of its own counts.

        Called with everything there is to say when the host starts, then with each change, one set's reports one after
        the other; and again whenever the adapter has observed that set.

        Raises:
            UnavailableError: Not now; the host calls again later.
            OutcomeUnknownError: Likewise.
            RefusedError: The backend will not show it; the host reports that and goes on.
        """
        ...


class Finding(NamedTuple):
    """What a look at a backend found, before an adapter runs there or when one does not work.

    Attributes:
        check: What was looked at.
        result: ``failed``: an adapter cannot work so. ``unknown``: it could not be found out.
        detail: What was found, for people, and what to do about it.
    """

    check: str
    result: Literal["ok", "warning", "failed", "unknown"]
    detail: str = ""


class Doctor(Protocol):
    """Looks at a backend for people; a package names one in the entry point group ``everynode.doctors``."""

    async def __call__(
        self, backend: str, options: Mapping[str, str], recorded: Mapping[str, str] | None
    ) -> Sequence[Finding]:
        """Find out whether an adapter could work; whatever is wrong is a finding, and not an error.

        Args:
            backend: What the fleet calls the backend, or would.
            options: Those that the adapter is made from.
            recorded: The identities of the fleet's backends by their names; ``None`` if the fleet does not answer.
        """
        ...


class RecordedFile(NamedTuple):
    """A file in which somebody else recorded a backend.

    Attributes:
        name: What to call it in errors.
        lines: Its lines, each with its end, to be read once; reading may raise ``RecordingError``.
    """

    name: str
    lines: Iterator[bytes]


class Happened(NamedTuple):
    """Something that a recorded file says; a status is that of whoever looked after the set.

    Attributes:
        time_ms: When it was, in ms since 1970, as well as can be told; never less than of what comes before.
    """

    time_ms: int
    what: (
        NodeObserved | NodeGone | PodObserved | PodGone | Declaration | StatusReported | StatusGone
    )


class PassedOver(NamedTuple):
    """Something in a recorded file that is not used.

    Attributes:
        where: The file and the place in it, for people.
        why: What was wrong, for people.
        is_fault: It should have been usable; if not, it is only of no concern.
    """

    where: str
    why: str
    is_fault: bool = True


class Source(Protocol):
    """Reads what others recorded of a backend; named in the entry point group ``everynode.sources``."""

    def __call__(
        self, files: Sequence[RecordedFile], backend: str
    ) -> Iterator[Happened | PassedOver]:
        """Say what happened, in its order; repeats are harmless. Memory is that of the backend, not of the files.

        Args:
            files: What was recorded, all of one backend.
            backend: Name of the backend.

        Raises:
            RecordingError: A file cannot be read to its end; all that could be read was handed out.
        """
        ...


@runtime_checkable
class Controllable(Protocol):
    """An adapter whose backend people may act on through the fleet, to try things (the simulated one)."""

    async def control(self, request: Mapping[str, object]) -> dict[str, object]:
        """Carry out a request that came over the network, and say what is so now.

        Args:
            request: Decoded JSON, not to be trusted; ``verb`` says what is asked for.

        Raises:
            RefusedError: The request is wrong, or what it names is not there.
        """
        ...
