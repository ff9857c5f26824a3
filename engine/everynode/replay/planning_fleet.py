"""The part of a fleet that a plan is about: nodes, the planned sets and their pods, as the log or a recording has them.

Used by ``planning``; whoever reads for it asks what it wants first, because most of a fleet is not for it. It holds a
``core.state``, and lets what is on its way arrive. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import RevisionOf, shard_of
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.state import FleetState, Record
from everynode.core.values import SetKey
from everynode.errors import RefusedError
from everynode.ports import Received
from everynode.replay.durations import Durations
from everynode.replay.pods import RehearsedPods

ARRIVAL_MS_MAX = 1_000
"""How long what is on its way is waited for; what takes longer waits for something else."""

_OF_A_SET = frozenset({"daemonset", "status", "decision", "revision"})
_OF_A_SHARD = frozenset({"command", "outcome"})


class PlannedFleet:
    """What is known of a fleet before something is applied to it.

    Args:
        subjects: The fleet's subjects.
        keys: The sets that are planned; of others nothing is kept.
        naming: Says what a template is called; by its content, if nobody says otherwise.

    Attributes:
        state: What is known.
        refused: How many messages could not be used.
        shards: Those of the sets.
    """

    def __init__(
        self,
        subjects: wire.Subjects,
        keys: Iterable[SetKey],
        naming: RevisionOf | None = None,
    ) -> None:
        """Know nothing yet."""
        self.state = FleetState(Limits(), naming)
        self.refused = 0
        self._sequence = 0
        self._subjects = subjects
        self._keys = frozenset(keys)
        self.shards = frozenset(shard_of(key, subjects.shards) for key in self._keys)
        self._shards = frozenset(map(str, self.shards))
        self._places = self._shards | {wire.ORPHANS}
        self._namespaces = frozenset(wire.token(key.namespace) for key in self._keys)
        self._sets = frozenset(
            subjects.of_set(kind, key).removeprefix(f"{subjects.prefix}.")
            for kind in _OF_A_SET
            for key in self._keys
        )
        self._begins = len(subjects.prefix) + 1

    def wants(self, subject: str) -> bool:
        """Say whether a message may concern the plan, by its subject."""
        kind, _, rest = subject[self._begins :].partition(".")
        if kind == "node":
            return True
        tokens = rest.split(".")
        if kind == "pod":
            return tokens[0] in self._places and tokens[2] in self._namespaces
        if kind in _OF_A_SET:
            return ".".join((kind, *tokens[:3])) in self._sets
        if kind in _OF_A_SHARD:
            return self._subjects.parts(subject)[1] in self._shards
        return False

    def take(self, received: Received, *, is_kept: bool) -> bool:
        """Take in a message that is wanted.

        Args:
            received: The message.
            is_kept: STATE has it: it says nothing of the time.

        Returns:
            Whether it could be used; if not, nothing has changed.
        """
        self._sequence = max(self._sequence, received.sequence)
        try:
            message = wire.decode_from(self._subjects, received.subject, received.payload)
            record = Record(received.sequence, received.time_ms, message)
            if self._is_about_others(message):
                return True
            (self.state.load if is_kept else self.state.fold)(record)
        except RefusedError:
            self.refused += 1
            return False
        return True

    def _is_about_others(self, message: wire.AnyMessage) -> bool:
        """Say whether a message is about another set of the same shard."""
        match message:
            case NodeObserved() | NodeGone():
                return False
            case PodObserved(pod=pod):
                key = pod.set_key
            case PodGone():
                key = message.set_key
            case _:
                key = getattr(message, "set_key", None)
        return key is not None and key not in self._keys

    def known(self, key: SetKey) -> SetState | None:
        """Return what is known of a set."""
        return self.state.sets.get(key)

    def arrive(self, now_ms: int) -> int:
        """Let time pass up to now, and let the commands arrive that are on their way.

        Returns:
            How many they were.
        """
        self.state.pass_time(now_ms)
        pending = sorted(
            (each for state in self.state.sets.values() for each in state.pending.values()),
            key=lambda each: each.sequence,
        )
        if not pending:
            return 0
        pods = RehearsedPods(Durations())
        for node_id in self.state.index.everything:
            pods.mirror(NodeObserved(node=self.state.index.node(node_id)))
        for state in self.state.sets.values():
            for known in (*state.pods.values(), *state.orphans.values()):
                pods.mirror(PodObserved(pod=known.pod))
        pods.send(tuple(each.command for each in pending), now_ms)
        until_ms = now_ms + ARRIVAL_MS_MAX
        while (due_ms := pods.next_due_ms) is not None and due_ms <= until_ms:
            for message in pods.advance(due_ms):
                self.write(message)
        return len(pending)

    def write(self, message: wire.AnyMessage) -> None:
        """Take in a message that is not on the log, as if it came next.

        Raises:
            RefusedError: It cannot be used.
        """
        self._sequence += 1
        self.state.fold(Record(self._sequence, self.state.now_ms, message))
