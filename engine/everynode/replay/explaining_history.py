"""What is read to explain: which subjects it takes, and the few messages of them that are kept.

Used by ``explaining``, and by the commands that hand it a log's messages. A log is read twice: once to find which node
and sets a pod belongs to, and once for what happened to them; what is kept depends on that one node, not on the fleet.
No I/O: subjects go out, entries come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from everynode import wire
from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
)
from everynode.core.identity import shard_of
from everynode.core.values import Message, NodeKey, PodKey, SetKey
from everynode.replay.explaining_facts import Told
from everynode.replay.recording import Entry
from everynode.replay.streams import record_of

# --- the pod that is asked about --------------------------------------------------------------------------------------


class Life(NamedTuple):
    """One pod of a name, from its first message to its last.

    Attributes:
        first: What was told of it first.
        last: What was told of it last before it went; the tombstone if that is all there is.
        gone: Its tombstone; ``None`` while it is there.
        sets: The sets that controlled it, the last one at the end; empty if none did.
    """

    uid: str
    first: Told
    last: Told
    gone: Told | None
    sets: tuple[SetKey, ...]

    @property
    def node_key(self) -> NodeKey:
        """The node that it was on."""
        return pod_facts(self.last).node_key


class PodSearch:
    """Finds the pods of one name.

    Args:
        subjects: The fleet's subjects.
        namespace: Their namespace.
        name: Their name.
        backend: Only this one's; empty for any.
    """

    def __init__(
        self, subjects: wire.Subjects, namespace: str, name: str, backend: str = ""
    ) -> None:
        """Start without any."""
        self._subjects = subjects
        self._pattern = ".".join(
            (
                subjects.prefix,
                "pod.*",
                wire.token(backend) if backend else "*",
                wire.token(namespace),
                wire.token(name),
            )
        )
        self._told: dict[PodKey, list[Told]] = {}

    def patterns(self) -> list[str]:
        """Name the subjects that are to be read."""
        return [self._pattern]

    def take(self, entry: Entry) -> None:
        """Take in a message from there, in the log's order."""
        record = record_of(self._subjects, entry.received)
        if record is not None and isinstance(record.message, PodObserved | PodGone):
            told = Told(record, entry.is_kept)
            self._told.setdefault(pod_facts(told).key, []).append(told)

    def found(self) -> list[PodKey]:
        """Name the pods that were found: one for each backend that had one."""
        return sorted(self._told)

    def lives(self, key: PodKey) -> list[Life]:
        """Tell the pods of a name apart by their uid, the last one at the end."""
        by_uid: dict[str, list[Told]] = {}
        for told in self._told[key]:
            by_uid.setdefault(pod_facts(told).uid, []).append(told)
        return [_life(uid, told) for uid, told in by_uid.items()]


def _life(uid: str, told: list[Told]) -> Life:
    seen = [each for each in told if isinstance(each.record.message, PodObserved)]
    last = seen[-1] if seen else told[-1]
    ends = [
        each
        for each in told
        if isinstance(each.record.message, PodGone)
        and each.record.sequence >= last.record.sequence
        # One that comes under another set's subject is no longer under the former one's, and not gone.
        and each.record.message.set_key == pod_facts(last).set_key
    ]
    owners = dict.fromkeys(pod_facts(each).set_key for each in told)
    owners[pod_facts(last).set_key] = owners.pop(pod_facts(last).set_key)
    return Life(uid, told[0], last, ends[-1] if ends else None, tuple(key for key in owners if key))


class _PodFacts(NamedTuple):
    key: PodKey
    uid: str
    node_key: NodeKey
    set_key: SetKey | None


def pod_facts(told: Told) -> _PodFacts:
    """Read which pod a message is about, where it is and whose."""
    message = told.record.message
    if isinstance(message, PodObserved):
        pod = message.pod
        return _PodFacts(pod.key, pod.uid, pod.node_key, pod.set_key)
    if isinstance(message, PodGone):
        return _PodFacts(message.key, message.uid, message.node_key, message.set_key)
    raise TypeError(f"{type(message).__name__} tells of no pod")


# --- what happened to sets on a node ----------------------------------------------------------------------------------


class Scope(NamedTuple):
    """What is asked about: sets, on the nodes of one name.

    Attributes:
        backend: The only backend whose node is meant; empty for all.
    """

    sets: tuple[SetKey, ...]
    node: str
    backend: str = ""

    def patterns(self, subjects: wire.Subjects) -> list[str]:
        """Name the subjects that are to be read, but for outcomes; they do not overlap."""
        backend = wire.token(self.backend) if self.backend else "*"
        node, prefix = wire.token(self.node), subjects.prefix
        shards = sorted({shard_of(key, subjects.shards) for key in self.sets})
        places = sorted({(shard_of(key, subjects.shards), key.namespace) for key in self.sets})
        namespaces = sorted({key.namespace for key in self.sets})
        return [
            f"{prefix}.node.{backend}.{node}",
            *(subjects.of_set("daemonset", key) for key in self.sets),
            *(subjects.of_set("decision", key) for key in self.sets),
            *(f"{prefix}.command.{backend}.{node}.{shard}.*" for shard in shards),
            *(f"{prefix}.pod.{shard}.{backend}.{wire.token(name)}.*" for shard, name in places),
            *(f"{prefix}.pod.{wire.ORPHANS}.{backend}.{wire.token(name)}.*" for name in namespaces),
        ]

    def outcome_patterns(self, subjects: wire.Subjects) -> list[str]:
        """Name the subjects of all outcomes among which those of the commands are."""
        shards = sorted({shard_of(key, subjects.shards) for key in self.sets})
        return [f"{subjects.prefix}.outcome.{shard}.*" for shard in shards]


