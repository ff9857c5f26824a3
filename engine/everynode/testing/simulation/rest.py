"""What must be so once the faults have ended: the fleet is as it should be (L1) and silent (L2), nothing is lost (S4).

Asked again and again in the second phase of a run, until nothing is wrong any more or the time is up. It looks at the
backends and the log from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from everynode.core.commands import COMMANDS, Decision
from everynode.core.eligibility import verdict
from everynode.core.events import StatusReported
from everynode.core.identity import revision_hash
from everynode.core.selectors import selects
from everynode.core.values import DaemonSet, Node, Pod, SetKey
from everynode.testing.simulation.backend import SimulatedCluster
from everynode.testing.simulation.checks import Violation, is_available, share
from everynode.testing.simulation.history import History, Wanted


def wrong(
    history: History, clusters: Iterable[SimulatedCluster], now_ms: int, first_sequence: int
) -> list[Violation]:
    """Say what is not yet as it should be.

    Args:
        history: The log, read to its end.
        clusters: All backends of the fleet.
        now_ms: The time.
        first_sequence: The first message that the log still has.
    """
    clusters = list(clusters)
    found: list[Violation] = []
    uids = set()
    for wanted in history.wanted_now():
        uids.add(wanted.daemonset.uid)
        found += _uncovered(history, wanted, clusters, now_ms)
    for cluster in clusters:
        for pod in cluster.pods.values():
            if pod.owner is None or pod.owner.uid in uids:
                continue
            # A set that the log has lost without a trace is unknown, and not gone.
            subject = history.subjects.of_set("daemonset", SetKey(pod.namespace, pod.owner.name))
            if history.last_known(subject) is not None:
                found.append(Violation("L1", f"pod {pod.name} is left of a set that is gone"))
    found += _unobserved(history, clusters)
    return [*found, *_unanswered(history, first_sequence, now_ms)]


def _uncovered(
    history: History, wanted: Wanted, clusters: list[SimulatedCluster], now_ms: int
) -> Iterator[Violation]:
    daemonset = wanted.daemonset
    hash_ = revision_hash(daemonset.template)
    eligible = staying = 0
    for cluster in clusters:
        for node in cluster.nodes.values():
            found = verdict(wanted.constraints, node)
            pods = _pods_of(daemonset, cluster, node)
            where = f"{daemonset.key} on {cluster.backend}/{node.name}"
            if found.should_run:
                eligible += 1
                if len(pods) != 1:
                    yield Violation("L1", f"{where}: {len(pods)} pods instead of one")
                elif not is_available(daemonset, pods[0], now_ms):
                    yield Violation("L1", f"{where}: {pods[0].name} is not available")
                elif pods[0].revision != hash_:
                    staying += 1
            elif not found.may_stay and pods:
                yield Violation("L1", f"{where}: {pods[0].name} should not be there")
            elif len(pods) > 1:
                yield Violation("L1", f"{where}: {len(pods)} pods")
        for pod in cluster.pods.values():
            if _is_stray(daemonset, cluster, pod):
                yield Violation("L1", f"{daemonset.key}: {pod.name} is where it cannot belong")
    strategy = daemonset.update_strategy
    held = strategy.type == "OnDelete" or strategy.paused or strategy.selector is not None
    if not held and staying > share(strategy.partition, eligible):
        yield Violation("L1", f"{daemonset.key}: {staying} of {eligible} pods are old")
    yield from _untold(history, daemonset, eligible)


def _pods_of(daemonset: DaemonSet, cluster: SimulatedCluster, node: Node) -> list[Pod]:
    return [
        pod
        for pod in cluster.pods_on(node)
        if pod.owner is not None and pod.owner.uid == daemonset.uid
    ]


def _is_stray(daemonset: DaemonSet, cluster: SimulatedCluster, pod: Pod) -> bool:
    if pod.owner is None or pod.owner.uid != daemonset.uid:
        return False
    node = cluster.nodes.get(pod.node)
    if node is None or node.uid != pod.node_uid:
        return True
    return pod.labels is not None and not selects(daemonset.selector, pod.labels)


def _untold(history: History, daemonset: DaemonSet, eligible: int) -> Iterator[Violation]:
    """The status on the log says how it is."""
    subject = history.subjects.of_set("status", daemonset.key)
    message = history.last_known(subject)
    if not isinstance(message, StatusReported):
        yield Violation("L1", f"{daemonset.key} has no status")
        return
    status = message.status
    said = (status.desired_number_scheduled, status.number_available, status.observed_generation)
    expected = (eligible, eligible, daemonset.generation)
    if said != expected:
        yield Violation("L1", f"{daemonset.key}: the status says {said} instead of {expected}")


def _unobserved(history: History, clusters: list[SimulatedCluster]) -> Iterator[Violation]:
    """The log says of nodes and pods what is so."""
    nodes, pods = history.observed_now()
    true_nodes = {
        cluster.key_of(node): node for cluster in clusters for node in cluster.nodes.values()
    }
    for key in sorted(nodes.keys() | true_nodes.keys()):
        if nodes.get(key) != true_nodes.get(key):
            yield Violation("L1", f"the log says of node {key} {nodes.get(key)}")
    true_pods = {pod.key: pod for cluster in clusters for pod in cluster.pods.values()}
    for pod in pods:
        if true_pods.get(pod.key) != pod:
            yield Violation("L1", f"the log says {pod}, and that is not so")
    for name in sorted(true_pods.keys() - {pod.key for pod in pods}):
        yield Violation("L1", f"the log does not know {name}")


def _unanswered(history: History, first_sequence: int, now_ms: int) -> Iterator[Violation]:
    """S4: each command that is on the log was answered after it was issued.

    If the log has lost its end, answers may be lost that it had acknowledged, or commands not be handed out for which
    it takes them; then a command that has expired counts as settled.
    """
    for place in history.issued:
        command = place.message
        if not isinstance(command, COMMANDS) or place.sequence < first_sequence:
            continue
        outcomes = history.outcomes.get(command.id, ())
        if outcomes and outcomes[-1].sequence > place.sequence:
            continue
        if not history.lost_ms or now_ms < command.expires_ms:
            text = f"{command.verb} {command.pod} at {place.sequence} has no outcome"
            yield Violation("S4", text)


def last_action(history: History) -> int:
    """Return when the last decision was stored, which is also when the last command was; 0 if there was none."""
    return history.made[-1].place.time_ms if history.made else 0


def unquiet(history: History, since_ms: int) -> list[Violation]:
    """Say what was decided after everything was as it should be (L2)."""
    return [
        Violation("L2", f"{_name(made.decision)} at {made.place.sequence}, though all was done")
        for made in history.made
        if made.place.time_ms > since_ms
    ]


def _name(decision: Decision) -> SetKey:
    return decision.set_key
