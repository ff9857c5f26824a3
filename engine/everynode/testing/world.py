"""A small world for properties: a log, a backend and worker machines, in one thread and without waiting.

Property tests drive it step by step with random choices and look at the log and the backend afterwards. It keeps what
JetStream promises (one total order, fenced batches taken whole or not at all, STATE with the last message per subject)
and what an adapter promises (commands are carried out once, in order, and answered).
"""

from __future__ import annotations

from typing import Literal, assert_never

import msgspec
from msgspec import structs

from everynode import wire
from everynode.core.commands import (
    COMMANDS,
    AdoptPod,
    Command,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.decision import Proposal
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    NoticeReported,
    PodObserved,
    RevisionRecorded,
    StatusReported,
    Tick,
)
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Node, NodeKey, Owner, Phase, Pod, PodKey, SetKey
from everynode.runtime.ledger import pod_gone

SHARDS = 4
STEP_MS = 10
WHY_GONE = "it went"


class _Metadata(msgspec.Struct):
    labels: dict[str, str] = {}


class _Template(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class World:
    """One fleet, seen from outside.

    Args:
        limits: What its workers allow themselves.
        start_ready: A pod is ready as soon as it is made; if not, it is ``Pending`` until ``move_on``.
        stop_at_once: A pod is gone as soon as it is deleted; if not, it is on its way out until ``move_on``.

    Attributes:
        log: Every message, in the log's order.
        kept: The last message per subject, as STATE keeps it.
        nodes, pods, sets: The truth at the backend and what is wanted.
        queue: Commands that were issued and not carried out yet.
        hanging: Revisions whose pods are never ready.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        start_ready: bool = True,
        stop_at_once: bool = True,
    ) -> None:
        """Start empty, with one worker."""
        self.limits = limits or Limits()
        self.start_ready = start_ready
        self.stop_at_once = stop_at_once
        self.hanging: set[str] = set()
        self.subjects = wire.Subjects("world", SHARDS)
        self.log: list[Record] = []
        self.kept: dict[str, Record] = {}
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.sets: dict[SetKey, DaemonSet] = {}
        self.queue: list[Command] = []
        self.now_ms = 1_000
        self.refused = 0
        self._uids = 0
        self._decisions: dict[SetKey, int] = {}
        self._template_labels: dict[str, dict[str, str]] = {}  # by revision
        self.worker = self.new_worker("first")

    # The log

    def write(self, message: wire.AnyMessage) -> Record:
        """Put a message on the log; workers read it when they are told to."""
        decoded = wire.decode(wire.encode(message))
        record = Record(len(self.log) + 1, self.now_ms, decoded)
        self.log.append(record)
        subject = self.subjects.of(message)
        if subject.split(".")[2] in {kind.name for kind in wire.KINDS if kind.kept_in_state}:
            self.kept.pop(subject, None)
            self.kept[subject] = record
        if isinstance(message, Decision):
            self._decisions[message.set_key] = record.sequence
        if isinstance(message, RevisionRecorded):
            template = msgspec.json.decode(message.revision.template, type=_Template)
            self._template_labels[message.revision.hash] = template.metadata.labels
        return record

    def new_worker(self, name: str) -> WorkerMachine:
        """Start a worker as one starts after a crash: from STATE and the last minutes of the log."""
        machine = WorkerMachine(name, SHARDS, self.limits)
        for record in self.kept.values():
            machine.load(record)
        oldest_ms = self.log[-1].time_ms - self.limits.horizon_ms if self.log else 0
        for record in self.log:
            if record.time_ms >= oldest_ms:
                machine.fold(record)
        machine.passed(len(self.log))
        return machine

    def read(self, machine: WorkerMachine) -> None:
        """Let a worker read the log to its end."""
        for record in self.log[machine.fleet.sequence :]:
            machine.fold(record)

    def offer(self, machine: WorkerMachine, proposal: Proposal) -> bool:
        """Write a decision with its batch, if its fence holds; tell the worker which."""
        last = self._decisions.get(proposal.key, 0)
        if proposal.fence != last:
            self.refused += 1
            machine.refused(proposal.key, last)
            return False
        self.write(proposal.decision)
        for message in proposal.others:
            self.write(message)
            if isinstance(message, COMMANDS):
                self.queue.append(message)
        machine.accepted(proposal.key, len(self.log))
        return True

    def decide(self, machine: WorkerMachine | None = None) -> list[Proposal]:
        """Let a worker read, decide once for each set, write, and read that back."""
        machine = machine or self.worker
        self.read(machine)
        taken = [item for item in machine.proposals(1_000) if self.offer(machine, item)]
        self.read(machine)
        for status in machine.reports():
            self.write(StatusReported(status=status))
        for notice in machine.notices():
            self.write(NoticeReported(notice=notice))
        self.read(machine)
        return taken

    # The backend

    def _uid(self, prefix: str) -> str:
        self._uids += 1
        return f"{prefix}-{self._uids}"

    def put_node(self, node: Node) -> None:
        """A node joins, or is changed."""
        known = self.nodes.get(node.key)
        if known is None or known != node:
            self.nodes[node.key] = node
            self.write(NodeObserved(node=node))

    def remove_node(self, key: NodeKey) -> None:
        """A node leaves; its pods stay on record until they are deleted, as in Kubernetes."""
        node = self.nodes.pop(key)
        self.write(NodeGone(backend=key.backend, name=key.name, uid=node.uid))
        for pod in self._pods_on(key):
            if pod.deleting:
                self.remove_pod(pod.key)

    def set_node_ready(self, key: NodeKey, *, ready: bool) -> None:
        """A node's Ready condition changes, and with it its pods': on a node that is not ready none is, or stops."""
        node = self.nodes[key]
        if node.ready == ready:
            return
        since_ms = 0 if ready else self.now_ms
        self.put_node(structs.replace(node, ready=ready, unready_since_ms=since_ms))
        for pod in self._pods_on(key):
            if not ready and pod.ready:
                self.put_pod(structs.replace(pod, ready=False, ready_since_ms=0))
            elif ready and pod.phase == "Running":
                self._become_ready(pod)

    def _pods_on(self, key: NodeKey) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.node_key == key]

    def put_pod(self, pod: Pod) -> None:
        """A pod appears, or is changed; one with another owner than before comes to stand on another subject."""
        known = self.pods.get(pod.key)
        self.pods[pod.key] = pod
        self.write(PodObserved(pod=pod))
        if known is not None and known.set_key != pod.set_key:
            self.write(pod_gone(known, WHY_GONE))

    def change_pod(self, key: PodKey, *, phase: Phase, ready: bool) -> None:
        """A pod comes into another phase."""
        since_ms = self.now_ms if ready else 0
        pod = structs.replace(self.pods[key], phase=phase, ready=ready, ready_since_ms=since_ms)
        self.put_pod(pod)

    def label_pod(self, key: PodKey, labels: dict[str, str]) -> None:
        """A pod is given these labels, in place of those that it had."""
        self.put_pod(structs.replace(self.pods[key], labels=labels))

    def orphan(self, key: PodKey) -> None:
        """A pod loses its owner; its labels stay what they were."""
        pod = self.pods[key]
        labels = pod.labels
        if labels is None:
            labels = self._template_labels.get(pod.revision, {})
        self.put_pod(structs.replace(pod, owner=None, labels=labels))

    def stop_pod(self, key: PodKey) -> None:
        """A pod is deleted: it is gone, or on its way out."""
        pod = self.pods[key]
        node = self.nodes.get(pod.node_key)
        if node is None or (self.stop_at_once and node.ready):
            self.remove_pod(key)
        elif not pod.deleting:
            leaving = structs.replace(pod, deleting=True, deleting_since_ms=self.now_ms)
            self.put_pod(structs.replace(leaving, ready=False, ready_since_ms=0))

    def remove_pod(self, key: PodKey) -> None:
        """A pod is gone."""
        self.write(pod_gone(self.pods.pop(key), WHY_GONE))

    def move_on(self) -> bool:
        """What is under way on nodes that are ready comes about: pods start, get ready and are gone.

        Returns:
            Whether anything was under way.
        """
        moved = False
        for pod in list(self.pods.values()):
            node = self.nodes.get(pod.node_key)
            if node is None or not node.ready:
                continue
            if pod.deleting:
                self.remove_pod(pod.key)
                moved = True
            elif not pod.finished and not pod.ready:
                moved |= self._become_ready(pod)
        return moved

    def _become_ready(self, pod: Pod) -> bool:
        """Let a pod run, and be ready if that is its fate; says whether that changes anything."""
        ready = pod.revision not in self.hanging and not pod.deleting
        if pod.phase == "Running" and pod.ready == ready:
            return False
        self.change_pod(pod.key, phase="Running", ready=ready)
        return True

    # Commands

    def carry_out(self, *, works: bool = True) -> Outcome | None:
        """Carry out the oldest command, or fail to."""
        if not self.queue:
            return None
        command = self.queue.pop(0)
        if command.expires_ms <= self.now_ms:
            outcome = outcome_of(command, "superseded", "expired")
        elif not works:
            outcome = outcome_of(command, "failed", "the backend would not")
        else:
            outcome = self._apply(command)
        self.write(outcome)
        return outcome

    def _apply(self, command: Command) -> Outcome:
        match command:
            case CreatePod():
                return self._create(command)
            case DeletePod():
                return self._delete(command)
            case AdoptPod():
                return self._adopt(command)
            case ReleasePod():
                return self._release(command)
            case _:
                assert_never(command)

    def _create(self, command: CreatePod) -> Outcome:
        node = self.nodes.get(command.node_key)
        if node is None or node.uid != command.node_uid:
            return outcome_of(command, "superseded", "the node is gone")
        existing = self.pods.get(command.pod_key)
        if existing is None:
            existing = self._make(command, starts=self.start_ready and node.ready)
        elif existing.owner is None or existing.owner.uid != command.daemonset_uid:
            return outcome_of(command, "refused", "the name belongs to someone else")
        elif existing.deleting:
            return outcome_of(command, "failed", "the pod before it is still stopping")
        return outcome_of(command, "done", pod_uid=existing.uid)

    def _make(self, command: CreatePod, *, starts: bool) -> Pod:
        is_ready = starts and command.revision not in self.hanging
        pod = Pod(
            backend=command.backend,
            namespace=command.namespace,
            name=command.pod,
            uid=self._uid("pod"),
            node=command.node,
            node_uid=command.node_uid,
            owner=Owner(name=command.daemonset, uid=command.daemonset_uid),
            revision=command.revision,
            generation=command.generation,
            failures=command.failures,
            created_ms=self.now_ms,
            phase="Running" if starts else "Pending",
            ready=is_ready,
            ready_since_ms=self.now_ms if is_ready else 0,
        )
        self.put_pod(pod)
        return pod

    def _meant(self, command: DeletePod | AdoptPod | ReleasePod) -> Pod | None:
        """Look up the very pod that a command is about."""
        pod = self.pods.get(command.pod_key)
        return pod if pod is not None and pod.uid == command.pod_uid else None

    def _delete(self, command: DeletePod) -> Outcome:
        if self._meant(command) is not None:
            self.stop_pod(command.pod_key)
        return outcome_of(command, "done")

    def _adopt(self, command: AdoptPod) -> Outcome:
        pod = self._meant(command)
        if pod is None or pod.deleting:
            return outcome_of(command, "superseded", "the pod is gone, or on its way out")
        if pod.owner is None:
            owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
            self.put_pod(structs.replace(pod, owner=owner))
        elif pod.owner.uid != command.daemonset_uid:
            return outcome_of(command, "superseded", f"{pod.owner.name} controls the pod")
        return outcome_of(command, "done", pod_uid=pod.uid)

    def _release(self, command: ReleasePod) -> Outcome:
        pod = self._meant(command)
        if pod is not None and pod.owner is not None and pod.owner.uid == command.daemonset_uid:
            self.orphan(pod.key)
        return outcome_of(command, "done")

    # People

    def apply(self, daemonset: DaemonSet) -> None:
        """A set is applied."""
        self.sets[daemonset.key] = daemonset
        self.write(DaemonSetObserved(daemonset=daemonset))

    def apply_changed(self, daemonset: DaemonSet) -> None:
        """A set is applied as ``everynode apply`` does it: its identity is kept, a change raises the generation."""
        known = self.sets.get(daemonset.key)
        uid = known.uid if known is not None else self._uid(daemonset.name)
        generation = known.generation + 1 if known is not None else 1
        self.apply(structs.replace(daemonset, uid=uid, generation=generation))

    def delete(self, key: SetKey, cascade: Literal["background", "orphan"] = "background") -> None:
        """A set is deleted, and its pods with it or not."""
        daemonset = self.sets.pop(key)
        gone = DaemonSetGone(
            namespace=key.namespace, name=key.name, uid=daemonset.uid, cascade=cascade
        )
        self.write(gone)

    # Running

    def run(self, rounds_max: int = 500) -> int:
        """Decide and carry out until nothing happens any more; returns how many rounds that took.

        Raises:
            AssertionError: It did not come to rest.
        """
        for number in range(rounds_max):
            self.now_ms += STEP_MS
            taken = self.decide()
            worked = bool(self.queue)
            while self.queue:
                self.carry_out()
            worked |= self.move_on()
            self.read(self.worker)
            due = self.worker.due()
            if not taken and not worked and not self.worker.fleet.dirty:
                if due is None:
                    return number
                self.now_ms = max(self.now_ms, due.time_ms)
                self.write(Tick(shard=self.worker.shard(due.set_key), due_ms=due.time_ms))
        raise AssertionError(f"no rest after {rounds_max} rounds")
