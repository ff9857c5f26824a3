"""The backends of a rehearsal: nodes as a stream tells of them, and pods that do what commands ask for.

Used by ``rehearsal``. Commands and pods take as long as ``durations`` says; whatever else happens to a pod happens
because its node or the stream says so. A node that leaves leaves its pods behind, not ready, for the worker to delete,
as Kubernetes and the simulated backend do. No I/O, no clock: time comes in with each call.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from typing import final

import msgspec
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


@final
class _Change(msgspec.Struct, frozen=True, gc=False):
    """What becomes of a pod later; ``Running``: it is ready; ``None``: it is gone."""

    key: PodKey
    uid: str
    phase: Phase | None


_Due = tuple[int, int, Command | _Change]
"""When it is due, a ticket (of what is due at one time, what was planned first comes first), and what it is."""


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
        self._due: list[_Due] = []  # a heap
        self._tickets = itertools.count()
        self._unready: set[PodKey] = set()  # would be ready, were its node

    # --- what a stream tells of ---------------------------------------------------------------------------------------

    def mirror(self, message: object) -> None:
        """Take over what is so: nothing follows from it before ``begin``."""
        # A class that it is not is told five times as fast as by a case.
        if type(message) is PodObserved:
            self._put(message.pod)
        elif type(message) is NodeObserved:
            self.nodes[message.node.key] = message.node
        elif type(message) is NodeGone:
            self.nodes.pop(message.key, None)
        elif type(message) is PodGone:
            known = self.pods.get(message.key)
            if known is None or known.uid != message.uid:
                return
            if known.set_key == message.set_key:
                self._drop(known)

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

    def node_observed(self, node: Node, now_ms: int) -> list[Effect]:
        """A node is there, and this is how it is now."""
        effects: list[Effect] = []
        before = self.nodes.get(node.key)
        if before is not None and before.uid != node.uid:
            effects += self.node_gone(node.key)
            before = None
        self.nodes[node.key] = node
        if before is None or before.ready == node.ready:
            return effects
        for key in list(self._on.get(node.key, ())):
            pod = self.pods[key]
            if not node.ready and pod.ready:
                self._unready.add(key)
                effects.append(self._observed(_as_unready(pod)))
            elif node.ready and key in self._unready:
                self._unready.discard(key)
                effects.append(self._observed(_as_ready(pod, now_ms)))
        return effects

    def node_gone(self, key: NodeKey) -> list[Effect]:
        """A node has left; those of its pods that were on their way out have left with it."""
        effects: list[Effect] = []
        self.nodes.pop(key, None)
        for pod_key in list(self._on.get(key, ())):
            pod = self.pods[pod_key]
            self._unready.discard(pod_key)
            if pod.deleting:
                effects.append(self._gone(pod, "node gone"))
            elif pod.ready:
                effects.append(self._observed(_as_unready(pod)))
        return effects

    def pod_observed(self, pod: Pod, *, joins: bool) -> Sequence[Effect]:
        """What is known of a pod of the stream has changed, by nobody's command.

        Args:
            pod: The pod as it is there.
            joins: If it is not here, it comes; otherwise it is no pod of here.
        """
        known = self.pods.get(pod.key)
        if known is None or known.uid != pod.uid:
            return (self._observed(pod),) if joins else ()
        told = replace(
            known,
            phase=pod.phase,
            ready=pod.ready,
            ready_since_ms=pod.ready_since_ms,
            labels=pod.labels,
        )
        if told == known:
            return ()
        self._unready.discard(pod.key)
        return (self._observed(told),)

    def pod_gone(self, gone: PodGone) -> Sequence[Effect]:
        """A pod of the stream has gone, by nobody's command."""
        known = self.pods.get(gone.key)
        if known is None or known.uid != gone.uid:
            return ()
        return (self._gone(known, gone.why),)

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
        return self._due[0][0] if self._due else None

    def advance(self, now_ms: int) -> list[Effect]:
        """Let happen what is due by now."""
        effects: list[Effect] = []
        while self._due and self._due[0][0] <= now_ms:
            _, _, what = heapq.heappop(self._due)
            # A class that it is not is told five times as fast as by a case, so the frequent kinds come before those.
            if type(what) is _Change:
                effects += self._change(what, now_ms)
            elif type(what) is CreatePod:
                effects += self._create(what, now_ms)
            elif type(what) is DeletePod:
                effects += self._delete(what, now_ms)
            else:
                effects += self._change_owner(what)
        return effects

    def _create(self, command: CreatePod, now_ms: int) -> Sequence[Effect]:
        known = self.pods.get(command.pod_key)
        if known is not None:
            return self._create_again(command, known, now_ms)
        node = self.nodes.get(command.node_key)
        if node is None or node.uid != command.node_uid:
            text = f"node {command.node} is not there any more"
            return (outcome_of(command, "refused", text),)
        backend, namespace, daemonset = command.backend, command.namespace, command.daemonset
        fate = self._durations.of_named(backend, namespace, command.pod, daemonset, command.node)
        is_ready = fate.ready_ms == 0 and node.ready  # so fast that nobody saw it before
        pod = Pod(
            backend=backend,
            namespace=namespace,
            name=command.pod,
            uid=fate.uid or derived_uid(command.id, str(now_ms)),
            node=command.node,
            owner=Owner(name=daemonset, uid=command.daemonset_uid),
            revision=command.revision,
            node_uid=command.node_uid,
            generation=command.generation,
            failures=command.failures,
            phase="Running" if is_ready else "Pending",
            ready=is_ready,
            ready_since_ms=now_ms if is_ready else 0,
            created_ms=now_ms,
        )
        self._plan(pod, fate, now_ms, now_ms)
        return (self._observed(pod), outcome_of(command, "done", pod_uid=pod.uid))

    def _create_again(self, command: CreatePod, known: Pod, now_ms: int) -> Sequence[Effect]:
        """There is a pod of that name."""
        if known.deleting:  # its name is free when it is gone
            self._later(now_ms + max(self._durations.stop_ms(known), 1), command)
            return ()
        if known.owner is not None and known.owner.uid == command.daemonset_uid:
            return (outcome_of(command, "done", "it was there already", known.uid),)
        text = f"pod {known.name} belongs to someone else"
        return (outcome_of(command, "refused", text),)

    def _delete(self, command: DeletePod, now_ms: int) -> Sequence[Effect]:
        pod = self.pods.get(command.pod_key)
        done = outcome_of(command, "done")
        if pod is None or pod.uid != command.pod_uid or pod.deleting:
            return (done,)
        if pod.node_key not in self.nodes or not self._durations.stop_ms(pod):
            return (self._gone(pod, command.reason), done)
        self._unready.discard(pod.key)
        self._plan_end(pod, now_ms, now_ms)
        leaving = replace(_as_unready(pod), deleting=True, deleting_since_ms=now_ms)
        return (self._observed(leaving), done)

    def _change_owner(self, command: AdoptPod | ReleasePod) -> Sequence[Effect]:
        return self._adopt(command) if type(command) is AdoptPod else self._release(command)

    def _adopt(self, command: AdoptPod) -> Sequence[Effect]:
        pod = self.pods.get(command.pod_key)
        if pod is None or pod.uid != command.pod_uid or pod.deleting or pod.owner is not None:
            text = f"pod {command.pod} is not to be had"
            return (outcome_of(command, "superseded", text),)
        owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
        done = outcome_of(command, "done", pod_uid=pod.uid)
        return (*self._change_hands(pod, owner), done)

    def _release(self, command: ReleasePod) -> Sequence[Effect]:
        pod = self.pods.get(command.pod_key)
        done = outcome_of(command, "done")
        if pod is None or pod.owner is None or pod.uid != command.pod_uid:
            return (done,)
        return (*self._change_hands(pod, None), done)

    def _change_hands(self, pod: Pod, owner: Owner | None) -> Sequence[Effect]:
        return (self._observed(replace(pod, owner=owner)), pod_gone(pod, "it changed hands"))

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

    def _change(self, change: _Change, now_ms: int) -> Sequence[Effect]:
        pod = self.pods.get(change.key)
        if pod is None or pod.uid != change.uid:
            return ()
        if change.phase is None:
            return (self._gone(pod, "it was deleted"),)
        if pod.deleting or pod.finished:
            return ()
        if change.phase != "Running":
            self._unready.discard(change.key)
            return (self._observed(replace(_as_unready(pod), phase=change.phase)),)
        if self._is_ready(pod.node_key):
            return (self._observed(_as_ready(pod, now_ms)),)
        self._unready.add(change.key)
        return ()

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
        key = pod.key
        before = self.pods.get(key)
        self.pods[key] = pod
        if before is not None and before.node == pod.node:
            return  # it stands there already
        node_key = pod.node_key
        here = self._on.get(node_key)
        if here is None:
            self._on[node_key] = {key: None}
        else:
            here[key] = None

    def _drop(self, pod: Pod) -> None:
        key, node_key = pod.key, pod.node_key
        del self.pods[key]
        self._unready.discard(key)
        here = self._on[node_key]
        here.pop(key, None)
        if not here:
            del self._on[node_key]

    def _later(self, time_ms: int, what: Command | _Change) -> None:
        heapq.heappush(self._due, (time_ms, next(self._tickets), what))


def _as_ready(pod: Pod, now_ms: int) -> Pod:
    return replace(pod, phase="Running", ready=True, ready_since_ms=now_ms)


def _as_unready(pod: Pod) -> Pod:
    return replace(pod, ready=False, ready_since_ms=0)
