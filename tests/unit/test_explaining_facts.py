"""What messages say that is new."""

from __future__ import annotations

import pytest
from msgspec import structs

from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved
from everynode.core.state import Record
from everynode.core.values import Message
from everynode.replay.explaining_facts import Told, fact_of
from everynode.testing.builders import daemonset, node, pod

POD = pod(daemonset(), node("a"), "p")


@pytest.mark.parametrize(
    ("before", "message", "said"),
    [
        (
            NodeObserved(node=node("a")),
            NodeObserved(node=node("a", k0="v", k1="v", k2="v", k3="v", k4="v", k5="v")),
            "node a: label k0=v added, label k1=v added, label k2=v added, label k3=v added, 2 more",
        ),
        (
            NodeObserved(node=node("a", ready=False)),
            NodeObserved(node=node("a", unschedulable=True)),
            "node a: became ready, cordoned",
        ),
        (NodeObserved(node=node("a")), NodeObserved(node=node("a")), "node a: told again"),
        (
            NodeObserved(node=node("a")),
            NodeObserved(node=node("a", uid="anew")),
            "node a made anew: another uid",
        ),
        (
            DaemonSetObserved(daemonset=daemonset()),
            DaemonSetObserved(
                daemonset=structs.replace(daemonset(min_ready_seconds=5), deleting=True)
            ),
            (
                "DaemonSet default/agent applied, generation 1: "
                "minReadySeconds changed from 0 to 5, its deletion began"
            ),
        ),
        (
            DaemonSetObserved(daemonset=daemonset()),
            DaemonSetObserved(daemonset=daemonset(uid="anew")),
            "DaemonSet default/agent applied, generation 1: made anew, another uid",
        ),
        (
            PodObserved(pod=POD),
            PodObserved(pod=structs.replace(POD, owner=None)),
            "pod p: nobody's now",
        ),
        (
            PodObserved(pod=POD),
            PodObserved(pod=structs.replace(POD, uid="anew", deleting=True)),
            f"pod p seen on node a: {POD.phase}, on its way out",
        ),
    ],
)
def test_what_changed(before: Message, message: Message, said: str) -> None:
    """Each change by itself, up to four of them."""
    assert said == fact_of(Told(Record(1, 1, message), is_kept=False), before).what