class Issued(NamedTuple):
    """A command, and the decision that it was part of; ``None`` if the log does not have that (any more)."""

    told: Told
    command: Command
    decided: Told | None

    @property
    def decision(self) -> Decision | None:
        """What the decision says."""
        message = None if self.decided is None else self.decided.record.message
        return message if isinstance(message, Decision) else None


class History:
    """What happened to sets on the nodes of one name, in the log's order.

    Args:
        subjects: The fleet's subjects.
        scope: What is asked about.

    Attributes:
        facts: What was told of the nodes, the sets, and the pods on those nodes.
        issued: The commands for the sets on those nodes.
        outcomes: What became of commands, by id: the last that was told.
    """

    def __init__(self, subjects: wire.Subjects, scope: Scope) -> None:
        """Start before the first message."""
        self.scope = scope
        self.facts: list[Told] = []
        self.issued: list[Issued] = []
        self.outcomes: dict[str, Told] = {}
        self._subjects = subjects
        self._ids: set[str] = set()
        self._decisions: dict[SetKey, Told] = {}
        self._kinds = (f"{subjects.prefix}.pod.", f"{subjects.prefix}.outcome.")
        self._node_text = msgspec.json.encode(scope.node)

    def take(self, entry: Entry) -> None:
        """Take in the next message of the scope's subjects."""
        pods, outcomes = self._kinds
        received = entry.received
        if received.subject.startswith(pods) and self._node_text not in received.payload:
            return  # most are on other nodes: this is found before they are decoded
        if received.subject.startswith(outcomes) and not self._is_ours(received.subject):
            return
        record = record_of(self._subjects, received)
        if record is not None:
            self._enter(Told(record, entry.is_kept))

    def outcome_subjects(self) -> list[str]:
        """Name the subjects of the outcomes of the commands."""
        return [
            f"{self._subjects.prefix}.outcome."
            f"{shard_of(each.command.set_key, self._subjects.shards)}.{wire.token(each.command.id)}"
            for each in self.issued
        ]

    def _is_ours(self, subject: str) -> bool:
        return subject.rpartition(".")[2] in self._ids

    def _enter(self, told: Told) -> None:
        message = told.record.message
        match message:
            case Decision():
                self._decisions[message.set_key] = told
            case CreatePod() | DeletePod() | AdoptPod() | ReleasePod():
                if message.set_key in self.scope.sets:
                    self.issued.append(Issued(told, message, self._decision_of(message, told)))
                    self._ids.add(wire.token(message.id))
            case Outcome():
                self.outcomes[message.id] = told
            case PodObserved() | PodGone():
                facts = pod_facts(told)
                if facts.node_key.name == self.scope.node and facts.set_key in {
                    None,
                    *self.scope.sets,
                }:
                    self.facts.append(told)
            case NodeObserved() | NodeGone() | DaemonSetObserved() | DaemonSetGone():
                self.facts.append(told)
            case _:
                pass  # of no other subject is anything read

    def _decision_of(self, command: Command, told: Told) -> Told | None:
        """Find the decision in whose batch a command stands: it comes right before its commands."""
        found = self._decisions.get(command.set_key)
        if found is None or not isinstance(found.record.message, Decision):
            return None
        last = found.record.sequence + found.record.message.size
        return found if told.record.sequence <= last else None

    def before(self, told: Told) -> Message | None:
        """Return the message before one of ``facts`` that was about the same thing."""
        same = _thing(told)
        earlier: Message | None = None
        for each in self.facts:
            if each is told:
                break
            if _thing(each) == same:
                earlier = each.record.message
        return earlier

    def nodes(self) -> Iterator[NodeKey]:
        """Name the nodes that were told of."""
        keys = {
            _thing(each)
            for each in self.facts
            if isinstance(each.record.message, NodeObserved | NodeGone)
        }
        return iter(sorted(key for key in keys if isinstance(key, NodeKey)))


def _thing(told: Told) -> NodeKey | PodKey | SetKey:
    message = told.record.message
    match message:
        case NodeObserved(node=node):
            return node.key
        case DaemonSetObserved(daemonset=daemonset):
            return daemonset.key
        case NodeGone() | DaemonSetGone():
            return message.key
        case _:
            return pod_facts(told).key
