"""A small world for properties: a log, a backend and worker machines, in one thread and without waiting.

Property tests drive it step by step with random choices and look at the log and the backend afterwards. It keeps what
JetStream promises (one total order, fenced batches taken whole or not at all, STATE with the last message per subject)
and what an adapter promises (commands are carried out once, in order, and answered).
"""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from everynode import wire
from everynode.core.commands import Command, CreatePod, Decision, DeletePod, Outcome, outcome_of
from everynode.core.decision import Proposal
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    StatusReported,
    Tick,
)
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Node, NodeKey, Owner, Phase, Pod, PodKey, SetKey

SHARDS = 4
STEP_MS = 10


class World:
    """One fleet, seen from outside.

    Attributes:
        log: Every message, in the log's order.
        kept: The last message per subject, as STATE keeps it.
        nodes, pods, sets: The truth at the backend and what is wanted.
        queue: Commands that were issued and not carried out yet.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        """Start empty, with one worker."""
        self.limits = limits or Limits()
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
            if isinstance(message, CreatePod | DeletePod):
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

    def put_pod(self, pod: Pod) -> None:
        """A pod appears, or is changed."""
        self.pods[pod.key] = pod
        self.write(PodObserved(pod=pod))

    def change_pod(self, key: PodKey, *, phase: Phase, ready: bool) -> None:
        """A pod comes into another phase."""
        since_ms = self.now_ms if ready else 0
        pod = structs.replace(self.pods[key], phase=phase, ready=ready, ready_since_ms=since_ms)
        self.put_pod(pod)

    def remove_pod(self, key: PodKey) -> None:
        """A pod is gone."""
        pod = self.pods.pop(key)
        self.write(
            PodGone(
                backend=pod.backend,
                namespace=pod.namespace,
                name=pod.name,
                uid=pod.uid,
                node=pod.node,
                node_uid=pod.node_uid,
                owner=pod.owner,
            )
        )

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
            outcome = (
                self._create(command) if isinstance(command, CreatePod) else self._delete(command)
            )
        self.write(outcome)
        return outcome

    def _create(self, command: CreatePod) -> Outcome:
        node = self.nodes.get(command.node_key)
        if node is None or node.uid != command.node_uid:
            return outcome_of(command, "superseded", "the node is gone")
        existing = self.pods.get(command.pod_key)
        if existing is None:
            owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
            existing = Pod(
                backend=command.backend,
                namespace=command.namespace,
                name=command.pod,
                uid=self._uid("pod"),
                node=command.node,
                node_uid=command.node_uid,
                owner=owner,
                revision=command.revision,
                created_ms=self.now_ms,
                phase="Running",
                ready=True,
                ready_since_ms=self.now_ms,
            )
            self.put_pod(existing)
        return outcome_of(command, "done", pod_uid=existing.uid)

    def _delete(self, command: DeletePod) -> Outcome:
        existing = self.pods.get(command.pod_key)
        if existing is not None and existing.uid == command.pod_uid:
            self.remove_pod(command.pod_key)
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
            self.read(self.worker)
            due = self.worker.due()
            if not taken and not worked and not self.worker.fleet.dirty:
                if due is None or not self._waits():
                    return number
                self.now_ms = max(self.now_ms, due.time_ms)
                self.write(Tick(shard=self.worker.shard(due.set_key), due_ms=due.time_ms))
        raise AssertionError(f"no rest after {rounds_max} rounds")

    def _waits(self) -> bool:
        """Say whether some node is left alone for a while, so that time must pass."""
        sets = self.worker.fleet.sets.values()
        return any(state.pending or state.cooling_nodes for state in sets)
