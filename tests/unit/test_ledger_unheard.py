"""The ledger: nodes on which there are pods, and of which the log says nothing at all."""

from __future__ import annotations

import pytest

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, Owner, Pod
from everynode.runtime import ledger as ledger_module
from everynode.runtime.ledger import Fact, Ledger, pod_gone

SUBJECTS = wire.Subjects("test", 16)
WHY = "not listed"
NODE = Node(backend="b", name="n", uid="1")
POD = Pod(
    backend="b",
    namespace="ns",
    name="p",
    uid="2",
    node="n",
    node_uid="1",
    owner=Owner(name="set", uid="3"),
)
GONE = NodeGone(backend="b", name="n", uid="1", why=WHY)
HERE = NodeObserved(node=NODE)


def ledger_of(*facts: Fact) -> Ledger:
    """Make a ledger that has said these."""
    ledger = Ledger("b", SUBJECTS)
    for fact in facts:
        ledger.said(fact, SUBJECTS.of(fact))
    return ledger


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ((), []),
        ((PodObserved(pod=POD),), [GONE]),
        ((PodObserved(pod=POD), pod_gone(POD, "deleted")), []),
        ((HERE, PodObserved(pod=POD)), []),
        ((PodObserved(pod=POD), GONE), []),
        ((PodObserved(pod=POD), GONE, HERE), []),
        ((HERE,), []),
    ],
    ids=["nothing", "unheard of", "its pod left", "known", "gone", "back", "without pods"],
)
def test_a_node_is_unheard_of_while_only_its_pods_are_known(
    facts: tuple[NodeObserved | NodeGone | PodObserved | PodGone, ...], wanted: list[NodeGone]
) -> None:
    """L1: whatever the log says of a node, or if no pod is there, there is nothing to add."""
    assert wanted == ledger_of(*facts).never_heard_of(WHY)


def test_it_is_said_again_of_one_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: only so many nodes that are gone are remembered; it does no harm to say it twice."""
    monkeypatch.setattr(ledger_module, "GONE_NODES_REMEMBERED_MAX", 1)
    ledger = ledger_of(PodObserved(pod=POD), GONE)
    assert [] == ledger.never_heard_of(WHY)
    other = NodeGone(backend="b", name="other", uid="9")
    ledger.said(other, SUBJECTS.of(other))
    assert [GONE] == ledger.never_heard_of(WHY)
