"""The backends of a rehearsal: nodes as a stream tells of them, and pods that do what commands ask for.

Used by ``rehearsal``. Commands and pods take as long as ``durations`` says; whatever else happens to a pod happens
because its node or the stream says so. A node that leaves leaves its pods behind, not ready, for the worker to delete,
as Kubernetes and the simulated backend do. No I/O, no clock: time comes in with each call.
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
from everynode.replay.durations import Durations, Fate
from everynode.runtime.ledger import pod_gone

Effect = PodObserved | PodGone | Outcome


class _Due(NamedTuple):
    time_ms: int
    ticket: int
    what: Command | _Change


class _Change(NamedTuple):
    """What becomes of a pod later; ``Running``: it is ready; ``None``: it is gone."""

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

    def begin(self, pending: Iterable[tuple[int, Command]], now_ms: int) -> None:
        """Go on by itself from here: what had begun goes on.

        Args:
            pending: The commands that are on their way, each with the time at which it was decided.
            now_ms: The time now.
        """
        for pod in list(self.pods.values()):
            if pod.deleting:
                self._plan_end(pod, pod.deleting_since_ms or now_ms, now_ms)
            elif pod.live and not pod.ready and not self._is_ready(pod.node_key):
                self._unready.add(pod.key)
            elif pod.phase == "Pending":
                self._plan(pod, self._durations.of(pod), pod.created_ms, now_ms)
        for asked_ms, command in pending:
            self._send(command, asked_ms, now_ms)

    def node_observed(self, node: Node, now_ms: int) -> Iterator[Effect]:
        """A node is there, and this is how it is now."""
        before = self.nodes.get(node.key)
        if before is not None and before.uid != node.uid:
            yield from self.node_gone(node.key)
            before = None
        self.nodes[node.key] = node
        if before is None or before.ready == node.ready:
            return
        for key in list(self._on.get(node.key, ())):
            pod = self.pods[key]
            if not node.ready and pod.ready:
                self._unready.add(key)
                yield self._observed(_as_unready(pod))
            elif node.ready and key in self._unready:
                self._unready.discard(key)
                yield self._observed(_as_ready(pod, now_ms))

    def node_gone(self, key: NodeKey) -> Iterator[Effect]:
        """A node has left; those of its pods that were on their way out have left with it."""
        self.nodes.pop(key, None)
        for pod_key in list(self._on.get(key, ())):
            pod = self.pods[pod_key]
            self._unready.discard(pod_key)
            if pod.deleting:
                yield self._gone(pod, "node gone")
            elif pod.ready:
                yield self._observed(_as_unready(pod))

    def pod_observed(self, pod: Pod, *, joins: bool) -> Iterator[Effect]:
        """What is known of a pod of the stream has changed, by nobody's command.

        Args:
            pod: The pod as it is there.
            joins: If it is not here, it comes; otherwise it is no pod of here.
        """
        known = self.pods.get(pod.key)
        if known is None or known.uid != pod.uid:
            if joins:
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
            self._unready.discard(pod.key)
            yield self._observed(told)

    def pod_gone(self, gone: PodGone) -> Iterator[Effect]:
        """A pod of the stream has gone, by nobody's command."""
        known = self.pods.get(gone.key)
        if known is not None and known.uid == gone.uid:
            yield self._gone(known, gone.why)

    # --- commands -----------------------------------------------------------------------------------------------------

    def send(self, commands: Iterable[Command], now_ms: int) -> None:
        """Let commands be carried out, a moment later."""
        for command in commands:
            self._send(command, now_ms, now_ms)

    def _send(self, command: Command, asked_ms: int, now_ms: int) -> None:
        self._later(max(asked_ms + self._durations.apply_ms(command), now_ms), command)

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
                yield from self._carry_out(what, now_ms)

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
                self._later(now_ms + max(self._durations.stop_ms(known), 1), command)
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
        if fate.ready_ms == 0 and node.ready:  # so fast that nobody saw it before
            pod = _as_ready(pod, now_ms)
        yield self._observed(pod)
        yield outcome_of(command, "done", pod_uid=pod.uid)
        self._plan(pod, fate, now_ms, now_ms)

    def _delete(self, command: DeletePod, now_ms: int) -> Iterator[Effect]:
        pod = self.pods.get(command.pod_key)
        if pod is not None and pod.uid == command.pod_uid and not pod.deleting:
            if pod.node_key in self.nodes and self._durations.stop_ms(pod):
                self._unready.discard(pod.key)
                yield self._observed(
                    replace(_as_unready(pod), deleting=True, deleting_since_ms=now_ms)
                )
                self._plan_end(pod, now_ms, now_ms)
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

    def _plan(self, pod: Pod, fate: Fate, heard_ms: int, now_ms: int) -> None:
        """Let a pod meet its fate; ``heard_ms``: when it was first heard of."""
        if fate.ready_ms is not None and not pod.ready:
            ready_ms = max(heard_ms + fate.ready_ms, now_ms)
            self._later(ready_ms, _Change(pod.key, pod.uid, "Running"))
        if fate.end_ms is not None:
            end_ms = max(heard_ms + fate.end_ms, now_ms)
            self._later(end_ms, _Change(pod.key, pod.uid, fate.end))

    def _plan_end(self, pod: Pod, leaving_ms: int, now_ms: int) -> None:
        gone_ms = max(leaving_ms + self._durations.stop_ms(pod), now_ms)
        self._later(gone_ms, _Change(pod.key, pod.uid, None))

    def _change(self, change: _Change, now_ms: int) -> Iterator[Effect]:
        pod = self.pods.get(change.key)
        if pod is None or pod.uid != change.uid:
            return
        if change.phase is None:
            yield self._gone(pod, "it was deleted")
        elif pod.deleting or pod.finished:
            return
        elif change.phase != "Running":
            self._unready.discard(pod.key)
            yield self._observed(replace(_as_unready(pod), phase=change.phase))
        elif self._is_ready(pod.node_key):
            yield self._observed(_as_ready(pod, now_ms))
        else:
            self._unready.add(pod.key)

    def _is_ready(self, key: NodeKey) -> bool:
        node = self.nodes.get(key)
        return node is not None and node.ready

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

    def _later(self, time_ms: int, what: Command | _Change) -> None:
        heapq.heappush(self._due, _Due(time_ms, next(self._tickets), what))


def _as_ready(pod: Pod, now_ms: int) -> Pod:
    return replace(pod, phase="Running", ready=True, ready_since_ms=now_ms)


def _as_unready(pod: Pod) -> Pod:
    return replace(pod, ready=False, ready_since_ms=0)
