"""The backends of a rehearsal: nodes as a stream tells of them, and pods that do what commands ask for.

Used by ``rehearsal``. Pods take as long as ``durations`` says to start; whatever else happens to a pod happens because
its node, a command or the stream says so. No I/O, no clock: time comes in with each call.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, assert_never

from msgspec.structs import replace

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import derived_uid
from everynode.core.values import Node, NodeKey, Owner, Phase, Pod, PodKey
from everynode.replay.durations import Durations
from everynode.runtime.ledger import pod_gone

APPLY_MS = 10
"""How long a command is on its way to its backend: what was measured is 6 to 13 ms."""

Effect = PodObserved | PodGone | Outcome


class _Due(NamedTuple):
    time_ms: int
    ticket: int
    what: tuple[Command, ...] | _Change


class _Change(NamedTuple):
    """What becomes of a pod later; ``phase`` empty: it is ready."""

    key: PodKey
    uid: str
    phase: Phase | None


class RehearsedPods:
    """Nodes and pods, and what is due to happen to them.

    Args:
        durations: How long pods take.
    """

    def __init__(self, durations: Durations) -> None:
        """Begin with nothing."""
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self._on: dict[NodeKey, dict[PodKey, None]] = {}
        self._durations = durations
        self._due: list[_Due] = []
        self._tickets = itertools.count()
        self._unready: set[PodKey] = set()  # would be ready, were its node

    # --- what a stream tells of ---------------------------------------------------------------------------------------

    def mirror(self, message: object) -> None:
        """Take over what is so: nothing follows from it before ``begin``."""
        match message:
            case NodeObserved(node=node):
                self.nodes[node.key] = node
            case NodeGone():
                self.nodes.pop(message.key, None)
            case PodObserved(pod=pod):
                self._put(pod)
            case PodGone() if message.key in self.pods:
                known = self.pods[message.key]
                if known.uid == message.uid and known.set_key == message.set_key:
                    self._drop(known)
            case _:
                pass

    def begin(self, pending: Iterable[Command], now_ms: int) -> None:
        """Go on by itself from here: what had begun goes on, and so do the commands that were on their way."""
        for pod in list(self.pods.values()):
            if pod.deleting:
                self._later(now_ms + self._durations.stop_ms, _Change(pod.key, pod.uid, None))
            elif pod.phase == "Pending":
                self._plan_start(pod, pod.created_ms, now_ms)
        self.send(tuple(pending), now_ms)

    def node_observed(self, node: Node, now_ms: int) -> Iterator[Effect]:
        """A node is there, and this is how it is now."""
        before = self.nodes.get(node.key)
        if before is not None and before.uid != node.uid:
            yield from self.node_gone(node.key)
        self.nodes[node.key] = node
        if before is None or before.uid != node.uid or before.ready == node.ready:
            return
        for key in list(self._on.get(node.key, ())):
            pod = self.pods[key]
            if not node.ready and pod.ready:
                self._unready.add(key)
                yield self._observed(replace(pod, ready=False, ready_since_ms=0))
            elif node.ready and key in self._unready:
                self._unready.discard(key)
                yield self._observed(self._as_ready(pod, now_ms))

    def node_gone(self, key: NodeKey) -> Iterator[Effect]:
        """A node has left, and its pods with it."""
        self.nodes.pop(key, None)
        for pod_key in list(self._on.get(key, ())):
            yield self._gone(self.pods[pod_key], "node gone")

    def pod_observed(self, pod: Pod) -> Iterator[Effect]:
        """A pod of the stream is there, or what is known of it has changed, by nobody's command."""
        known = self.pods.get(pod.key)
        if known is None or known.uid != pod.uid:
            yield self._observed(pod)
            return
        told = replace(
            known,
            phase=pod.phase,
            ready=pod.ready,
            ready_since_ms=pod.ready_since_ms,
            labels=pod.labels,
        )
        if told != known:
            yield self._observed(told)

    def pod_gone(self, key: PodKey, why: str) -> Iterator[Effect]:
        """A pod of the stream has gone, by nobody's command."""
        known = self.pods.get(key)
        if known is not None:
            yield self._gone(known, why)

    # --- commands -----------------------------------------------------------------------------------------------------

    def send(self, commands: tuple[Command, ...], now_ms: int) -> None:
        """Let commands be carried out, a moment later."""
        if commands:
            self._later(now_ms + APPLY_MS, commands)

    @property
    def next_due_ms(self) -> int | None:
        """When something will happen by itself; ``None``: never."""
        return self._due[0].time_ms if self._due else None

    def advance(self, now_ms: int) -> Iterator[Effect]:
        """Let happen what is due by now."""
        while self._due and self._due[0].time_ms <= now_ms:
            what = heapq.heappop(self._due).what
            if isinstance(what, _Change):
                yield from self._change(what, now_ms)
            else:
                for command in what:
                    yield from self._carry_out(command, now_ms)

    def _carry_out(self, command: Command, now_ms: int) -> Iterator[Effect]:
        match command:
            case CreatePod():
                yield from self._create(command, now_ms)
            case DeletePod():
                yield from self._delete(command, now_ms)
            case AdoptPod():
                yield from self._adopt(command)
            case ReleasePod():
                yield from self._release(command)
            case _:
                assert_never(command)

    def _create(self, command: CreatePod, now_ms: int) -> Iterator[Effect]:
        node, known = self.nodes.get(command.node_key), self.pods.get(command.pod_key)
        if known is not None:
            if known.deleting:  # its name is free when it is gone
                self._later(now_ms + max(self._durations.stop_ms, 1), (command,))
            elif known.owner is not None and known.owner.uid == command.daemonset_uid:
                yield outcome_of(command, "done", "it was there already", known.uid)
            else:
                yield outcome_of(command, "refused", f"pod {known.name} belongs to someone else")
            return
        if node is None or node.uid != command.node_uid:
            yield outcome_of(command, "refused", f"node {command.node} is not there any more")
            return
        pod = Pod(
            backend=command.backend,
            namespace=command.namespace,
            name=command.pod,
            uid="-",
            node=command.node,
            owner=Owner(name=command.daemonset, uid=command.daemonset_uid),
            revision=command.revision,
            node_uid=command.node_uid,
            generation=command.generation,
            failures=command.failures,
            created_ms=now_ms,
        )
        fate = self._durations.of(pod)
        pod = replace(pod, uid=fate.uid or derived_uid(command.id, str(now_ms)))
        yield self._observed(pod)
        yield outcome_of(command, "done", pod_uid=pod.uid)
        self._plan_start(pod, now_ms, now_ms)

    def _delete(self, command: DeletePod, now_ms: int) -> Iterator[Effect]:
        pod = self.pods.get(command.pod_key)
        if pod is not None and pod.uid == command.pod_uid and not pod.deleting:
            if self._durations.stop_ms:
                leaving = replace(
                    pod, deleting=True, deleting_since_ms=now_ms, ready=False, ready_since_ms=0
                )
                yield self._observed(leaving)
                self._later(now_ms + self._durations.stop_ms, _Change(pod.key, pod.uid, None))
            else:
                yield self._gone(pod, command.reason)
        yield outcome_of(command, "done")

    def _adopt(self, command: AdoptPod) -> Iterator[Effect]:
        pod = self.pods.get(command.pod_key)
        if pod is None or pod.uid != command.pod_uid or pod.deleting or pod.owner is not None:
            yield outcome_of(command, "superseded", f"pod {command.pod} is not to be had")
            return
        owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
        yield from self._change_hands(pod, owner)
        yield outcome_of(command, "done", pod_uid=pod.uid)

    def _release(self, command: ReleasePod) -> Iterator[Effect]:
        pod = self.pods.get(command.pod_key)
        is_its = pod is not None and pod.owner is not None
        if pod is not None and is_its and pod.uid == command.pod_uid:
            yield from self._change_hands(pod, None)
        yield outcome_of(command, "done")

    def _change_hands(self, pod: Pod, owner: Owner | None) -> Iterator[Effect]:
        yield self._observed(replace(pod, owner=owner))
        yield pod_gone(pod, "it changed hands")

    # --- what becomes of pods -----------------------------------------------------------------------------------------

    def _plan_start(self, pod: Pod, created_ms: int, now_ms: int) -> None:
        fate = self._durations.of(pod)
        if fate.ready_ms is not None:
            ready_ms = max(created_ms + fate.ready_ms, now_ms)
            self._later(ready_ms, _Change(pod.key, pod.uid, "Running"))
        if fate.end_ms is not None:
            end_ms = max(created_ms + fate.end_ms, now_ms)
            self._later(end_ms, _Change(pod.key, pod.uid, fate.end))

    def _change(self, change: _Change, now_ms: int) -> Iterator[Effect]:
        pod = self.pods.get(change.key)
        if pod is None or pod.uid != change.uid:
            return
        if change.phase is None:
            yield self._gone(pod, "it was deleted")
        elif pod.deleting or pod.finished:
            return
        elif change.phase != "Running":
            yield self._observed(replace(pod, phase=change.phase, ready=False, ready_since_ms=0))
        elif self.nodes[pod.node_key].ready:
            yield self._observed(self._as_ready(pod, now_ms))
        else:
            self._unready.add(pod.key)

    def _as_ready(self, pod: Pod, now_ms: int) -> Pod:
        return replace(pod, phase="Running", ready=True, ready_since_ms=now_ms)

    def _observed(self, pod: Pod) -> PodObserved:
        self._put(pod)
        return PodObserved(pod=pod)

    def _gone(self, pod: Pod, why: str) -> PodGone:
        self._drop(pod)
        return pod_gone(pod, why)

    def _put(self, pod: Pod) -> None:
        self.pods[pod.key] = pod
        self._on.setdefault(pod.node_key, {})[pod.key] = None

    def _drop(self, pod: Pod) -> None:
        del self.pods[pod.key]
        self._unready.discard(pod.key)
        here = self._on[pod.node_key]
        here.pop(pod.key, None)
        if not here:
            del self._on[pod.node_key]

    def _later(self, time_ms: int, what: tuple[Command, ...] | _Change) -> None:
        heapq.heappush(self._due, _Due(time_ms, next(self._tickets), what))
