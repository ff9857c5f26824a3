"""What was ever on the simulated log, read once and kept, so that checkers can ask how things stood at any place in it.

Nothing of the engine's state is used: only the messages, and the last one of each subject up to a sequence. A log that
lost its end goes on with sequences that were used before; what was lost then counts no longer, but is still known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from everynode import wire
from everynode.core.budget import check_strategy
from everynode.core.commands import COMMANDS, Command, Decision, Outcome
from everynode.core.eligibility import Constraints, compile_constraints
from everynode.core.events import DaemonSetObserved, NodeObserved, PodGone, PodObserved
from everynode.core.selectors import check_selector
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, SetKey
from everynode.errors import RefusedError
from everynode.ports import Received
from everynode.runtime.bus import LogPosition


class Place(NamedTuple):
    """A message and where it is."""

    sequence: int
    time_ms: int
    message: wire.AnyMessage


class Wanted(NamedTuple):
    """A set as it was wanted, with its constraints."""

    daemonset: DaemonSet
    constraints: Constraints


class Made(NamedTuple):
    """A decision with its batch."""

    place: Place
    decision: Decision
    commands: list[Command]


class History:
    """The messages of one fleet's log.

    Args:
        subjects: The fleet's.
        stored: Every message ever stored, in the order in which that happened; grows while the simulation runs.
        kept: Looks up what STATE has of a subject.
        position: Says where LOG begins and ends.

    Attributes:
        commands: Every command that was ever on the log, by id.
        made: Every decision that still counts, in order.
        outcomes: Places of the outcomes that still count, by the command's id.
        sets: How a set (by uid) was ever wanted.
        created: Basis, time and name of the last create for each place of a set, revision and slot; for checkers.
        gone: Where pods, by their uid, were said to be gone.
        lost_ms: When the end of the log was last lost; 0 if it never was.
    """

    def __init__(
        self,
        subjects: wire.Subjects,
        stored: Sequence[Received],
        kept: Callable[[str], Received | None],
        position: Callable[[], LogPosition],
    ) -> None:
        """Have read nothing yet."""
        self.subjects = subjects
        self.commands: dict[str, list[Command]] = defaultdict(list)
        self.made: list[Made] = []
        self.issued: list[Place] = []
        self.outcomes: dict[str, list[Place]] = defaultdict(list)
        self.sets: dict[str, list[Wanted]] = defaultdict(list)
        self.created: dict[tuple[str, str, str, int], tuple[int, int, str]] = {}
        self.gone: dict[str, list[Place]] = defaultdict(list)
        self.lost_ms = 0
        self.unusable = 0
        self.last_sequence = 0
        self._stored = stored
        self._kept = kept
        self._position = position
        self._read = 0
        self._fresh: list[Made] = []
        self._by_subject: dict[str, list[Place]] = defaultdict(list)

    def read(self) -> None:
        """Read what was stored since."""
        while self._read < len(self._stored):
            received = self._stored[self._read]
            self._read += 1
            if received.sequence <= self.last_sequence:
                self._lose(received.sequence, received.time_ms)
            self.last_sequence = received.sequence
            self._take(received)
        _, last_sequence, last_time_ms = self._position()
        if last_sequence < self.last_sequence:
            self._lose(last_sequence + 1, last_time_ms)
            self.last_sequence = last_sequence

    def take_fresh(self) -> list[Made]:
        """Return the decisions that were read since this was last asked."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _lose(self, sequence: int, time_ms: int) -> None:
        """Forget what counts no longer: the log ends before this now."""
        self.lost_ms = max(time_ms, self.lost_ms, 1)
        tables = (
            *self._by_subject.values(),
            *self.outcomes.values(),
            *self.gone.values(),
            self.issued,
        )
        for places in tables:
            while places and places[-1].sequence >= sequence:
                places.pop()
        while self.made and self.made[-1].place.sequence >= sequence:
            self.made.pop()
        self._fresh = [made for made in self._fresh if made.place.sequence < sequence]

    def _take(self, received: Received) -> None:
        try:
            message = wire.decode_from(self.subjects, received.subject, received.payload)
        except RefusedError:
            self.unusable += 1
            return
        place = Place(received.sequence, received.time_ms, message)
        if isinstance(message, DaemonSetObserved) and not self._usable(message.daemonset):
            self.unusable += 1
            return
        if isinstance(message, Decision):
            self.made.append(Made(place, message, []))
            self._fresh.append(self.made[-1])
        elif isinstance(message, COMMANDS):
            self.commands[message.id].append(message)
            self.issued.append(place)
            if self.made and message.set_key == self.made[-1].decision.set_key:
                self.made[-1].commands.append(message)
        elif isinstance(message, PodGone):
            self.gone[message.uid].append(place)
        elif isinstance(message, Outcome):
            self.outcomes[message.id].append(place)
        self._by_subject[received.subject].append(place)

    def _usable(self, daemonset: DaemonSet) -> bool:
        try:
            constraints = compile_constraints(daemonset)
            check_strategy(daemonset)
            check_selector(daemonset)
        except RefusedError:
            return False
        self.sets[daemonset.uid].append(Wanted(daemonset, constraints))
        return True

    # --- how things stood ---------------------------------------------------------------------------------------------

    def at(self, subject: str, sequence: int) -> Place | None:
        """Return the last message that could be used on a subject, up to a sequence."""
        places = self._by_subject.get(subject)
        if not places:
            return None
        index = bisect_right(places, sequence, key=lambda place: place.sequence)
        return places[index - 1] if index else None

    def _last_of(self, kind: str, sequence: int) -> Iterator[Place]:
        prefix = f"{self.subjects.prefix}.{kind}."
        for subject in self._by_subject:
            if subject.startswith(prefix):
                place = self.at(subject, sequence)
                if place is not None:
                    yield place

    def wanted(self, key: SetKey, sequence: int) -> Wanted | None:
        """Return a set as it was wanted at a place in the log; ``None`` if it was not."""
        place = self.at(self.subjects.of_set("daemonset", key), sequence)
        if place is None or not isinstance(place.message, DaemonSetObserved):
            return None
        daemonset = place.message.daemonset
        return Wanted(daemonset, compile_constraints(daemonset))

    def last_of_pods(self, node: NodeKey, sequence: int) -> Place | None:
        """Return what was last said of any pod on a node, up to a sequence."""
        prefix = f"{self.subjects.prefix}.pod."
        found: Place | None = None
        for subject, places in self._by_subject.items():
            if not subject.startswith(prefix):
                continue
            for place in reversed(places):
                if found is not None and place.sequence < found.sequence:
                    break
                if place.sequence <= sequence and _node_of(place.message) == node:
                    found = place
                    break
        return found

    # --- how it is now ------------------------------------------------------------------------------------------------

    def last_known(self, subject: str) -> wire.AnyMessage | None:
        """Return what whoever starts now would know of a subject: what LOG lost, STATE may still have."""
        place, kept = self.at(subject, self.last_sequence), self._kept(subject)
        if place is not None and place.sequence < self._position().first_sequence:
            place = None  # LOG has let go of it
        if kept is None or (place is not None and place.sequence >= kept.sequence):
            return None if place is None else place.message
        if place is not None and place.time_ms >= self.lost_ms:
            return place.message
        try:
            return wire.decode_from(self.subjects, subject, kept.payload)
        except RefusedError:
            return None if place is None else place.message

    def wanted_now(self) -> list[Wanted]:
        """Return all sets that are wanted, in the order of their names."""
        prefix = f"{self.subjects.prefix}.daemonset."
        found = []
        for subject in sorted(self._by_subject):
            message = self.last_known(subject) if subject.startswith(prefix) else None
            if isinstance(message, DaemonSetObserved):
                daemonset = message.daemonset
                found.append(Wanted(daemonset, compile_constraints(daemonset)))
        return found

    def observed_now(self) -> tuple[dict[NodeKey, Node], list[Pod]]:
        """Return the nodes and pods as whoever starts now would know them; a pod may stand on several subjects."""
        nodes: dict[NodeKey, Node] = {}
        pods: list[Pod] = []
        kinds = tuple(f"{self.subjects.prefix}.{kind}." for kind in ("node", "pod"))
        for subject in self._by_subject:
            message = self.last_known(subject) if subject.startswith(kinds) else None
            if isinstance(message, NodeObserved):
                nodes[message.node.key] = message.node
            elif isinstance(message, PodObserved):
                pods.append(message.pod)
        return nodes, pods

    # --- how things stood, lists --------------------------------------------------------------------------------------

    def nodes(self, sequence: int) -> dict[NodeKey, Node]:
        """Return the nodes as they were known."""
        return {
            place.message.node.key: place.message.node
            for place in self._last_of("node", sequence)
            if isinstance(place.message, NodeObserved)
        }

    def pods(self, key: SetKey, sequence: int) -> list[Pod]:
        """Return the pods of a set as they were known."""
        return [
            place.message.pod
            for place in self._last_of("pod", sequence)
            if isinstance(place.message, PodObserved) and place.message.pod.set_key == key
        ]


def _node_of(message: wire.AnyMessage) -> NodeKey | None:
    if isinstance(message, PodObserved):
        return message.pod.node_key
    return message.node_key if isinstance(message, PodGone) else None
