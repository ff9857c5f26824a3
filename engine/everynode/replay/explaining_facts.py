"""Messages of the log as short sentences: what each says, what it changed, and who published it.

Used by ``explaining``. It knows messages, and nothing of why anybody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.eligibility import describe_taint
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
)
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Message, Node, Pod, UpdateStrategy

CHANGES_SAID_MAX = 4
"""Changes of one message that are said one by one; the others are counted."""


class Told(NamedTuple):
    """A message of the log, read.

    Attributes:
        is_kept: It is older than the log: the last of its subject, kept from before.
    """

    record: Record
    is_kept: bool


class Fact(NamedTuple):
    """A message of the log, for people.

    Attributes:
        sequence: Its place in the log.
        time_ms: When the log took it in; 0 for one that was kept from before the log begins: nobody knows any more.
        publisher: Who published it.
        what: What it says.
    """

    sequence: int
    time_ms: int
    publisher: str
    what: str


def fact_of(told: Told, before: Message | None = None, worker: str = "") -> Fact:
    """Say what a message says.

    Args:
        told: The message.
        before: The one before it about the same thing; ``None`` if there was none.
        worker: Who decided it, if it is a command.
    """
    message = told.record.message
    return Fact(
        told.record.sequence,
        0 if told.is_kept else told.record.time_ms,
        publisher_of(message, before, worker),
        sentence(message, before),
    )


def publisher_of(message: Message, before: Message | None = None, worker: str = "") -> str:
    """Say who publishes messages of this kind; arguments as for ``fact_of``."""
    match message:
        case NodeObserved(node=node):
            return _adapter(node.backend)
        case PodObserved(pod=pod):
            return _adapter(pod.backend)
        case NodeGone() | PodGone() | Outcome():
            return _adapter(message.backend)
        case DaemonSetObserved(daemonset=daemonset):
            return _keeper(daemonset.origin)
        case DaemonSetGone():
            origin = before.daemonset.origin if isinstance(before, DaemonSetObserved) else ""
            return _keeper(origin)
        case Decision():
            return f"worker {message.worker}"
        case _:
            return f"worker {worker}" if worker else "a worker"


def _adapter(backend: str) -> str:
    return f"adapter of backend {backend}"


def _keeper(origin: str) -> str:
    return f"backend {origin}" if origin else "applied to the fleet"


def sentence(message: Message, before: Message | None = None) -> str:
    """Say what a message says, and what is new in it; arguments as for ``fact_of``."""
    match message:
        case NodeObserved(node=node):
            return _node_sentence(node, before)
        case NodeGone():
            return f"node {message.name} left" + _because(message.why)
        case DaemonSetObserved(daemonset=daemonset):
            return _set_sentence(daemonset, before)
        case DaemonSetGone():
            cascade = f"DaemonSet {message.key} deleted, cascade {message.cascade}"
            return cascade + _because(message.why)
        case PodObserved(pod=pod):
            return _pod_sentence(pod, before)
        case PodGone():
            return f"pod {message.name} gone" + _because(message.why)
        case CreatePod() | DeletePod() | AdoptPod() | ReleasePod():
            return f"{message.verb} of pod {message.pod} asked for, attempt {message.attempt}"
        case Outcome():
            return f"{message.verb} {message.result}" + _because(message.message)
        case _:
            return type(message).__name__


def failure_sentence(command: Command, ended: str) -> str:
    """Say that a command did not work; ``ended`` says how it ended."""
    return f"{command.verb} of pod {command.pod}, attempt {command.attempt}: {ended}"


def _because(why: str) -> str:
    return f": {why}" if why else ""


def _joined(changes: Iterator[str]) -> str:
    said = list(changes)
    rest = len(said) - CHANGES_SAID_MAX
    if rest > 0:
        said = [*said[:CHANGES_SAID_MAX], f"{rest} more"]
    return ", ".join(said) or "told again"


# --- nodes ------------------------------------------------------------------------------------------------------------


def _node_sentence(node: Node, before: Message | None) -> str:
    if not isinstance(before, NodeObserved):
        return f"node {node.name} joined"
    if before.node.uid != node.uid:
        return f"node {node.name} made anew: another uid"
    return f"node {node.name}: " + _joined(_node_changes(before.node, node))


def _node_changes(was: Node, now: Node) -> Iterator[str]:
    yield from _label_changes(was.labels, now.labels)
    for taint in now.taints:
        if taint not in was.taints:
            yield f"taint {describe_taint(taint)} added"
    for taint in was.taints:
        if taint not in now.taints:
            yield f"taint {describe_taint(taint)} removed"
    if was.ready != now.ready:
        yield "became ready" if now.ready else "is not ready any more"
    if was.unschedulable != now.unschedulable:
        yield "cordoned" if now.unschedulable else "uncordoned"


def _label_changes(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for key, value in sorted(now.items()):
        if key not in was:
            yield f"label {key}={value} added"
        elif was[key] != value:
            yield f"label {key} changed from {was[key]!r} to {value!r}"
    for key, value in sorted(was.items()):
        if key not in now:
            yield f"label {key}={value} removed"


# --- sets -------------------------------------------------------------------------------------------------------------


def _set_sentence(daemonset: DaemonSet, before: Message | None) -> str:
    head = f"DaemonSet {daemonset.key} applied, generation {daemonset.generation}"
    if not isinstance(before, DaemonSetObserved):
        return head
    if before.daemonset.uid != daemonset.uid:
        return f"{head}: made anew, another uid"
    return f"{head}: " + _joined(_set_changes(before.daemonset, daemonset))


def _set_changes(was: DaemonSet, now: DaemonSet) -> Iterator[str]:
    if bytes(was.template) != bytes(now.template):
        yield "template changed"
    yield from _strategy_changes(was.update_strategy, now.update_strategy)
    if was.selector != now.selector:
        yield "selector changed"
    if was.backend != now.backend:
        yield f"backend changed from {was.backend or 'all'} to {now.backend or 'all'}"
    if was.min_ready_seconds != now.min_ready_seconds:
        yield f"minReadySeconds changed from {was.min_ready_seconds} to {now.min_ready_seconds}"
    if (was.labels, was.annotations) != (now.labels, now.annotations):
        yield "labels or annotations changed"
    if now.deleting and not was.deleting:
        yield "its deletion began"


def _strategy_changes(was: UpdateStrategy, now: UpdateStrategy) -> Iterator[str]:
    if was.paused != now.paused:
        yield "rollout paused" if now.paused else "rollout resumed"
    for name, old, new in (
        ("updateStrategy", was.type, now.type),
        ("maxUnavailable", was.max_unavailable, now.max_unavailable),
        ("maxSurge", was.max_surge, now.max_surge),
        ("partition", was.partition, now.partition),
    ):
        if old != new:
            yield f"{name} changed from {old} to {new}"
    if was.selector != now.selector:
        yield "the rollout is for other nodes"


# --- pods -------------------------------------------------------------------------------------------------------------


def state_of(pod: Pod) -> str:
    """Say how a pod is: ``Running, ready``."""
    if pod.deleting:
        return f"{pod.phase}, on its way out"
    if pod.finished:
        return pod.phase
    return f"{pod.phase}, {'ready' if pod.ready else 'not ready'}"


def _pod_sentence(pod: Pod, before: Message | None) -> str:
    if not isinstance(before, PodObserved) or before.pod.uid != pod.uid:
        return f"pod {pod.name} seen on node {pod.node}: {state_of(pod)}"
    return f"pod {pod.name}: " + _joined(_pod_changes(before.pod, pod))


def _pod_changes(was: Pod, now: Pod) -> Iterator[str]:
    if was.owner != now.owner:
        yield "nobody's now" if now.owner is None else f"controlled by {now.owner.name}"
    if was.labels is not None and now.labels is not None:
        yield from _label_changes(was.labels, now.labels)
    elif now.labels is not None:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(now.labels.items()))
        yield f"labels other than its template's: {labels or 'none'}"
    elif was.labels is not None:
        yield "labels as its template has them, or not told any more"
    if (was.phase, was.ready, was.deleting) != (now.phase, now.ready, now.deleting):
        yield state_of(now)
